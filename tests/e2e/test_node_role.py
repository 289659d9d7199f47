"""A node's key opens the tickets of those who have a job on that node now, and nothing else."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fix_sandbox import TICKET_LIFE_S
from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.sandbox.layout import PYTHON
from hipercow_slurm.testing.story import LoginNode, Operator, eventually, reader

pytestmark = pytest.mark.e2e

PROBE = (Path(__file__).parent / "node_probe.py").read_text()
ALICE, BOB = 5001, 5002
SLEEP = "#!/bin/bash\nsleep 120\n"


class Thief:
    """Whoever has the key of one node."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, *call: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([call]) + "\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline())[0])

    def gets(self, uid: int) -> str | None:
        """Whose ticket it gets for ``uid``."""
        answer = self.ask("get", uid)
        assert "client" in answer, answer
        return answer["client"]


@pytest.fixture(scope="module")
def nodes(sandbox: Sandbox) -> Iterator[dict[str, Thief]]:
    with ExitStack() as stack:
        thieves = {}
        for node in ("c1", "c2"):
            argv = [PYTHON, "-c", PROBE]
            process = sandbox.popen(node, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.callback(process.communicate)
            stack.callback(process.kill)
            thieves[node] = Thief(process)
        yield thieves


@pytest.fixture(scope="module", autouse=True)
def both_are_known(sandbox: Sandbox) -> None:
    """The cache holds a ticket of alice and one of bob."""
    for user in ("alice", "bob"):
        node = LoginNode(sandbox, user)
        node.kinit()
        node.do("hipercow-slurm", "upload")
        node.do("kdestroy")


@pytest.fixture(autouse=True)
def no_jobs_left(sandbox: Sandbox, nodes: dict[str, Thief]) -> Iterator[None]:
    gone(sandbox)
    for name, thief in nodes.items():  # a yes may be a second old (slurm/oracle.py, rule 3)
        eventually(
            f"{name} is refused", lambda thief=thief: thief.gets(ALICE) is None and thief.gets(BOB) is None, within_s=5
        )
    yield
    gone(sandbox)


def gone(sandbox: Sandbox) -> None:
    """No job of alice or bob is left on a node, and none waits for one, whoever began it."""
    sandbox.run("head", ["sh", "-c", "scancel --user=alice; scancel --user=bob"])
    eventually(
        "no running job",
        lambda: not sandbox.run("head", ["squeue", "-h", "-t", "R,CG,S,CF", "-u", "alice,bob"]).stdout,
        within_s=120,
        every_s=0.3,
    )


def queue(sandbox: Sandbox) -> str:
    """What Slurm shows of all jobs, for the message of a failed test."""
    return sandbox.run("head", ["squeue", "-a", "-o", "%i %u %j %T %N %r"]).stdout


def decision(sandbox: Sandbox, *wanted: str) -> str:
    """The cache's latest log line with all of these in it."""
    lines = sandbox.service("auksd").log().splitlines()
    found = [line for line in lines if "auksd.request" in line and all(each in line for each in wanted)]
    assert found, "\n".join(lines[-20:])
    return found[-1]


def sbatch(sandbox: Sandbox, *options: str, user: str = "alice", script: str = SLEEP) -> int:
    return LoginNode(sandbox, user).sbatch(script, "-J", "role", "-t", "5", "-o", "/dev/null", *options)


def test_only_while_she_has_a_job_and_only_on_its_node(sandbox: Sandbox, nodes: dict[str, Thief]) -> None:
    c1, c2, operator = nodes["c1"], nodes["c2"], Operator(sandbox)
    assert c1.gets(ALICE) is None, (decision(sandbox, "host/c1.", "uid=5001"), queue(sandbox))
    line = decision(sandbox, "host/c1.", "uid=5001")
    assert "code=no-job-on-node" in line and "role=node" in line, line
    job_id = sbatch(sandbox, "-w", "c1")
    operator.job_runs(job_id)
    assert c1.gets(ALICE) == "alice@SANDBOX.TEST"
    assert "job=job-on-node " in decision(sandbox, "host/c1.", "uid=5001", "verb=get") + " "
    assert c1.gets(BOB) is None, "bob has no job there"
    assert c2.gets(ALICE) is None, "another node's key"
    assert "uid 5001 has no job on c2" in decision(sandbox, "host/c2.", "uid=5001")
    sandbox.run("head", ["scancel", str(job_id)])
    eventually("the job ended", lambda: operator.job(job_id)["JobState"] == "CANCELLED", within_s=20, every_s=0.05)
    eventually("a refusal", lambda: c1.gets(ALICE) is None, within_s=5, every_s=0.05)
    ended = time.monotonic()
    assert [c1.gets(ALICE) for _ in range(3)] == [None] * 3, "and it stays one"
    assert time.monotonic() - ended < 10


def test_a_pending_job_opens_nothing(sandbox: Sandbox, nodes: dict[str, Thief]) -> None:
    job_id = sbatch(sandbox, "-w", "c1", "--hold")
    try:
        assert nodes["c1"].gets(ALICE) is None, (decision(sandbox, "host/c1.", "uid=5001"), queue(sandbox))
    finally:
        sandbox.run("head", ["scancel", str(job_id)])


def test_nothing_but_get_and_ping(sandbox: Sandbox, nodes: dict[str, Thief]) -> None:
    c1 = nodes["c1"]
    Operator(sandbox).job_runs(sbatch(sandbox, "-w", "c1"))
    assert c1.gets(ALICE) == "alice@SANDBOX.TEST"
    assert c1.ask("ping")["pong"]
    refused = c1.ask("dump")
    assert "records" not in refused, "a node has dumped the cache"
    assert "code=role-denied" in decision(sandbox, "host/c1.", "verb=dump")
    assert "added" not in c1.ask("add", ALICE), "a node has put a ticket into the cache"
    assert "code=role-denied" in decision(sandbox, "host/c1.", "verb=add")
    assert c1.ask("remove", ALICE)["removed"] is False
    assert "code=role-denied" in decision(sandbox, "host/c1.", "verb=remove")
    assert c1.gets(ALICE) == "alice@SANDBOX.TEST", "it is still there"
    assert {row["uid"] for row in Operator(sandbox).cache()} >= {ALICE, BOB}, "the operator's look still works"


def test_slurmctld_gone_in_mid_job(sandbox: Sandbox, nodes: dict[str, Thief]) -> None:
    """The agent's refreshes go on with what slurmctld said last; bob still gets nothing by it."""
    operator = Operator(sandbox)
    job_id = sbatch(sandbox, "-w", "c1", script=reader(200))
    operator.job_runs(job_id)
    first = operator.installed("c1", ALICE, job_id)["endtime"]
    slurmctld = sandbox.service("slurmctld")
    slurmctld.stop()
    try:
        fresher = operator.fresher("c1", ALICE, job_id, first, within_s=TICKET_LIFE_S + 15)
        assert fresher > first
        assert "job=job-on-node-stale" in decision(sandbox, "host/c1.", "uid=5001", "result=ok")
        assert nodes["c1"].gets(BOB) is None
        assert "code=scheduler-unreachable" in decision(sandbox, "host/c1.", "uid=5002")
    finally:
        slurmctld.start()
    eventually("a fresh yes", lambda: nodes["c1"].gets(ALICE), within_s=30)
    assert operator.job_runs(job_id)["JobState"] == "RUNNING"
