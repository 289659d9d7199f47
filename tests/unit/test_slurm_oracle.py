"""The job oracle's decisions (``now`` is an argument) and its sharing of one squeue among many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from hipercow_slurm.errors import UnavailableError
from hipercow_slurm.slurm import squeue
from hipercow_slurm.slurm.oracle import SHARE, Attempt, JobOracle, Settings, Verdict, View, decide

SETTINGS = Settings(interval_s=1, positive_s=2, stale_s=100)
TABLE = squeue.parse("5001|RUNNING|1|c1\n")
INTERVAL_S = 0.1


def code(view: View, *, uid: int = 5001, arrived: float = 50, now: float = 50, settings: Settings = SETTINGS) -> str:
    verdict = decide(view, uid, "c1", arrived=arrived, now=now, settings=settings)
    return verdict.code if verdict else "ask"


def test_before_the_first_answer_it_asks() -> None:
    assert code(View(), arrived=0, now=0) == "ask"


def test_yes_may_be_a_little_old() -> None:
    assert code(View(TABLE, asked_at=48)) == "job-on-node"
    assert code(View(TABLE, asked_at=47.9)) == "ask", "older than positive_s: a job's end must be noticed"


def test_no_needs_an_answer_asked_for_after_the_question() -> None:
    assert code(View(TABLE, asked_at=49.99), uid=5002) == "ask", "the job may have started since"
    assert code(View(TABLE, asked_at=50), uid=5002) == "no-job-on-node"


def test_a_slow_answer_is_still_an_answer() -> None:
    assert code(View(TABLE, asked_at=50), now=54) == "job-on-node"
    assert code(View(TABLE, asked_at=50), now=54, uid=5002) == "no-job-on-node"


def test_yes_must_be_fresh_by_default_within_a_second() -> None:
    assert Settings().positive_s <= 1 and Settings().interval_s >= 1


def test_while_slurmctld_is_silent_the_last_yes_stands_for_stale_s() -> None:
    down = {"failed_at": 49.0, "why": "down"}
    assert code(View(TABLE, asked_at=40, **down)) == "job-on-node-stale"
    assert code(View(TABLE, asked_at=40, **down), now=140.0) == "job-on-node-stale"
    assert code(View(TABLE, asked_at=40, **down), arrived=141, now=141) == "ask", "tried once more before refusing"
    assert code(View(TABLE, asked_at=40, failed_at=142, why="down"), arrived=141, now=142) == "scheduler-unreachable"


def test_a_refusal_says_since_when_and_why() -> None:
    view = View(TABLE, asked_at=40, failed_at=51, why="squeue failed (exit 1)")
    for uid, words in ((5002, "12 s ago, showed no job of uid 5002"), (5001, "older than 5 s")):
        verdict = decide(view, uid, "c1", arrived=50, now=52, settings=msgspec.structs.replace(SETTINGS, stale_s=5))
        assert verdict is not None and not verdict.allowed and words in verdict.why, verdict
        assert "exit 1" in verdict.why, verdict
    never = decide(View(failed_at=51, why="x"), 5001, "c1", arrived=50, now=52, settings=SETTINGS)
    assert never is not None and not never.allowed and "since we started" in never.why, never


def test_stale_zero_serves_nothing_old() -> None:
    strict = msgspec.structs.replace(SETTINGS, stale_s=0)
    view = View(TABLE, asked_at=40, failed_at=50.5, why="down")
    assert code(view, now=51, settings=strict) == "scheduler-unreachable"


@pytest.mark.parametrize("wrong", [{"interval_s": 0}, {"command": []}, {"stale": 3}, {"timeout_s": -1}])
def test_settings_refuse_nonsense(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, Settings)


class Cluster:
    """A scripted slurmctld: ``answer`` or an error, after ``delay_s``; remembers when it was asked."""

    def __init__(self) -> None:
        self.answer: str | Exception = ""
        self.delay_s = 0.0
        self.asked: list[float] = []
        self.attempts: list[Attempt] = []

    async def query(self, argv: list[str], *, timeout_s: float, limit_bytes: int) -> str:
        self.asked.append(time.monotonic())
        answer = self.answer  # as of the moment of asking
        await asyncio.sleep(self.delay_s)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
async def oracle(cluster: Cluster) -> AsyncIterator[JobOracle]:
    settings = Settings(interval_s=INTERVAL_S, positive_s=INTERVAL_S, stale_s=30)
    made = JobOracle(settings, query=cluster.query, observe=cluster.attempts.append)
    yield made
    await made.aclose()


async def test_one_squeue_serves_a_thousand(cluster: Cluster, oracle: JobOracle) -> None:
    cluster.answer, cluster.delay_s = "5001|RUNNING|1|c1\n", 0.05
    verdicts = await asyncio.gather(*(oracle.has_job(uid, "c1") for uid in range(4500, 5500)))
    assert [v.allowed for v in verdicts].count(True) == 1 and verdicts[501].allowed
    assert len(cluster.asked) == 1, f"asked {len(cluster.asked)} times"
    assert cluster.attempts[0].error is None and cluster.attempts[0].seconds >= 0.05


async def test_squeues_start_an_interval_apart(cluster: Cluster, oracle: JobOracle) -> None:
    """Where squeue is slow, and where it fails at once: an outage is no reason to ask more often."""
    for cluster.answer, cluster.delay_s in (("", INTERVAL_S / 2), (UnavailableError("down"), 0.0)):
        cluster.asked.clear()
        for _ in range(4):
            await oracle.has_job(5002, "c1")  # each "no" needs an answer of its own
        gaps = [b - a for a, b in zip(cluster.asked, cluster.asked[1:], strict=False)]
        assert len(cluster.asked) == 4 and min(gaps) >= INTERVAL_S * 0.99, gaps


async def test_a_quick_squeue_runs_a_quarter_of_the_time(cluster: Cluster) -> None:
    """Jobs that start in a tight loop waited a second each for their turn at an oracle that needs 15 ms."""
    oracle = JobOracle(Settings(interval_s=60), query=cluster.query)
    cluster.delay_s = 0.02
    for _ in range(4):
        await oracle.has_job(5002, "c1")
    gaps = [b - a for a, b in zip(cluster.asked, cluster.asked[1:], strict=False)]
    assert min(gaps) >= SHARE * 0.02 and max(gaps) < 10, gaps
    await oracle.aclose()


async def test_yes_from_the_cache_asks_nobody(cluster: Cluster, oracle: JobOracle) -> None:
    cluster.answer = "5001|RUNNING|1|c1\n"
    began = time.monotonic()
    count = 0
    while time.monotonic() - began < INTERVAL_S / 2:
        assert (await oracle.has_job(5001, "c1")).allowed
        count += 1
    assert len(cluster.asked) == 1 and count > 10, (cluster.asked, count)


async def test_a_job_that_started_while_squeue_ran_is_found(cluster: Cluster, oracle: JobOracle) -> None:
    """The answer under way was asked for before the job: joining it and saying no would fail the job's prolog."""
    cluster.delay_s = 0.1
    early = asyncio.create_task(oracle.has_job(5002, "c1"))
    await asyncio.sleep(0.03)
    cluster.answer = "5001|RUNNING|1|c1\n"
    assert (await oracle.has_job(5001, "c1")).allowed
    assert not (await early).allowed
    assert len(cluster.asked) == 2


