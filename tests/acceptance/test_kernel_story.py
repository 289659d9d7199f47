"""The design's story on nodes with a Linux kernel of their own: NFSv4.2 and SMB mounts with Kerberos, real upcalls.

One job that outlives three tickets runs on k2 while the other tests work, mostly on k1.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import kernel_hops
import pytest
from kernel_cluster import NODES, POLL_S, TICKET_LIFE_S, UID, Cluster, expiry, watching, without_an_error

from hipercow_slurm.testing.sandbox.fileservers import CONTEXT_TIMEOUT_S
from hipercow_slurm.testing.story import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("kernel")]

LONG_S = 3 * TICKET_LIFE_S + 10
HOPS = Path(__file__).parents[2] / "build" / "life-of-a-ticket.md"
Proof = Callable[[str, object], None]


@pytest.fixture(scope="module", autouse=True)
def long_job(cluster: Cluster) -> int:
    """alice's job on k2 that outlives three tickets; started before the first test, so that it costs no time."""
    cluster.alice.laptop.login()
    return cluster.alice.laptop.submit(watching(LONG_S, "/data/alice"), "-J", "long", "-t", "10", "-w", "k2")


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


def test_fresh_login_reaches_the_running_job(cluster: Cluster, long_job: int, proof: Proof) -> None:
    """Early in this file: on a slow machine the long job is over when the others are."""
    before = cluster.operator.installed("k2", UID["alice"], long_job)
    began = time.monotonic()
    cluster.alice.laptop.login()

    def fresh() -> dict[str, object] | None:
        seen = cluster.operator.ccache("k2", UID["alice"], long_job)
        return seen if seen.get("renew_till", 0) > before["renew_till"] else None

    eventually("the fresh login's ticket in the job's ccache", fresh, within_s=POLL_S + 15)
    proof("a fresh login reaches a running job", f"within {time.monotonic() - began:.0f} s (poll_s = {POLL_S})")


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


def test_root_on_the_node_is_refused_by_the_server(cluster: Cluster, proof: Proof) -> None:
    """root has the machine's ticket, and the server makes nobody of it. (What root can still do: trust.md)"""
    told = {}
    for mount in ("/data", "/cifs"):
        for command in (["cat", f"{mount}/alice/secret"], ["touch", f"{mount}/alice/mine"], ["ls", f"{mount}/alice"]):
            done = cluster.on("k1", *command)
            assert done.returncode != 0 and "secret of" not in done.stdout, (command, done.stdout)
            told[" ".join(command)] = done.stderr.strip().rpartition(": ")[2]
    proof("root on k1", told)


BOB_TRIES = """#!/bin/bash
exec 2>&1
cat /data/bob/secret
for at in /data /cifs; do cat $at/alice/secret; ls $at/alice; echo x >$at/alice/his; done
cat {ccache}; cp {ccache} /tmp/stolen
for at in /data /cifs; do KRB5CCNAME=FILE:{ccache} cat $at/alice/secret; done
echo status | nc -U -q1 /run/hipercow-slurm/agent/agent.sock
"""


def test_bob_is_refused_at_every_point(cluster: Cluster, long_job: int, proof: Proof) -> None:
    """His own file works, so the refusals are about alice's."""
    cluster.bob.laptop.login()
    path = f"/tmp/krb5cc_{UID['alice']}_{long_job}"
    assert path in cluster.operator.leftovers("k2"), "alice's ticket is not where bob looks for it"
    job_id = cluster.bob.laptop.submit(BOB_TRIES.format(ccache=path), "-w", "k2", "-t", "5")
    cluster.bob.laptop.ended(job_id, within_s=120)
    output = cluster.bob.laptop.logs(job_id)
    assert "secret of bob" in output and "secret of alice" not in output, output
    assert output.count("ermission denied") >= 8, output
    assert f"krb5cc_{UID['alice']}" not in output.split("cp: ")[-1].partition("\n")[2], (
        f"the agent told bob of alice's jobs: {output}"
    )
    proof("bob's job among alice's files", f"{output.count('ermission denied')} times permission denied, his own read")
    for command in ("show", "logs", "cancel"):
        refused = cluster.bob.laptop.attempt(command, str(long_job))
        assert refused.returncode != 0, f"bob may {command} alice's job: {refused.stdout}"
        proof(f"bob: {command} of alice's job over HTTP", refused.stderr.strip().splitlines()[0])
    refused = cluster.bob.ssh("scancel", str(long_job), check=False)
    assert "Access/permission denied" in refused.stderr or refused.returncode != 0, refused
    wrong = cluster.sandbox.run(
        "laptop",
        ["sshpass", "-e", "ssh", "-o", "PreferredAuthentications=password", "alice@login.sandbox.test", "true"],
        user="laptop",
        env={"SSHPASS": cluster.sandbox.passwords["bob"]},
        check=False,
    )
    assert wrong.returncode != 0, "bob's password opened alice's account"
    proof("bob's password at alice's ssh", wrong.stderr.strip().splitlines()[-1])


