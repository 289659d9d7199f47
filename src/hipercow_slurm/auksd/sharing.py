"""The renewer for a store that several instances share: the database has the agenda, and hands out claims.

Rule 1: only who has claimed a credential renews it. The claim is kept alive while the renewal lasts (``_beat``); if
it could not be, for as long as it is valid, the renewal is not begun.
Rule 2: when a credential is due is written together with it, by whoever stores it: nothing has to be told around.
Rule 3: an instance claims what its threads can do soon, not all that is due; the others take the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hipercow_slurm.auksd.agenda import Act, Plan, plan
from hipercow_slurm.auksd.asking import Renew
from hipercow_slurm.auksd.renewer import SOONEST_AGAIN_S, Following, Renewer
from hipercow_slurm.errors import Error
from hipercow_slurm.store.base import Entry, Sealed, Store

if TYPE_CHECKING:
    from hipercow_slurm.store.postgres import Claim, PostgresStore

POLL_S = 1.0  # how soon a credential that another instance stored, or a dead one had claimed, is noticed
LEAST_POLL_S = 0.1
DROPS = 500


class SharedRenewer(Renewer):
    """A ``Renewer`` whose agenda is in PostgreSQL; arguments as there."""

    def __init__(self, store: PostgresStore, renew: Renew, **options: Any) -> None:
        super().__init__(store, renew, **options)
        self._shared = store
        self._pacing.together = 1  # a claim is looked at right before it is used
        self._claims: dict[int, Claim] = {}
        self._held_until: dict[int, float] = {}  # by the event loop's clock
        self._next_due: float | None = None
        store.due = self._due

    def schedule(self, entry: Entry) -> None:
        """``entry`` is now in the store, with its due time: look when that is."""
        self._changed.set()

    def forget(self, uid: int) -> None:
        """Nothing is stored for ``uid`` any more: nothing to do, its due time went with it."""

    def late_s(self) -> float:
        """As ``Renewer.late_s``, over all instances."""
        return max(super().late_s(), 0.0 if self._next_due is None else self._now() - self._next_due)

    async def load(self) -> int:
        """How much is stored."""
        return sum((await self._shared.key_use()).records.values())

    async def run(self) -> None:
        """Renew and drop, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(super().run())
            group.create_task(self._beat())

    async def _watch(self) -> None:
        while True:
            wait = POLL_S
            self._changed.clear()
            try:
                room = await self._look()
                self._next_due = await self._shared.next_due()
                if room and self._next_due is not None:
                    wait = min(POLL_S, self._next_due - self._now())
            except Error as error:
                self._log.error("renew.store_failed", code=error.code, why=error.message)
            await asyncio.sleep(LEAST_POLL_S)  # a burst of changes is one look
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, wait - LEAST_POLL_S)):
                    await self._changed.wait()

    async def _look(self) -> int:
        """Drop what has expired, claim what is due; returns how many more could have been claimed."""
        now, loop = self._now(), asyncio.get_running_loop()
        await asyncio.gather(*(self._drop(uid) for uid in await self._shared.over(now, DROPS) if uid not in self._busy))
        room = 2 * self._threads - len(self._busy)
        if room <= 0:
            return 0
        held_until = loop.time() + self._shared.lease_s
        claims = await self._shared.claim(now, room)
        for claim in claims:
            self._claims[claim.uid] = claim
            self._held_until[claim.uid] = held_until
            if claim.uid in self._busy:  # ours had run out while we were at it: now it is ours again
                continue
            self._failures[claim.uid] = claim.failures
            self._enqueue(claim.uid)
        return room - len(claims)

    async def _begun(self, uids: Sequence[int]) -> list[Sealed]:
        now = asyncio.get_running_loop().time()
        lost = [uid for uid in uids if now >= self._held_until[uid]]
        for uid in lost:
            self._log.warning("renew.claim_lost", uid=uid)
        await self._done(dict.fromkeys(lost))
        return await super()._begun([uid for uid in uids if uid not in lost])

    async def _done(self, following: Following) -> None:
        """Give the claims back with what was planned."""
        await asyncio.gather(*(self._give_back(uid, planned) for uid, planned in following.items()))
        self._changed.set()

    async def _give_back(self, uid: int, planned: Plan | None) -> None:
        claim = self._claims.pop(uid)
        self._held_until.pop(uid, None)
        due = self._now() if planned is None else planned.at
        try:
            await self._shared.settle(claim, due, self._failures.pop(uid, 0))
        except Error as error:  # then it runs out
            self._log.error("renew.store_failed", uid=uid, code=error.code, why=error.message)
        self._due_since.pop(uid, None)
        self._busy.discard(uid)

    def _plan(self, uid: int, following: Plan) -> None:
        """The database has the plan."""
        self._changed.set()

    async def _beat(self) -> None:
        """Keep the claims, and this instance's name among the living."""
        loop = asyncio.get_running_loop()
        while True:
            began, uids = loop.time(), tuple(self._claims)
            try:
                await self._shared.beat(uids)
                for uid in uids:
                    if uid in self._held_until:
                        self._held_until[uid] = began + self._shared.lease_s
            except Error as error:
                self._log.error("renew.store_failed", code=error.code, why=error.message)
            await asyncio.sleep(self._shared.lease_s / 4)

    def _due(self, entry: Entry) -> float:
        planned = plan(entry.times, self._timing, self._spread())
        return planned.at if planned.act is Act.DROP else max(planned.at, self._now() + SOONEST_AGAIN_S)


def make_renewer(store: Store, renew: Renew, **options: Any) -> Renewer:
    """The renewer that fits the store."""
    try:
        from hipercow_slurm.store.postgres import PostgresStore
    except ModuleNotFoundError:  # the extra is not installed, so it is no such store
        return Renewer(store, renew, **options)
    return (
        SharedRenewer(store, renew, **options) if isinstance(store, PostgresStore) else Renewer(store, renew, **options)
    )
