"""Both KCM daemons of Debian 12: a job always finds its ticket there, also while it is replaced by a newer one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_box import Site, make_site, until
from auksd_box import login, uid_of
from test_agent_places import LOOK

from hipercow_slurm.krb5 import ccache, krbcred

GAMES = uid_of("games")
NAME = f"KCM:{GAMES}:4000000001"
REPLACED_S = 10.0
# Heimdal's daemon is read in two steps, a list and then each of it, and libkrb5 takes an entry that went in between for
# the end. Who looks without a pause hits that in one of twenty replacements; asking for a ticket by name is one step.
RACES = 5
SOCKET = "/run/.heim_org.h5l.kcm-socket"
# Both have one place for their socket; here in a /run of their own, which the test's programs enter.
DAEMONS = {
    "sssd": """
for folder in /etc/sssd /var/lib/sss; do mkdir -p $folder; mount -t tmpfs none $folder; done
mkdir -p /var/lib/sss/db /var/lib/sss/secrets /var/lib/sss/mc /var/lib/sss/pipes/private
printf '[sssd]\\nservices =\\ndomains =\\n[kcm]\\n' >/etc/sssd/sssd.conf
chmod 600 /etc/sssd/sssd.conf
exec /usr/libexec/sssd/sssd_kcm --logger=stderr
""",
    "heimdal": "MALLOC_PERTURB_=165 exec /usr/sbin/kcm",  # see test_kernel_places.py
}
# As the agent's child does, one content after the other.
WRITE = """
import sys, time
from hipercow_slurm.krb5 import ccfile, ccread, ccwrite
contents = [ccfile.parse(open(path, "rb").read())[1] for path in sys.argv[3:]]
ends, times = time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < ends:
    ccwrite.store_tickets(sys.argv[1], contents[times % 2])
    times += 1
    (there,) = [one for one in ccread.read_all(sys.argv[1])[1]]
    assert there.ticket_der == contents[(times - 1) % 2][0].ticket_der, "the old one stayed"
print(times)
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    yield from make_site()


@pytest.fixture(params=DAEMONS)
def daemon(request: pytest.FixtureRequest, site: Site) -> Iterator[subprocess.Popen[bytes]]:
    log = site.folder / f"{request.param}.log"
    start = f"mount -t tmpfs none /run && {DAEMONS[request.param].lstrip()}"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", start]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            place = Path(f"/proc/{process.pid}/root{SOCKET}")
            until(f"the daemon listens: {log}", place.exists, 30)
            yield process
        finally:
            process.kill()


def program(daemon: subprocess.Popen[bytes], text: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python program of a user's, where the daemon is."""
    enter = ["nsenter", f"--target={daemon.pid}", "--mount", "setpriv", f"--reuid={GAMES}", f"--regid={GAMES}"]
    command = [*enter, "--clear-groups", sys.executable, "-P", "-c", text, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd="/", stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_there_is_no_moment_without_a_ticket(
    site: Site, daemon: subprocess.Popen[bytes], request: pytest.FixtureRequest, proof: Callable[[str, object], None]
) -> None:
    contents = []
    for number in range(2):
        path = site.folder / f"content-{number}"
        path.write_bytes(ccache.file_of(krbcred.tickets(login(site.folder, "games"))))
        path.chmod(0o644)
        contents.append(path)
        time.sleep(1.1)  # times of tickets are whole seconds
    first = program(daemon, WRITE, NAME, 0.01, *contents)
    assert first.wait(60) == 0, first.communicate()
    looking = program(daemon, LOOK, NAME)
    assert looking.stdout is not None
    assert looking.stdout.readline() == "looking\n"
    writing = program(daemon, WRITE, NAME, REPLACED_S, *contents)
    said, problem = writing.communicate(timeout=60)
    seen, _ = looking.communicate("", timeout=60)
    assert writing.returncode == 0, problem
    looks, missed, what = seen.split(maxsplit=2)
    most = 0 if "sssd" in request.node.name else RACES
    assert int(missed) <= most, f"{missed} of {looks} looks found no ticket in {said} replacements: {what}"
    assert int(looks) > 100 and int(said) >= 5, (seen, said)
    proof(f"KCM {request.node.name}", f"{looks} looks, {said.strip()} replacements, {missed} without a ticket")