def test_two_overlapping_jobs_of_one_user(cluster: Cluster, proof: Proof) -> None:
    """The first to end takes its own ccache away and not the other's, nor the access."""
    laptop, alice = cluster.alice.laptop, UID["alice"]
    read = "cat /data/alice/secret /cifs/alice/secret; echo $KRB5CCNAME"
    longer = laptop.submit(f"#!/bin/bash\n{read}\nsleep 25\n{read}\n", "-w", "k1", "-J", "longer")
    cluster.operator.job_runs(longer, within_s=60)
    shorter = laptop.submit(f"#!/bin/bash\n{read}\nsleep 3\n", "-w", "k1", "-J", "shorter")
    cluster.operator.job_runs(shorter, within_s=60)
    both = cluster.operator.leftovers("k1")
    assert {f"/tmp/krb5cc_{alice}_{job}" for job in (longer, shorter)} <= set(both), both
    laptop.ended(shorter, within_s=60)
    cluster.nothing_left("k1", shorter, alice)
    assert f"/tmp/krb5cc_{alice}_{longer}" in cluster.operator.leftovers("k1")
    laptop.ended(longer, within_s=90)
    output = laptop.logs(longer)
    assert output.count("secret of alice") == 4, output
    cluster.nothing_left("k1", longer, alice)
    proof(
        "two jobs of one user on k1",
        f"each its own file {sorted(both)}; the longer one read before and after the other's end",
    )


UNTIL_REFUSED = """
import errno, os, sys, time
begun, seen = time.monotonic(), 0
while time.monotonic() - begun < 120:
    try:
        fd = os.open("/data/alice/secret", os.O_RDONLY | os.O_DIRECT)
        os.close(fd)
        seen += 1
    except OSError as error:
        print(f"{time.monotonic() - begun:.1f} {errno.errorcode[error.errno]} {seen}")
        sys.exit()
    time.sleep(0.2)
print("120 still-open", seen)
"""


def test_kernel_forgets_the_user_after_the_job(cluster: Cluster, proof: Proof) -> None:
    """What is left of a job is in the kernel: the context it has made. gssd's context-timeout bounds it."""
    job_id = cluster.alice.laptop.submit("#!/bin/bash\ncat /data/alice/secret\n", "-w", "k1")
    cluster.alice.laptop.ended(job_id, within_s=60)
    cluster.nothing_left("k1", job_id, UID["alice"])
    done = cluster.on("k1", "python3", "-c", UNTIL_REFUSED, user="alice", timeout=150, check=True)
    seconds, why, reads = done.stdout.split()
    assert float(seconds) <= CONTEXT_TIMEOUT_S + 5 and why == "EACCES", done.stdout
    proof(
        "the kernel's context after the job",
        f"{reads} opens went on, then {why} {seconds} s after the ccache was gone "
        f"(context-timeout={CONTEXT_TIMEOUT_S})",
    )


def test_expiry_without_renewal_then_a_new_login(cluster: Cluster, proof: Proof) -> None:
    """carol's ticket cannot be renewed: her files say so, never hang, and work again after a login, open ones too."""
    seen = expiry(cluster, cluster.carol, "/data/carol", "k1")
    proof("expiry with no way to renew", seen.without_a_trace({"EKEYEXPIRED", "EACCES"}, hang_s=20))


def test_job_outlives_three_tickets_while_writing(cluster: Cluster, long_job: int, proof: Proof) -> None:
    done, changes = cluster.outcome("k2", long_job, within_s=LONG_S + 120)
    proof(f"NFS: {LONG_S} s job, tickets of {TICKET_LIFE_S} s", without_an_error(done, changes, LONG_S))
    job = cluster.operator.job_ended(long_job, within_s=60)
    assert job["JobState"] == "COMPLETED", job
    cluster.nothing_left("k2", long_job, UID["alice"])


def test_each_hop_of_a_ticket(cluster: Cluster, proof: Proof) -> None:
    """Each part logged what it did, in this order. Writes build/life-of-a-ticket.md, which the documentation has."""
    hops = kernel_hops.measure(cluster)
    HOPS.parent.mkdir(exist_ok=True)
    HOPS.write_text("| hop | measured |\n|---|---|\n" + "".join(f"| {hop} | {s:.3f} s |\n" for hop, s in hops))
    # The job may begin before the API's answer to its submission is logged.
    assert all(seconds > -1 for _, seconds in hops), f"out of order: {hops}"
    proof("each hop, s", " | ".join(f"{seconds:.3f}" for _, seconds in hops))
