"""Keeps every stored ticket alive: renews at half its life, retries until it has really expired, then drops it.

    agenda --due--> queue --> at most ``threads`` renewals at once, at most ``rate_per_s`` begun per second
       ^                                   |
       +------- next plan <-- store <------+

Rule 1: a uid is in ``_busy`` from the moment it is queued until its renewal is done, and is planned again only then,
from what the store holds: no credential is renewed twice at once, and a fresher one that came meanwhile wins.
Rule 2: a renewed ticket is stored only over one of the same principal: a removal during the renewal stays a removal.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable

from hipercow_slurm import log
from hipercow_slurm.auksd.agenda import Act, Agenda, Plan, Timing, plan, plan_retry
from hipercow_slurm.auksd.deciding import replaces
from hipercow_slurm.auksd.workers import Workers
from hipercow_slurm.errors import Error, UnavailableError
from hipercow_slurm.krb5 import krbcred, renewal
from hipercow_slurm.store.base import Entry, Store
from hipercow_slurm.values import KrbCred

LONGEST_SLEEP_S = 15.0  # so that a step of the system clock is noticed
SOONEST_AGAIN_S = 1.0  # whatever a KDC answers, no credential is renewed more often than this

Renew = Callable[[KrbCred], KrbCred]


class Renewer:
    """Renews what ``store`` holds; ``run`` until cancelled.

    Args:
        renew: asks the KDC; blocks, perhaps long.
        threads: how many such calls at once.
        rate_per_s: how many are begun per second: after an outage everything is due.
        now: seconds since 1970.
        observe: told of each ``renewed``, ``failed`` (to be tried again) and ``dropped``.

    Attributes:
        elsewhere: as ``renew``, in another process; None from it: there is none, take a thread.
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
    ) -> None:
        self.elsewhere: Callable[[KrbCred], Awaitable[KrbCred] | None] = lambda cred: None
        self._observe = observe
        self._due_since: dict[int, float] = {}  # those whose renewal is due and has not succeeded yet
        self._store = store
        self._renew_at_kdc = renew
        self._workers = Workers(threads, "renew")
        self._threads = threads
        self._rate_per_s = rate_per_s
        self._timing = timing or Timing()
        self._now = now
        self._agenda = Agenda()
        self._queue: asyncio.Queue[int] = asyncio.Queue()
        self._busy: set[int] = set()
        self._failures: dict[int, int] = {}
        self._changed = asyncio.Event()
        self._next_slot = 0.0
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
            group.create_task(self._watch())

    def stop(self) -> None:
        """Let the threads end; waits for none that hangs in a KDC."""
        self._workers.stop()

    async def _watch(self) -> None:
        """Move what is due: renewals into the queue, expired credentials out of the store."""
        while True:
            dropped = []
            for uid, act in self._agenda.due(self._now()):
                if uid in self._busy:
                    continue
                if act is Act.DROP:
                    dropped.append(self._drop(uid))
                else:
                    self._busy.add(uid)
                    self._due_since.setdefault(uid, self._now())
                    self._queue.put_nowait(uid)
            await asyncio.gather(*dropped)  # together: the store makes one transaction of them
            self._changed.clear()
            at = self._agenda.next_at()
            wait = LONGEST_SLEEP_S if at is None else min(LONGEST_SLEEP_S, max(0.0, at - self._now()))
            # Not wait_for: that one (3.11) swallows a cancellation that comes together with the event.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()

    async def _consume(self) -> None:
        while True:
            uid = await self._queue.get()
            await self._slot()
            try:
                following = await self._renew(uid)
            except Error as error:  # the store's: it may be well again soon
                self._log.error("renew.store_failed", uid=uid, code=error.code, why=error.message)
                following = self._later()
            except Exception:
                self._log.exception("renew.bug", uid=uid)
                following = self._later()
            await self._done(uid, following)

    async def _done(self, uid: int, following: Plan | None) -> None:
        """The turn of ``uid`` is over."""
        self._busy.discard(uid)
        if following is not None:
            self._plan(uid, following)

    async def _slot(self) -> None:
        """Wait for this renewal's turn under the rate cap."""
        loop = asyncio.get_running_loop()
        at = max(self._next_slot, loop.time())
        self._next_slot = at + 1 / self._rate_per_s
        if (wait := at - loop.time()) > 0:
            await asyncio.sleep(wait)

    async def _renew(self, uid: int) -> Plan | None:
        """Renew what is stored for ``uid``; what to do with it next, None if there is nothing."""
        sealed = await self._store.get(uid)
        if sealed is None:
            self._settled(uid)
            return None
        entry = sealed.entry
        if entry.times.endtime <= self._now():  # no KDC renews it any more
            return Plan(Act.DROP, entry.times.endtime)
        if plan(entry.times, self._timing, -1.0).at > self._now():  # a fresh one came
            return plan(entry.times, self._timing, self._spread())
        try:
            new = await self._ask(sealed.open())
            if new.times.endtime <= entry.times.endtime:
                raise UnavailableError("the renewed ticket ends no later than the old one", code="renew-no-gain")
        except Error as error:
            return self._failed(entry, error)
        done = await self._store.put(uid, new, self._over)
        self._settled(uid)
        self._observe("renewed")
        told = {"uid": uid, "principal": entry.principal, "endtime": new.times.endtime}
        log.info("renew.done", told | {"renew_till": new.times.renew_till, "stored": done.stored})
        if done.entry is None:
            return None
        following = plan(done.entry.times, self._timing, self._spread())
        return Plan(following.act, max(following.at, self._now() + SOONEST_AGAIN_S))

    async def _ask(self, cred: KrbCred) -> KrbCred:
        asking = self.elsewhere(cred)
        return await (self._workers.run(self._renew_at_kdc, cred) if asking is None else asking)

    def _over(self, old: Entry | None, new: Entry) -> bool:
        return old is not None and old.principal == new.principal and replaces(old, new, self._now())

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


def renew_at_kdc(cred: KrbCred) -> KrbCred:
    """Renew a credential at the KDC; blocks, raises what ``krb5.renewal.renew`` raises.

    A cross-realm ticket that would keep the whole from lasting longer is left out: a record ends with its first
    ticket to end.
    """
    new = renewal.renew(cred)
    if new.tickets > 1 and new.times.endtime <= cred.times.endtime:
        return krbcred.build(krbcred.tickets(new)[:1])
    return new
