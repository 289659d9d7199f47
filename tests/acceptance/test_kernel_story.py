"""The design's story on nodes with a Linux kernel of their own: NFSv4.2 and SMB mounts with Kerberos, real upcalls.

One job that outlives three tickets runs on k2 while the other tests work, mostly on k1.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
from kernel_cluster import NODES, TICKET_LIFE_S, UID, Cluster, watching, without_an_error

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("kernel")]

LONG_S = 3 * TICKET_LIFE_S + 10
Proof = Callable[[str, object], None]


@pytest.fixture(scope="module")
def long_job(cluster: Cluster) -> Iterator[int]:
    """alice's job on k2 that outlives three tickets, writing all the time."""
    cluster.alice.laptop.login()
    yield cluster.alice.laptop.submit(watching(LONG_S, "/data/alice"), "-J", "long", "-t", "10", "-w", "k2")


@pytest.fixture(scope="module", autouse=True)
def started(long_job: int) -> float:
    return time.monotonic()


def test_nodes_have_kernels_of_their_own_and_kerberized_mounts(cluster: Cluster, proof: Proof) -> None:
    here = cluster.sandbox.run("head", ["uname", "-r"]).stdout.strip()
    for node in NODES:
        kernel = cluster.on(node, "uname", "-r", check=True).stdout.strip()
        assert kernel != here
        mounts = cluster.on(node, "grep", "-E", " (nfs4|cifs) ", "/proc/mounts", check=True).stdout
        nfs = [line for line in mounts.splitlines() if " nfs4 " in line]
        assert len(nfs) == 2 and all("sec=krb5p" in line and "vers=4.2" in line for line in nfs), mounts
        assert all(word in mounts for word in (" cifs ", "vers=3.1.1", "sec=krb5,", "multiuser", "seal")), mounts
        proof(
            f"{node}: kernel, mounts", f"Linux {kernel} (machine: {here}), NFS 4.2 krb5p at /home /data, SMB at /cifs"
        )


def test_submitted_over_http_output_and_folder_on_the_mount(cluster: Cluster, proof: Proof) -> None:
    laptop = cluster.alice.laptop
    job_id = laptop.submit(
        "#!/bin/bash\npwd; stat -fc %T .; srun -N2 -n2 sh -c 'hostname; cat /data/alice/secret'\n", "-N", "2"
    )
    job = laptop.ended(job_id, within_s=120)
    output = laptop.logs(job_id)
    assert job["state"] == "COMPLETED", output
    assert output.splitlines()[:2] == ["/home/alice", "nfs"], output
    assert output.count("secret of alice") == 2 and all(node in output for node in NODES), output
    owner = cluster.sandbox.run("files", ["sh", "-c", "stat -c %u /srv/home/alice/*"]).stdout.split()
    assert set(owner) == {str(UID["alice"])}, owner
    for node in NODES:
        cluster.nothing_left(node, job_id, UID["alice"])
    proof("laptop -> HTTP -> job on both nodes", f"job {job_id}: {json.dumps(output)}")


def test_ssh_with_the_password_then_srun_and_sbatch(cluster: Cluster, proof: Proof) -> None:
    """pam_krb5 makes the ticket, munge tells Slurm who it is, the plugin hands the ticket over."""
    alice = cluster.alice
    ticket = alice.ssh("klist").stdout
    assert "Default principal: alice@SANDBOX.TEST" in ticket, ticket
    proof("ssh, password, pam_krb5", " ".join(ticket.split()[:6]))
    told = alice.ssh(
        "srun", "-w", "k1", "-D", "/home/alice", "sh", "-c", "pwd; cat /data/alice/secret; klist | head -1"
    ).stdout
    assert "secret of alice" in told and f"FILE:/tmp/krb5cc_{UID['alice']}_" in told, told
    proof("srun on the login node", json.dumps(told))
    job_id = alice.sbatch("#!/bin/bash\ncat /data/alice/secret >copy\ncat copy\n", "-w", "k1", "-o", "by-sbatch")
    cluster.operator.job_ended(job_id, within_s=60)
    output = cluster.sandbox.run("files", ["cat", "/srv/home/alice/by-sbatch", "/srv/home/alice/copy"]).stdout
    assert output == "secret of alice\n" * 2, output
    proof("sbatch on the login node", f"job {job_id} wrote its output over krb5p: {json.dumps(output)}")


def test_job_outlives_three_tickets_while_writing(cluster: Cluster, long_job: int, proof: Proof) -> None:
    done, changes = cluster.outcome("k2", long_job, within_s=LONG_S + 120)
    proof(f"{LONG_S} s job, tickets of {TICKET_LIFE_S} s, NFS", without_an_error(done, changes, LONG_S))
    job = cluster.operator.job_ended(long_job, within_s=30)
    assert job["JobState"] == "COMPLETED", job
    cluster.nothing_left("k2", long_job, UID["alice"])
