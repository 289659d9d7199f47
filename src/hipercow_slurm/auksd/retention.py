"""Forgetting: a user's record goes when slurmctld has shown no job of theirs for the grace time.

The clock of a user counts only time between two good answers that both show no job: whatever happened while slurmctld
was silent, nobody's clock ran. It is kept in memory, so a restart of the daemon starts every clock anew: a record may
stay longer than the grace time, never shorter. An ADD starts the user's clock anew, also when what it offered was
not better than what is stored.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from hipercow_slurm import log
from hipercow_slurm.errors import Error
from hipercow_slurm.store.base import Entry, Store

LONGEST_WAIT_S = 60.0
SHORTEST_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class Idle:
    """A user without a job: for how long that is known, and the mark of the login whose ticket is stored."""

    seconds: float
    login: int


def login_of(entry: Entry) -> int:
    """A number that a new login makes greater and a renewal leaves alone."""
    return entry.times.renew_till or entry.times.endtime


def idle_times(
    before: Mapping[int, Idle], stored: Mapping[int, int], with_jobs: Collection[int], since_last_s: float
) -> dict[int, Idle]:
    """How long each stored uid has been seen without a job.

    Args:
        before: what this gave for the previous answer.
        stored: the ``login_of`` each record, by uid.
        with_jobs: uids with a job, from a new answer.
        since_last_s: between the two answers; 0 if slurmctld was silent in between.
    """
    known = {uid: before.get(uid, Idle(0.0, -1)) for uid in stored}
    return {
        uid: Idle(known[uid].seconds + since_last_s if known[uid].login == login else 0.0, login)
        for uid, login in stored.items()
        if uid not in with_jobs
    }


class JobsOf(Protocol):
    """``jobs.Jobs``, as far as it is needed here."""

    async def uids(self, *, max_age_s: float) -> frozenset[int]:
        """Everyone with a job, or UnavailableError."""


Forgotten = Callable[[Entry], Awaitable[None]]


class Retention:
    """Looks after a store; ``run`` until cancelled.

    Args:
        store: what to forget from.
        entries: everything that is in it.
        jobs: whom to ask; may be replaced while running.
        grace_s: how long without a job; None: nobody is forgotten. May be changed while running.
        forgotten: awaited for each record that is gone.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        entries: Callable[[], Awaitable[Iterable[Entry]]],
        jobs: JobsOf,
        grace_s: float | None,
        forgotten: Forgotten,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.jobs = jobs
        self.grace_s = grace_s
        self._store = store
        self._entries = entries
        self._forgotten = forgotten
        self._clock = clock
        self._idle: dict[int, Idle] = {}
        self._touched: set[int] = set()
        self._answered_at: float | None = None
        self._log = log.get()

    def touch(self, uid: int) -> None:
        """A credential of ``uid`` is about to be stored: start its clock anew."""
        self._touched.add(uid)
        self._idle.pop(uid, None)

    async def run(self) -> None:
        """Look and forget, until cancelled."""
        while True:
            try:
                await self.look()
            except Error as error:
                self._log.warning("retention.paused", code=error.code, why=error.message)
            await asyncio.sleep(max(SHORTEST_WAIT_S, min(LONGEST_WAIT_S, (self.grace_s or LONGEST_WAIT_S) / 4)))

    async def look(self) -> None:
        """Ask once, and forget whose time is over.

        Raises:
            UnavailableError: slurmctld does not tell, or the store fails; no clock has run.
        """
        grace_s = self.grace_s
        if grace_s is None:
            self._idle, self._answered_at = {}, None
            return
        last, self._answered_at = self._answered_at, None
        # First the records, then the jobs: who was stored after the question is not judged by its answer.
        self._touched.clear()
        stored = {entry.uid: login_of(entry) for entry in await self._entries()}
        asked_at = self._clock()
        with_jobs = await self.jobs.uids(max_age_s=0.0)
        for uid in self._touched:
            stored.pop(uid, None)
        self._idle = idle_times(self._idle, stored, with_jobs, 0.0 if last is None else asked_at - last)
        self._answered_at = asked_at
        for uid, idle in list(self._idle.items()):
            if idle.seconds >= grace_s:
                await self._forget(uid, idle)

    async def _forget(self, uid: int, idle: Idle) -> None:
        # The rule runs when nobody else changes the record: who has come back meanwhile, here or at another daemon
        # on the same store, stays.
        gone = await self._store.remove(uid, lambda entry: uid in self._idle and login_of(entry) <= idle.login)
        self._idle.pop(uid, None)
        if gone is not None:
            self._log.info("retention.forgotten", uid=uid, principal=gone.principal, idle_s=round(idle.seconds))
            await self._forgotten(gone)
