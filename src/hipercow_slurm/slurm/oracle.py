"""The job oracle: "does this uid have a job on this node now?", asked of slurmctld, cheaply.

Rule 1: one squeue at a time serves everyone who waits. The next one starts ``interval_s`` later, or earlier if
squeue is cheap here: it may run for a quarter of the time (``SHARE``). A starting job waits for its turn, and where
squeue takes 15 ms a second of waiting would be seven times what the launch itself takes.
Rule 2: **no** is said only by an answer asked for after the question came, so a job that just started is found
(squeue on 22.05 with PrologFlags=Alloc: 96 of 96 prologs saw their own job RUNNING on their node).
Rule 3: **yes** may come from an answer up to ``positive_s`` old: so long after its last job there ends, at most, a
node may still fetch a user's ticket. The default, 1 s, is also the least time between two squeues, so a shorter one
would only make nodes wait.
Rule 4: while slurmctld does not answer, the last known **yes** stands for ``stale_s``; everything else is refused,
and says why.

squeue must see everyone's jobs: under PrivateData=jobs the account has to be a Slurm operator (or SlurmUser, or
root); ``blindness`` tells.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import msgspec

from hipercow_slurm.errors import Error, UnavailableError
from hipercow_slurm.slurm import squeue
from hipercow_slurm.slurm.squeue import JobTable

SHARE = 4  # so many times as long as a squeue took, the next one starts after its beginning

_Seconds = Annotated[float, msgspec.Meta(gt=0, le=86400)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[oracle]`` table of a configuration file; times in seconds.

    Attributes:
        interval_s: the longest time between two squeues while somebody waits for one.
        sees_all: the operator's word that squeue shows this account everyone's jobs in spite of PrivateData (it is a
            Slurm Operator in slurmdbd, which cannot be read from the configuration).
    """

    command: Annotated[list[str], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=lambda: ["squeue"])
    interval_s: _Seconds = 1.0
    positive_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 1.0
    stale_s: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 300.0
    timeout_s: _Seconds = 5.0
    output_bytes: Annotated[int, msgspec.Meta(ge=1024, le=1 << 30)] = 32 << 20
    sees_all: bool = False


@dataclass(frozen=True)
class Verdict:
    """An answer and its reason.

    ``code``: job-on-node, job-on-node-stale, no-job-on-node, scheduler-unreachable. Only the last may change by
    trying again soon.
    """

    allowed: bool
    code: str
    why: str


@dataclass(frozen=True)
class View:
    """What the oracle knows. Times are monotonic seconds.

    Attributes:
        table: the last good answer; None before the first.
        asked_at: when the question for it was put: it is at least as new as that.
        failed_at: when the latest attempt failed; None if it did not.
        why: how it failed.
    """

    table: JobTable | None = None
    asked_at: float = 0.0
    failed_at: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Attempt:
    """One squeue, for metrics and logs: ``seconds`` it took, ``error`` or None, the table it gave or None."""

    seconds: float
    error: str | None
    table: JobTable | None


def decide(view: View, uid: int, node: str, *, arrived: float, now: float, settings: Settings) -> Verdict | None:
    """What to answer to a question that came at ``arrived``; None: ask slurmctld first."""
    age = now - view.asked_at
    known = view.table is not None
    yes = view.table is not None and view.table.holds(uid, node)
    asked_since = known and view.asked_at >= arrived
    if yes and (age <= settings.positive_s or asked_since):
        return Verdict(True, "job-on-node", f"uid {uid} has a job on {node}")
    if asked_since:
        return Verdict(False, "no-job-on-node", f"uid {uid} has no job on {node}")
    if view.failed_at is None:
        return None
    if yes and age <= settings.stale_s:
        return Verdict(
            True, "job-on-node-stale", f"uid {uid} had a job on {node} {age:.0f} s ago; since then: {view.why}"
        )
    if view.failed_at < arrived:
        return None
    last = f"its last answer, {age:.0f} s ago," if known else ""
    if not known:
        said = "it has not answered since we started"
    elif yes:
        said = f"{last} is older than {settings.stale_s:g} s"
    else:
        said = f"{last} showed no job of uid {uid} on {node}"
    return Verdict(False, "scheduler-unreachable", f"slurmctld does not answer ({view.why}) and {said}")


