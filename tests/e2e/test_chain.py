"""One job, end to end, on real parts: each test is a line of the story in the design.

The two long jobs (through the API, and by sbatch) are submitted first and wait while the other tests run; nothing in
this file stops a service that they need then.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from fix_sandbox import TICKET_LIFE_S
from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import FILES, Laptop, LoginNode, Operator, eventually, reader

pytestmark = pytest.mark.e2e

ALICE, BOB = 5001, 5002
LONGER_THAN_A_LIFE_S = TICKET_LIFE_S + 15


@dataclass
class LongJobs:
    """Two held jobs, submitted at ``submitted`` (monotonic seconds), released after more than one ticket's life."""

    by_api: int
    by_sbatch: int
    submitted: float


@pytest.fixture(scope="module", autouse=True)
def long_jobs(sandbox: Sandbox, alice: Laptop) -> Iterator[LongJobs]:
    """Submitted before the first test, so that their waiting costs nothing."""
    node = LoginNode(sandbox, "alice")
    node.kinit()
    by_api = alice.submit(reader(LONGER_THAN_A_LIFE_S), "-J", "long-api", "-t", "5", "--hold")
    by_sbatch = node.sbatch(reader(LONGER_THAN_A_LIFE_S), "-J", "long-sbatch", "-t", "5", "--hold", "-o", "long-%j.out")
    # From here on only the cache keeps her ticket: the login node's own copy is gone.
    node.do("kdestroy")
    yield LongJobs(by_api, by_sbatch, time.monotonic())


def test_ticket_is_filed_under_the_uid_of_the_principal(operator: Operator, alice: Laptop, bob: Laptop) -> None:
    filed = {row["principal"]: row["uid"] for row in operator.cache()}
    assert (filed["alice@SANDBOX.TEST"], filed["bob@SANDBOX.TEST"]) == (ALICE, BOB), filed


def test_job_runs_as_the_user_with_a_private_ccache_on_both_nodes(alice: Laptop, operator: Operator) -> None:
    job_id = alice.submit("#!/bin/bash\nsrun -N2 -n2 sh -c 'echo $KRB5CCNAME; klist'\nsleep 8\n", "-N", "2", "-t", "2")
    job = operator.job_runs(job_id)
    assert job["UserId"] == f"alice({ALICE})"
    for node in ("c1", "c2"):
        seen = operator.installed(node, ALICE, job_id)
        assert (seen["uid"], seen["mode"], seen["regular"]) == (ALICE, "0600", True), seen
        assert seen["principal"] == "alice@SANDBOX.TEST"
    ended = alice.ended(job_id, within_s=40)
    output = alice.logs(job_id)
    assert ended["state"] == "COMPLETED", output
    assert output.count(f"FILE:/tmp/krb5cc_{ALICE}_{job_id}") >= 2, output
    assert output.count("krbtgt/SANDBOX.TEST@SANDBOX.TEST") == 2, output
    path = f"/tmp/krb5cc_{ALICE}_{job_id}"
    eventually(
        f"{path} gone from both nodes",
        lambda: path not in operator.leftovers("c1") + operator.leftovers("c2"),
        within_s=10,
    )


def test_job_reads_nfs_and_cifs_with_the_delivered_ccache(alice: Laptop) -> None:
    smb = f"smbclient -N --use-kerberos=required --client-protection=encrypt //{FILES}/data"
    job_id = alice.submit(f"#!/bin/bash\nkrbcat {FILES} /data/alice/secret\n{smb} -c 'get alice/secret -'\n", "-t", "2")
    job = alice.ended(job_id, within_s=40)
    output = alice.logs(job_id)
    assert job["state"] == "COMPLETED", output
    assert output.count("secret of alice") == 2, output


def test_bobs_job_is_denied_alices_file_and_alices_job(alice: Laptop, bob: Laptop, long_jobs: LongJobs) -> None:
    job_id = bob.submit(
        f"#!/bin/bash\nkrbcat {FILES} /data/bob/secret\nkrbcat {FILES} /data/alice/secret 2>&1\n", "-t", "2"
    )
    bob.ended(job_id, within_s=40)
    output = bob.logs(job_id)
    assert "secret of bob" in output, output
    assert "secret of alice" not in output and "denied" in output.lower(), output
    for command in (
        ["show", str(long_jobs.by_api)],
        ["logs", str(long_jobs.by_api)],
        ["cancel", str(long_jobs.by_api)],
    ):
        refused = bob.attempt(*command)
        assert refused.returncode != 0, f"bob may {command[0]} alice's job: {refused.stdout}"
    assert alice.show(long_jobs.by_api)["state"] in ("PENDING", "RUNNING"), "bob's cancel reached alice's job"


