"""A hop goes away in mid-job and comes back: the job must not notice. Real parts, really stopped."""

from __future__ import annotations

import time

import pytest

from fix_sandbox import TICKET_LIFE_S
from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import Laptop, Operator, eventually, reader

pytestmark = pytest.mark.e2e

ALICE = 5001
OUTAGE_S = 20
JOB_S = TICKET_LIFE_S + 25


def fresher(operator: Operator, node: str, job_id: int, than: int) -> int:
    """Wait until the job's ccache ends later than ``than``; the new endtime."""
    return operator.fresher(node, ALICE, job_id, than, within_s=TICKET_LIFE_S + 10)


def start(alice: Laptop, operator: Operator) -> tuple[int, str, int]:
    """A reading job that outlives a ticket: its id, its node, and the first ticket's endtime."""
    job_id = alice.submit(reader(JOB_S), "-t", "5")
    node = operator.job_runs(job_id)["NodeList"]
    seen = operator.installed(node, ALICE, job_id)
    return job_id, node, seen["endtime"]


def succeeded(alice: Laptop, job_id: int) -> None:
    job = alice.ended(job_id, within_s=JOB_S + 40)
    output = alice.logs(job_id)
    assert job["state"] == "COMPLETED" and "failed=0" in output, f"{job['state']}: {output}"


@pytest.mark.slow  # a ticket lives that long here
def test_cache_stopped_and_back(sandbox: Sandbox, alice: Laptop, operator: Operator) -> None:
    job_id, node, endtime = start(alice, operator)
    sandbox.service("auksd").kill()
    time.sleep(OUTAGE_S)
    sandbox.service("auksd").start()
    fresher(operator, node, job_id, endtime)
    succeeded(alice, job_id)


@pytest.mark.slow
def test_kdc_stopped_and_back(sandbox: Sandbox, alice: Laptop, operator: Operator) -> None:
    job_id, node, endtime = start(alice, operator)
    # Right after a replacement and a read: the ccache holds a service ticket that outlives the outage.
    for _ in range(3):  # a busy machine may show us a replacement late
        endtime = fresher(operator, node, job_id, endtime)
        time.sleep(3)
        if endtime - time.time() > OUTAGE_S + 2:
            break
    sandbox.service("kdc").stop()
    time.sleep(OUTAGE_S)
    sandbox.service("kdc").start()
    fresher(operator, node, job_id, endtime)
    succeeded(alice, job_id)


def test_job_that_ends_while_the_agent_is_down_leaves_nothing(
    sandbox: Sandbox, alice: Laptop, operator: Operator
) -> None:
    job_id = alice.submit("#!/bin/bash\nsleep 6\n", "-t", "2")
    node = operator.job_runs(job_id)["NodeList"]
    agent = sandbox.service(f"agent@{node}")
    agent.kill()
    operator.job_ended(job_id, within_s=60)
    agent.start()
    path = f"/tmp/krb5cc_{ALICE}_{job_id}"
    eventually(f"{path} gone", lambda: path not in operator.leftovers(node), within_s=45)


def test_signer_down_is_said_and_leaves_no_job(sandbox: Sandbox, operator: Operator) -> None:
    """The signer goes before the login: a login fetches a Slurm token in the background, good for a submission."""
    laptop = Laptop(sandbox, "bob")
    sandbox.service("signer").stop()
    try:
        laptop.login()
        refused = laptop.attempt("submit", "--json", "--wrap", "true")
    finally:
        sandbox.service("signer").start()
    assert refused.returncode != 0, refused.stdout
    assert "Traceback" not in refused.stderr and "signer" in refused.stderr, refused.stderr
    assert laptop.submit("#!/bin/bash\ntrue\n", "-t", "1") > 0, "the service did not recover"


def test_slurmrestd_restart_is_survived(sandbox: Sandbox, alice: Laptop) -> None:
    sandbox.service("slurmrestd").restart()
    assert alice.submit("#!/bin/bash\ntrue\n", "-t", "1") > 0