class JobOracle:
    """Answers for one cluster. One event loop; ``aclose`` when done.

    Args:
        settings: see ``Settings``.
        observe: called after each squeue.
        clock: monotonic seconds.
        query: runs an argv and returns its output (``squeue.run``).
    """

    def __init__(
        self,
        settings: Settings,
        *,
        observe: Callable[[Attempt], None] = lambda attempt: None,
        clock: Callable[[], float] = time.monotonic,
        query: Callable[..., Awaitable[str]] = squeue.run,
    ) -> None:
        self._settings = settings
        self._observe = observe
        self._clock = clock
        self._query = query
        self._view = View()
        self._task: asyncio.Task[None] | None = None
        self._next_start = clock()

    @property
    def view(self) -> View:
        return self._view

    async def has_job(self, uid: int, node: str) -> Verdict:
        """Whether ``uid`` has a job on ``node``; waits for at most an interval and two squeues.

        Raises:
            UnavailableError: the oracle was closed while this waited.
        """
        arrived = self._clock()
        while True:
            verdict = decide(self._view, uid, node, arrived=arrived, now=self._clock(), settings=self._settings)
            if verdict is None:
                await self._refresh()
                continue
            if verdict.code == "job-on-node-stale":
                self._attempt()  # nobody waits for it, but somebody has to notice that slurmctld is back
            return verdict

    def known(self, uid: int, node: str) -> Verdict | None:
        """As ``has_job``, if the last answer is a yes that is young enough; else None."""
        now = self._clock()
        verdict = decide(self._view, uid, node, arrived=now, now=now, settings=self._settings)
        return verdict if verdict is not None and verdict.code == "job-on-node" else None

    async def uids_with_jobs(self, *, max_age_s: float = 60.0) -> frozenset[int]:
        """Everyone with a job anywhere, pending ones too, from an answer at most ``max_age_s`` old.

        Raises:
            UnavailableError: slurmctld did not answer. Nobody may be forgotten on the ground of an old answer.
        """
        arrived = self._clock()
        while True:
            view = self._view
            if view.table is not None and view.asked_at >= arrived - max_age_s:
                return view.table.uids
            if view.failed_at is not None and view.failed_at >= arrived:
                raise UnavailableError(f"slurmctld does not answer: {view.why}", code="scheduler-unreachable")
            await self._refresh()

    async def blindness(self) -> str | None:
        """Why squeue would not show us others' jobs (PrivateData), or None; ask once, at start.

        Raises:
            UnavailableError: scontrol cannot be run or slurmctld does not answer.
        """
        command = self._settings.command
        if self._settings.sees_all or len(command) > 1:  # a wrapper runs squeue as somebody else; that is its point
            return None
        argv = [str(Path(command[0]).with_name("scontrol")), "show", "config"]
        text = await self._query(argv, timeout_s=self._settings.timeout_s, limit_bytes=1 << 20)
        return squeue.blindness(text, os.geteuid())

    async def aclose(self) -> None:
        """Stop the squeue that may be running; those who wait for it get UnavailableError."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})

    def _attempt(self) -> asyncio.Task[None]:
        """The attempt under way, or a new one."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._ask())
        return self._task

    async def _refresh(self) -> None:
        """Wait for the attempt; one waiter's cancellation leaves it to the others."""
        task = self._attempt()
        await asyncio.wait({task})
        if task.cancelled():
            raise UnavailableError("the job oracle is shutting down", code="scheduler-unreachable")
        task.result()  # a bug in _ask surfaces here instead of spinning

    async def _ask(self) -> None:
        await asyncio.sleep(max(0.0, self._next_start - self._clock()))
        settings, asked_at = self._settings, self._clock()
        self._next_start = asked_at + settings.interval_s
        argv = [*settings.command, *squeue.ARGUMENTS]
        table, problem = None, None
        try:
            text = await self._query(argv, timeout_s=settings.timeout_s, limit_bytes=settings.output_bytes)
            # 50 000 jobs take a tenth of a second to read: not on the event loop
            table = await asyncio.to_thread(squeue.parse, text, before=self._view.table)
            self._view = View(table, asked_at)
            self._next_start = asked_at + min(settings.interval_s, SHARE * (self._clock() - asked_at))
        except Error as error:
            problem = error.message
            self._view = replace(self._view, failed_at=self._clock(), why=problem)
        self._observe(Attempt(self._clock() - asked_at, problem, table))
