"""Keeps every stored ticket alive: renews at half its life, retries until it has really expired, then drops it.

    agenda --due--> pacing --> asking: at most ``threads`` at once, at most ``rate_per_s`` begun per second
       ^                          |
       +-- next plan <-- store <--+ answers: what came in some hundredths of a second is stored in one go

Rule 1: a uid is in ``_busy`` from the moment it is queued until its renewal is done, and is planned again only then,
from what the store holds: no credential is renewed twice at once, and a fresher one that came meanwhile wins.
Rule 2: a renewed ticket is stored only over one of the same principal: a removal during the renewal stays a removal.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence

from hipercow_slurm import log
from hipercow_slurm.auksd.agenda import Act, Agenda, Plan, Timing, earliest, plan, plan_retry
from hipercow_slurm.auksd.asking import Asking, Renew
from hipercow_slurm.auksd.deciding import replaces
from hipercow_slurm.auksd.pacing import Pacing
from hipercow_slurm.errors import Error, UnavailableError
from hipercow_slurm.store.base import Entry, Put, Sealed, Store
from hipercow_slurm.values import KrbCred

LONGEST_SLEEP_S = 15.0  # so that a step of the system clock is noticed
SOONEST_AGAIN_S = 1.0  # whatever a KDC answers, no credential is renewed more often than this
TAKEN = 256  # of what is due, before others have their turn on the event loop
UNKEPT = 256  # answers that wait for the store; no more is asked then

Following = Mapping[int, Plan | None]  # by uid: what to do with it next, None if there is nothing


class Renewer:
    """Renews what ``store`` holds; ``run`` until cancelled.

    Args:
        renew: asks the KDC, for a few at a time.
        threads: how many it is asked for at once.
        rate_per_s: how many are begun per second: after an outage everything is due.
        now: seconds since 1970.
        asked: told how long the KDC took for each, and the error if it was one; in any thread.
        observe: told of each ``renewed``, ``failed`` (to be tried again) and ``dropped``.

    Attributes:
        asking: what asks the KDC.
    """

    def __init__(
        self,
        store: Store,
        renew: Renew,
        *,
        threads: int = 4,
        rate_per_s: float = 50.0,
        timing: Timing | None = None,
        now: Callable[[], float] = time.time,
        observe: Callable[[str], None] = lambda result: None,
        asked: Callable[[float, Error | None], None] = lambda seconds, error: None,
    ) -> None:
        self.asking = Asking(renew, threads, asked)
        self._observe = observe
        self._due_since: dict[int, float] = {}  # those whose renewal is due and has not succeeded yet
        self._store = store
        self._threads = threads
        self._pacing = Pacing(threads, rate_per_s)
        self._timing = timing or Timing()
        self._now = now
        self._agenda = Agenda()
        self._busy: set[int] = set()
        self._room = asyncio.Event()
        self._failures: dict[int, int] = {}
        self._changed = asyncio.Event()
        self._log = log.get()

    def schedule(self, entry: Entry) -> None:
        """``entry`` is now in the store: forget what was planned for its uid and plan anew."""
        self._settled(entry.uid)
        self._plan(entry.uid, plan(entry.times, self._timing, self._spread()))

    def forget(self, uid: int) -> None:
        """Nothing is stored for ``uid`` any more."""
        self._settled(uid)
        self._agenda.discard(uid)

    def late_s(self) -> float:
        """By how long the most overdue renewal is late, tries that failed included; 0 if none is due."""
        now = self._now()
        return max(0.0, now - min(self._due_since.values(), default=now))

    async def load(self) -> int:
        """Plan for everything in the store; returns how much that is."""
        entries = await self._store.entries()
        for entry in entries:
            self.schedule(entry)
        return len(entries)

    async def run(self) -> None:
        """Renew and drop, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._threads):
                group.create_task(self._consume())
            group.create_task(self._keep())
            group.create_task(self._watch())

    def stop(self) -> None:
        """Let the threads end; waits for none that hangs in a KDC."""
        self.asking.stop()

    # What is due

    async def _watch(self) -> None:
        """Move what is due: renewals into the queue, expired credentials out of the store."""
        while True:
            now = self._now()
            due = self._agenda.due(now)
            await self._take(list(itertools.islice(due, TAKEN)), now)  # so that the threads have work meanwhile
            rest = []
            while some := list(itertools.islice(due, TAKEN)):
                rest += some
                await asyncio.sleep(0)
            await self._take(rest, now)
            self._changed.clear()
            at = self._agenda.next_at()
            wait = LONGEST_SLEEP_S if at is None else min(LONGEST_SLEEP_S, max(0.0, at - self._now()))
            # Not wait_for: that one (3.11) swallows a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()

    async def _take(self, due: Sequence[tuple[int, Plan]], now: float) -> None:
        # After an outage there are many: the urgent ones first. Neighbours are beside each other in the store too, and
        # reading and writing them together is a few pages; so no finer order than that.
        renew = sorted((what.urgency(now), uid) for uid, what in due if what.act is Act.RENEW)
        for begin in range(0, len(renew), TAKEN):
            for _, uid in renew[begin : begin + TAKEN]:
                if uid not in self._busy:
                    self._enqueue(uid)
            await asyncio.sleep(0)
        # Together: the store makes one transaction of them.
        await asyncio.gather(*(self._drop(uid) for uid, what in due if what.act is Act.DROP and uid not in self._busy))

    def _enqueue(self, uid: int) -> None:
        self._busy.add(uid)
        self._due_since.setdefault(uid, self._now())
        self._pacing.put(uid)

    async def _drop(self, uid: int) -> None:
        """Remove what has expired; if something fresher is there by now, plan for that."""
        try:
            gone = await self._store.remove(uid, lambda entry: entry.times.endtime <= self._now())
            sealed = await self._store.get(uid) if gone is None else None
        except Error as error:
            self._log.error("renew.store_failed", uid=uid, code=error.code, why=error.message)
            self._plan(uid, Plan(Act.DROP, self._later().at))
            return
        if gone is not None:
            why = "renew_till reached" if gone.times.renew_till <= gone.times.endtime else "could not be renewed"
            self._settled(uid)
            self._observe("dropped")
            self._log.info("renew.dropped", uid=uid, principal=gone.principal, endtime=gone.times.endtime, why=why)
        elif sealed is not None:
            self._plan(uid, plan(sealed.entry.times, self._timing, self._spread()))

    # Asking for it

    async def _consume(self) -> None:
        while True:
            while self.asking.untaken >= UNKEPT:
                self._room.clear()
                await self._room.wait()
            due = await self._begun(await self._pacing.turn())
            await self.asking.ask(due, lambda rest: self._pacing.put_back([one.entry.uid for one in rest]))

    async def _begun(self, uids: Sequence[int]) -> list[Sealed]:
        """What is stored for these, if it is to be renewed; for the others it is over."""
        due: list[Sealed] = []
        following: dict[int, Plan | None] = {}
        try:
            stored = await self._store.get_all(uids)
        except Error as error:  # it may be well again soon
            following = {uid: self._store_failed(uid, error) for uid in uids}
        else:
            for uid in uids:
                sealed = stored.get(uid)
                if sealed is not None and self._is_due(sealed.entry):
                    due.append(sealed)
                else:
                    following[uid] = self._not_due(uid, None if sealed is None else sealed.entry)
        await self._done(following)
        return due

    def _is_due(self, entry: Entry) -> bool:
        """False if it has expired, or a fresh one came; the earliest moment counts, with as much jitter as there is."""
        now = self._now()
        return now < entry.times.endtime and earliest(entry.times, self._timing) <= now

    def _not_due(self, uid: int, entry: Entry | None) -> Plan | None:
        if entry is None:
            self._settled(uid)
            return None
        if entry.times.endtime <= self._now():  # no KDC renews it any more
            return Plan(Act.DROP, entry.times.endtime)
        return plan(entry.times, self._timing, self._spread())

    # What came of it

    async def _keep(self) -> None:
        """Store what was renewed, and plan for it and for what was not."""
        while True:
            renewed: dict[int, KrbCred] = {}
            following: dict[int, Plan | None] = {}
            for sealed, answer in await self.asking.answers():
                entry = sealed.entry
                if isinstance(answer, KrbCred) and answer.times.endtime > entry.times.endtime:
                    renewed[entry.uid] = answer
                else:
                    following[entry.uid] = self._not_renewed(entry, answer)
            self._room.set()
            if renewed:
                following |= await self._stored(renewed)
            await self._done(following)

    async def _stored(self, renewed: Mapping[int, KrbCred]) -> dict[int, Plan | None]:
        try:
            done = await self._store.put_all(renewed, self._over)
        except Error as error:  # it may be well again soon
            return {uid: self._store_failed(uid, error) for uid in renewed}
        except Exception as error:
            return {uid: self._bug(uid, error) for uid in renewed}
        log.hold()
        try:
            return {uid: self._renewed(uid, new, done[uid]) for uid, new in renewed.items()}
        finally:
            log.release()

    def _renewed(self, uid: int, new: KrbCred, done: Put) -> Plan | None:
        self._settled(uid)
        self._observe("renewed")
        told = {"uid": uid, "principal": new.client, "endtime": new.times.endtime}
        log.info("renew.done", told | {"renew_till": new.times.renew_till, "stored": done.stored})
        if done.entry is None:
            return None
        following = plan(done.entry.times, self._timing, self._spread())
        return Plan(following.act, max(following.at, self._now() + SOONEST_AGAIN_S), following.endtime)

    def _over(self, old: Entry | None, new: Entry) -> bool:
        return old is not None and old.principal == new.principal and replaces(old, new, self._now())

    def _not_renewed(self, entry: Entry, answer: KrbCred | Exception) -> Plan:
        if isinstance(answer, KrbCred):
            answer = UnavailableError("the renewed ticket ends no later than the old one", code="renew-no-gain")
        return self._failed(entry, answer) if isinstance(answer, Error) else self._bug(entry.uid, answer)

    def _failed(self, entry: Entry, error: Error) -> Plan:
        failures = self._failures[entry.uid] = self._failures.get(entry.uid, 0) + 1
        following = plan_retry(entry.times, self._timing, self._spread(), failures=failures, now=self._now())
        self._observe("failed")
        self._log.warning(
            "renew.failed",
            uid=entry.uid,
            principal=entry.principal,
            endtime=entry.times.endtime,
            failures=failures,
            next=following.act.value,
            next_in_s=round(following.at - self._now(), 1),
            code=error.code,
            why=error.message,
        )
        return following

    def _store_failed(self, uid: int, error: Error) -> Plan:
        self._log.error("renew.store_failed", uid=uid, code=error.code, why=error.message)
        return self._later()

    def _bug(self, uid: int, error: BaseException | None = None) -> Plan:
        self._log.error("renew.bug", uid=uid, exc_info=error or True)
        return self._later()

    async def _done(self, following: Following) -> None:
        """The turn of these is over."""
        for uid, planned in following.items():
            self._busy.discard(uid)
            if planned is not None:
                self._plan(uid, planned)

    def _settled(self, uid: int) -> None:
        """Nothing is overdue for ``uid`` any more."""
        self._failures.pop(uid, None)
        self._due_since.pop(uid, None)

    def _plan(self, uid: int, following: Plan) -> None:
        self._agenda.set(uid, following)
        self._changed.set()

    def _later(self) -> Plan:
        return Plan(Act.RENEW, self._now() + self._timing.retry_max_s)

    def _spread(self) -> float:
        return random.uniform(-1.0, 1.0)  # noqa: S311  # no secret in it