async def test_the_end_of_a_job_shuts_the_door_within_the_positive_time(cluster: Cluster, oracle: JobOracle) -> None:
    cluster.answer = "5001|RUNNING|1|c1\n"
    assert (await oracle.has_job(5001, "c1")).allowed
    cluster.answer = ""
    ended = time.monotonic()
    while (await oracle.has_job(5001, "c1")).allowed:  # noqa: ASYNC110 - polling is what a thief would do
        await asyncio.sleep(0.005)
    assert time.monotonic() - ended < INTERVAL_S + 0.1


async def test_an_outage_and_the_recovery_from_it(cluster: Cluster, oracle: JobOracle) -> None:
    cluster.answer = "5001|RUNNING|1|c1\n"
    await oracle.has_job(5001, "c1")
    cluster.answer = UnavailableError("slurmctld is on fire")
    await asyncio.sleep(INTERVAL_S * 1.5)
    for uid, expected in ((5001, "job-on-node-stale"), (5002, "scheduler-unreachable")):
        verdict = await oracle.has_job(uid, "c1")
        assert verdict.code == expected and "on fire" in verdict.why, verdict
    asked, began = len(cluster.asked), time.monotonic()
    verdicts = [await oracle.has_job(5001, "c1") for _ in range(200)]
    turns = (time.monotonic() - began) / INTERVAL_S
    assert {v.code for v in verdicts} == {"job-on-node-stale"}
    assert len(cluster.asked) - asked <= turns + 2, f"an outage is no reason to ask more often: {turns:.1f} intervals"
    cluster.answer = "5001|RUNNING|1|c1\n"
    for _ in range(200):
        verdict = await oracle.has_job(5001, "c1")  # stale at first, but it makes the oracle look
        if verdict.code == "job-on-node":
            break
        await asyncio.sleep(INTERVAL_S)
    assert verdict.code == "job-on-node", verdict


