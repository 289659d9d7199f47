"""hipercow for Python on a share that laptop and nodes really mount: SMB here, krb5p NFS there, both in the kernel.

The sandbox's laptop has no kernel of its own, so one of the two nodes plays it: alice's session there is a job, whose
ticket her SMB mount uses and which logs in with it (Negotiate). Her tasks run on the other node.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from kernel_cluster import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("kernel")]
Proof = Callable[[str, object], None]

# What she types, in a shell that stops at the first thing that fails.
SESSION = """\
#!/bin/bash
export HOME=/tmp/laptop-$SLURM_JOB_ID
mkdir -p $HOME /cifs/alice/project
cd /cifs/alice/project
cat >ca.pem <<'END'
{ca}
END
bash -e >session 2>&1 <<'END' || echo stopped >>session
findmnt -no FSTYPE -T .
us="hipercow-python -m hipercow_slurm"
$us login --kerberos --url https://head.sandbox.test:8443 --ca ca.pem
$us hipercow init .
$us hipercow driver configure slurm
$us hipercow task create -- sh -c 'hostname; pwd; stat -fc %T .; echo $((6 * 7)) >answer' | tee created
task=$(tail -1 created)
$us hipercow task wait $task
echo status: $($us hipercow task status $task)
echo log: $($us hipercow task log $task)
echo answer: $(cat answer)
END
rm -rf $HOME
"""


def test_a_project_on_smb_here_and_nfs_there(cluster: Cluster, proof: Proof) -> None:
    """Another folder, mode or line end on one of the two sides, and tasks never find their files."""
    laptop = cluster.alice.laptop
    laptop.login()
    ca = str(cluster.sandbox.read("laptop", "/etc/hipercow-slurm/ca.pem"))
    job_id = laptop.submit(SESSION.replace("{ca}", ca.strip()), "-J", "laptop", "-w", "k1", "--exclusive", "-t", "10")
    cluster.operator.job_ended(job_id, within_s=300)
    said = cluster.sandbox.run("files", ["cat", "/srv/data/alice/project/session"]).stdout
    lines = said.splitlines()
    assert lines[0] == "cifs" and "status: success" in lines and "answer: 42" in lines, said
    assert "log: k2 /data/alice/project nfs" in lines, said
    proof("hipercow: project over SMB, task over NFS", json.dumps(lines[-3:]))
