"""An Active Directory domain in place of MIT's KDC: the checks of ``inside_active_directory.py``, in namespaces."""

import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PREPARE = """
set -e
ip link set lo up
ip address add 10.203.7.1/24 dev lo
hostname dc1
mount -t tmpfs tmpfs /var/lib/samba
mkdir /var/lib/samba/private
printf '127.0.0.1 localhost\\n10.203.7.1 dc1.realm.test dc1\\n' > /var/lib/samba/hosts
mount --bind /var/lib/samba/hosts /etc/hosts
echo nameserver 10.203.7.1 > /var/lib/samba/resolv
mount --bind /var/lib/samba/resolv /etc/resolv.conf
exec "$@"
"""


def test_active_directory(proof):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-s"]
    inside = ["unshare", "-m", "-n", "-u", "--propagation", "private", "sh", "-c", PREPARE, "sh", *command]
    done = subprocess.run(
        [*inside, str(HERE / "inside_active_directory.py")],
        cwd=HERE.parent.parent,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}:{os.environ.get('PYTHONPATH', '')}"},
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    for what, evidence in re.findall(r"^PROOF (.*?): (.*)$", done.stdout, re.M):
        proof(f"Active Directory: {what}", evidence)
    proof("Active Directory", done.stdout.strip().splitlines()[-1])