async def test_a_cancelled_waiter_does_not_take_the_others_answer_away(cluster: Cluster, oracle: JobOracle) -> None:
    cluster.answer, cluster.delay_s = "5001|RUNNING|1|c1\n", 0.1
    first, second = (asyncio.create_task(oracle.has_job(5001, "c1")) for _ in range(2))
    await asyncio.sleep(0.02)
    first.cancel()
    assert (await second).allowed
    assert len(cluster.asked) == 1


async def test_close_answers_those_who_wait(cluster: Cluster, oracle: JobOracle) -> None:
    cluster.delay_s = 60
    waiting = asyncio.create_task(oracle.has_job(5001, "c1"))
    await asyncio.sleep(0.02)
    await oracle.aclose()
    with pytest.raises(UnavailableError, match="shutting down"):
        await waiting


async def test_a_bug_reaches_the_caller_instead_of_spinning(cluster: Cluster, oracle: JobOracle) -> None:
    cluster.answer = KeyError("bug")
    with pytest.raises(KeyError):
        await oracle.has_job(5001, "c1")
    with pytest.raises(KeyError):
        await oracle.uids_with_jobs()


async def test_nobody_is_forgotten_on_an_old_or_broken_answer(cluster: Cluster, oracle: JobOracle) -> None:
    cluster.answer = "5001|PENDING|1|\n5002|RUNNING|2|c1\n"
    assert await oracle.uids_with_jobs() == {5001, 5002}
    assert await oracle.uids_with_jobs() == {5001, 5002} and len(cluster.asked) == 1
    cluster.answer = "slurm_load_jobs error\n"
    with pytest.raises(UnavailableError):
        await oracle.uids_with_jobs(max_age_s=0)


async def test_with_the_real_runner(tmp_path: Path) -> None:
    """The argv reaches squeue as one format, and a wrapper in front of it is possible."""
    path = tmp_path / "squeue"
    path.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/argv\necho "5001|RUNNING|1|c[1-2]"\n')
    path.chmod(0o755)
    oracle = JobOracle(Settings(command=["/usr/bin/env", str(path)]))
    assert await oracle.has_job(5001, "c2") == Verdict(True, "job-on-node", "uid 5001 has a job on c2")
    assert "--format=%U|%T|%A|%N" in (tmp_path / "argv").read_text()
    assert await oracle.blindness() is None, "who wraps squeue has chosen who asks"
    await oracle.aclose()


async def test_blindness_asks_the_scontrol_beside_squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Path(__file__).parent.parent / "slurm_answers" / "squeue-22.05" / "config-private-data.txt"
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f"#!/bin/sh\n[ \"$*\" = 'show config' ] && cat {config}\n")
    scontrol.chmod(0o755)
    oracle = JobOracle(Settings(command=[str(tmp_path / "squeue")]))
    monkeypatch.setattr("os.geteuid", lambda: 5203)
    assert "hides other users' jobs from uid 5203" in (await oracle.blindness() or "")
