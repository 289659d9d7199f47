"""The job oracle against a real slurmctld: what counts as having a job on a node, and how soon."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hipercow_slurm.testing.sandbox.layout import PYTHON
from hipercow_slurm.testing.story import eventually

if TYPE_CHECKING:
    from hipercow_slurm.testing.sandbox import Sandbox

pytestmark = pytest.mark.e2e

PROBE = (Path(__file__).parent / "oracle_probe.py").read_text()
ALICE, BOB = 5001, 5002
SLEEP = "#!/bin/bash\nsleep 120\n"


class Oracle:
    """One oracle in a process on the head, asked over its standard input."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, *calls: list[Any]) -> list[dict[str, Any]]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(calls) + "\n")
        self._process.stdin.flush()
        return list(json.loads(self._process.stdout.readline()))

    def code(self, uid: int, node: str) -> str:
        return str(self.ask(["has_job", uid, node])[0]["code"])

    def may(self, uid: int, *nodes: str) -> list[bool]:
        return [answer["allowed"] for answer in self.ask(*(["has_job", uid, node] for node in nodes))]


@contextmanager
def asked_as(sandbox: Sandbox, user: str, **settings: Any) -> Iterator[Oracle]:
    """An oracle whose squeue runs as ``user``."""
    argv = [PYTHON, "-c", PROBE, json.dumps(settings)]
    process = sandbox.popen("head", argv, user=user, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Oracle(process)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def oracle(sandbox: Sandbox) -> Iterator[Oracle]:
    """As the credential cache asks, with the default settings."""
    with asked_as(sandbox, "hcs-auksd") as made:
        yield made


@pytest.fixture(autouse=True)
def no_jobs_left(sandbox: Sandbox) -> Iterator[None]:
    yield
    sandbox.run("head", ["scancel", "--full", "--signal=KILL", "--name=oracle"])
    sandbox.run("head", ["scancel", "--name=oracle"])
    eventually("no job of this test", lambda: not listed(sandbox), within_s=20, every_s=0.2)


def listed(sandbox: Sandbox) -> str:
    """The lines of our jobs in squeue: id, state, nodes."""
    return sandbox.run("head", ["squeue", "-h", "-n", "oracle", "-o", "%i %T %N"]).stdout


def sbatch(sandbox: Sandbox, *options: str, user: str = "alice", script: str = SLEEP) -> int:
    argv = ["sbatch", "--parsable", "-J", "oracle", "-D", "/tmp", "-o", "/dev/null", "-t", "5", *options]
    return int(sandbox.run("login", argv, user=user, input=script).stdout)


def in_state(sandbox: Sandbox, job_id: int | str, state: str) -> None:
    """Wait until squeue shows the job in that state."""
    eventually(
        f"job {job_id} {state}",
        lambda: any(line.split()[:2] == [str(job_id), state] for line in listed(sandbox).splitlines()),
        within_s=30,
        every_s=0.05,
    )


def test_only_the_owner_and_only_on_the_jobs_nodes(sandbox: Sandbox, oracle: Oracle) -> None:
    in_state(sandbox, sbatch(sandbox, "-w", "c1"), "RUNNING")
    assert oracle.may(ALICE, "c1", "c2", "c", "c11", "c[1-2]") == [True, False, False, False, False]
    assert oracle.may(BOB, "c1", "c2") == [False, False]
    in_state(sandbox, sbatch(sandbox, "-N2", user="bob"), "RUNNING")
    assert oracle.may(BOB, "c1", "c2") == [True, True]


def test_a_job_is_found_as_soon_as_it_runs(sandbox: Sandbox, oracle: Oracle) -> None:
    """The oracle has just learnt that there is none: a cached no would fail the job's prolog."""
    assert oracle.code(ALICE, "c1") == "no-job-on-node"
    in_state(sandbox, sbatch(sandbox, "-w", "c1"), "RUNNING")
    (answer,) = oracle.ask(["has_job", ALICE, "c1"])
    assert answer["allowed"], answer
    assert answer["seconds"] < 2.5, answer


def test_a_pending_job_opens_nothing_but_keeps_its_owner(sandbox: Sandbox, oracle: Oracle) -> None:
    sbatch(sandbox, "--hold", user="bob")
    assert oracle.may(BOB, "c1", "c2") == [False, False]
    assert BOB in oracle.ask(["uids"])[0]["uids"]


def test_array_tasks_count(sandbox: Sandbox, oracle: Oracle) -> None:
    """Heterogeneous jobs are in the recorded answers: only the backfill scheduler starts them, every 30 s."""
    array = sbatch(sandbox, "--array=0-3%1", "-w", "c1")
    in_state(sandbox, f"{array}_0", "RUNNING")
    assert oracle.may(ALICE, "c1", "c2") == [True, False]


def test_suspended_counts_and_so_does_completing_until_the_end(sandbox: Sandbox, oracle: Oracle) -> None:
    """The door shuts within two seconds of slurmctld's word that the job has left the node."""
    stubborn = "#!/bin/bash\ntrap '' TERM\nwhile :; do sleep 0.2; done\n"
    job_id = sbatch(sandbox, "-w", "c1", script=stubborn)
    in_state(sandbox, job_id, "RUNNING")
    sandbox.run("head", ["scontrol", "suspend", str(job_id)])
    in_state(sandbox, job_id, "SUSPENDED")
    assert oracle.may(ALICE, "c1") == [True]
    sandbox.run("head", ["scontrol", "resume", str(job_id)])
    sandbox.run("head", ["scancel", str(job_id)])
    in_state(sandbox, job_id, "COMPLETING")
    assert oracle.may(ALICE, "c1", "c2") == [True, False]
    eventually("the job gone", lambda: not listed(sandbox), within_s=90, every_s=0.05)
    gone = time.monotonic()
    eventually("a no", lambda: oracle.may(ALICE, "c1") == [False], within_s=5, every_s=0.01)
    assert time.monotonic() - gone < 2.0


def test_a_thousand_waiting_cost_one_squeue(sandbox: Sandbox, oracle: Oracle) -> None:
    in_state(sandbox, sbatch(sandbox, "-w", "c1"), "RUNNING")
    answers = oracle.ask(*(["has_job", uid, "c1"] for uid in range(4501, 5501)))
    assert [a["allowed"] for a in answers].count(True) == 1
    (told,) = oracle.ask(["squeues"])
    assert told["squeues"] == 1, told


@pytest.mark.parametrize("outage", ["pause", "stop"])
def test_slurmctld_silent(sandbox: Sandbox, outage: str) -> None:
    """Stuck or gone: the last yes stands for a while, nothing else does, and it comes back by itself."""
    slurmctld = sandbox.service("slurmctld")
    in_state(sandbox, sbatch(sandbox, "-w", "c1"), "RUNNING")
    with asked_as(sandbox, "slurm", stale_s=4, timeout_s=1) as oracle:
        assert oracle.code(ALICE, "c1") == "job-on-node"
        getattr(slurmctld, outage)()
        try:
            time.sleep(1.1)  # past the age a yes may have
            stale, refused = oracle.ask(["has_job", ALICE, "c1"], ["has_job", BOB, "c1"])
            assert (stale["code"], stale["allowed"]) == ("job-on-node-stale", True), stale
            assert (refused["code"], refused["allowed"]) == ("scheduler-unreachable", False), refused
            assert max(stale["seconds"], refused["seconds"]) < 3.5, (stale, refused)
            (no_uids,) = oracle.ask(["uids"])
            assert no_uids["code"] == "scheduler-unreachable", "nobody may be forgotten now"
            eventually("stale_s over", lambda: oracle.code(ALICE, "c1") == "scheduler-unreachable", within_s=10)
            (last,) = oracle.ask(["has_job", ALICE, "c1"])
            assert "older than 4 s" in last["why"], last
        finally:
            slurmctld.resume() if outage == "pause" else slurmctld.start()
        eventually("a yes again", lambda: oracle.code(ALICE, "c1") == "job-on-node", within_s=15)


@pytest.fixture
def private_data(sandbox: Sandbox) -> Iterator[None]:
    """slurmctld with PrivateData=jobs for the time of a test."""
    try:
        reconfigure(sandbox, "echo PrivateData=jobs >> /etc/slurm/slurm.conf")
        yield
    finally:
        reconfigure(sandbox, "sed -i /^PrivateData/d /etc/slurm/slurm.conf")


def reconfigure(sandbox: Sandbox, change: str) -> None:
    sandbox.run("head", ["sh", "-c", f"{change} && scontrol reconfigure"])


def test_who_cannot_see_others_jobs_is_told_so(sandbox: Sandbox, private_data: None) -> None:
    """Under PrivateData=jobs an ordinary account gets an empty answer, without an error."""
    in_state(sandbox, sbatch(sandbox, "-w", "c1"), "RUNNING")
    with asked_as(sandbox, "hcs-auksd") as blind:
        why, empty = blind.ask(["blindness"], ["uids"])
    assert "PrivateData=jobs" in why["blindness"] and "Operator" in why["blindness"], why
    assert empty["uids"] == [], "squeue has shown it others' jobs after all"
    with asked_as(sandbox, "slurm") as seeing:
        assert seeing.ask(["blindness"])[0]["blindness"] is None
    with asked_as(sandbox, "hcs-auksd", sees_all=True) as trusted:
        assert trusted.ask(["blindness"])[0]["blindness"] is None