def test_wrong_password_and_unknown_user_look_alike(sandbox: Sandbox) -> None:
    nobody = Laptop(sandbox, "stranger")
    answers = [
        nobody.attempt("login", "--username", name, "--password-stdin", input="wrong\n") for name in ("alice", "zoe")
    ]
    assert [a.returncode for a in answers] == [answers[0].returncode] * 2 and answers[0].returncode != 0
    assert answers[0].stderr == answers[1].stderr, [a.stderr for a in answers]
    assert "Traceback" not in answers[0].stderr


def test_the_slurm_token_never_reaches_the_client(sandbox: Sandbox, alice: Laptop) -> None:
    """Everything the laptop stored or was told holds no JWT: none starts with the base64 of '{"alg"' or '{"typ"'."""
    kept = sandbox.run("laptop", ["grep", "-rlE", "eyJ[A-Za-z0-9_-]+\\.", "/home/laptop"], user="laptop", check=False)
    assert kept.stdout == "", kept.stdout
    told = alice.do("jobs", "--json")
    assert "eyJ" not in told


def test_no_secret_in_argv_or_logs(sandbox: Sandbox) -> None:
    """No password shows in any service's log or in any process's arguments."""
    argv = sandbox.run("head", ["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).stdout
    for user, password in sandbox.passwords.items():
        assert password not in argv, f"{user}'s password is in a process's argv"
        for row in sandbox.status():
            assert password not in sandbox.service(row["name"]).log(), f"{user}'s password is in {row['name']}'s log"


def test_srun_from_the_login_node_uploads_the_users_own_ticket(sandbox: Sandbox, operator: Operator) -> None:
    node = LoginNode(sandbox, "bob")
    node.kinit()
    before = next(row["endtime"] for row in operator.cache() if row["uid"] == BOB)
    output = node.do("srun", "-t", "1", "sh", "-c", f"echo $KRB5CCNAME; krbcat {FILES} /data/bob/secret")
    after = next(row["endtime"] for row in operator.cache() if row["uid"] == BOB)
    assert "secret of bob" in output, output
    assert f"FILE:/tmp/krb5cc_{BOB}_" in output, output
    assert after >= before
    node.do("kdestroy")


@pytest.mark.slow  # a ticket lives that long here
def test_agent_killed_and_restarted_in_mid_job(sandbox: Sandbox, alice: Laptop, operator: Operator) -> None:
    """Runs while the long jobs wait: a job that outlives a ticket does not notice that its agent died and came back."""
    job_id = alice.submit(reader(TICKET_LIFE_S + 15), "-t", "5")
    node = operator.job_runs(job_id)["NodeList"]
    endtime = operator.installed(node, ALICE, job_id)["endtime"]
    agent = sandbox.service(f"agent@{node}")
    agent.kill()
    time.sleep(20)
    agent.start()
    operator.fresher(node, ALICE, job_id, endtime, within_s=TICKET_LIFE_S)
    job = alice.ended(job_id, within_s=TICKET_LIFE_S + 40)
    output = alice.logs(job_id)
    assert job["state"] == "COMPLETED" and "failed=0" in output, f"{job['state']}: {output}"
    path = f"/tmp/krb5cc_{ALICE}_{job_id}"
    eventually(f"{path} gone", lambda: path not in operator.leftovers(node), within_s=10)


def test_job_waits_and_runs_longer_than_a_ticket_lives(
    sandbox: Sandbox, alice: Laptop, operator: Operator, long_jobs: LongJobs
) -> None:
    """Queued for more than one life, then run for more than one, reading every second: by API and by sbatch."""
    waited = time.monotonic() - long_jobs.submitted
    time.sleep(max(0.0, LONGER_THAN_A_LIFE_S - waited))
    for job_id in (long_jobs.by_api, long_jobs.by_sbatch):
        operator.release(job_id)
    outputs = {}
    for job_id in (long_jobs.by_api, long_jobs.by_sbatch):
        job = operator.job_ended(job_id, within_s=LONGER_THAN_A_LIFE_S + 60)
        outputs[job_id] = sandbox.run("login", ["cat", job["StdOut"]], user="alice").stdout
        assert job["JobState"] == "COMPLETED", outputs[job_id]
    for job_id, output in outputs.items():
        assert "failed=0" in output, f"job {job_id}: {output}"
        reads = int(output.split("reads=")[1].split()[0])
        assert reads > LONGER_THAN_A_LIFE_S // 3, f"job {job_id} hardly read at all: {output}"
    assert not any(f"_{job_id}" in left for job_id in outputs for left in operator.leftovers("c1")), (
        "ccache left behind"
    )


def test_logout_ends_the_session(sandbox: Sandbox) -> None:
    laptop = Laptop(sandbox, "alice")
    other = Laptop(sandbox, "alice")
    other.env = {"HOME": "/home/laptop/alice-elsewhere"}
    sandbox.run("laptop", ["mkdir", "-p", other.env["HOME"]], user="laptop")
    other.login()
    other.do("logout")
    assert other.attempt("jobs").returncode != 0
    assert laptop.attempt("jobs").returncode == 0, "logging out in one place ended the session in another"
