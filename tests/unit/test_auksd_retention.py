"""Forgetting users without jobs: whose clock runs, when it starts anew, and what no outage may cause."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hipercow_slurm.auksd.retention import Idle, Retention, idle_times, login_of
from hipercow_slurm.errors import UnavailableError
from hipercow_slurm.store.base import Entry
from hipercow_slurm.store.envelope import Keys
from hipercow_slurm.store.sqlite import SqliteStore
from hipercow_slurm.values import KrbCred, TicketTimes

ALICE, BOB = 5001, 5002
GRACE_S = 100.0


def cred(name: str, *, endtime: int = 2000, renew_till: int = 9000) -> KrbCred:
    return KrbCred(b"data", f"{name}@R", TicketTimes(1000, endtime, renew_till))


@pytest.mark.parametrize(
    ("before", "with_jobs", "since_last_s", "after"),
    [
        ({}, set(), 30.0, 0.0),  # seen for the first time
        ({ALICE: Idle(50.0, 9)}, set(), 30.0, 80.0),
        ({ALICE: Idle(50.0, 9)}, set(), 0.0, 50.0),  # slurmctld was silent in between
        ({ALICE: Idle(50.0, 9)}, {ALICE}, 30.0, None),
        ({ALICE: Idle(50.0, 8)}, set(), 30.0, 0.0),  # logged in again, at another daemon
        ({BOB: Idle(50.0, 9)}, set(), 30.0, 0.0),
    ],
)
def test_a_clock(before: dict[int, Idle], with_jobs: set[int], since_last_s: float, after: float | None) -> None:
    found = idle_times(before, {ALICE: 9}, with_jobs, since_last_s)
    assert found == ({} if after is None else {ALICE: Idle(after, 9)})


def test_a_login_differs_from_a_renewal() -> None:
    first = login_of(Entry.of(1, cred("alice")))
    assert login_of(Entry.of(1, cred("alice", endtime=3000))) == first, "a renewal moves the endtime only"
    assert login_of(Entry.of(1, cred("alice", renew_till=9001))) > first
    plain = login_of(Entry.of(1, cred("alice", renew_till=0)))
    assert login_of(Entry.of(1, cred("alice", endtime=2001, renew_till=0))) > plain


class Site:
    """A store, who has jobs, a clock, and the retention over them."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.now = 0.0
        self.with_jobs: set[int] | None = set()  # None: slurmctld is silent
        self.while_asked: list[int] = []  # who comes back while squeue runs
        self.forgotten: list[int] = []
        self.retention = Retention(store, store.entries, self, GRACE_S, self._forgotten, clock=lambda: self.now)

    async def uids(self, *, max_age_s: float) -> frozenset[int]:
        for uid in self.while_asked:
            self.retention.touch(uid)
        if self.with_jobs is None:
            raise UnavailableError("slurmctld does not answer", code="scheduler-unreachable")
        return frozenset(self.with_jobs)

    async def _forgotten(self, entry: Entry) -> None:
        self.forgotten.append(entry.uid)

    async def add(self, uid: int, name: str, **times: int) -> None:
        self.retention.touch(uid)
        await self.store.put(uid, cred(name, **times), lambda old, new: True)

    async def look(self, after_s: float) -> list[int]:
        """What is stored after one more look."""
        self.now += after_s
        try:
            await self.retention.look()
        except UnavailableError:
            assert self.with_jobs is None
        return [entry.uid for entry in await self.store.entries()]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    store = SqliteStore(tmp_path / "creds.db", Keys(b"k" * 32))
    made = Site(store)
    await made.add(ALICE, "alice")
    await made.add(BOB, "bob")
    yield made
    await store.close()


async def test_who_has_no_job_for_the_grace_time_goes_and_nobody_else(site: Site) -> None:
    site.with_jobs = {BOB}
    assert await site.look(0) == [ALICE, BOB]
    assert await site.look(99) == [ALICE, BOB]
    assert await site.look(1) == [BOB]
    assert site.forgotten == [ALICE]
    for _ in range(5):
        assert await site.look(1000) == [BOB], "bob has a job"


async def test_a_job_starts_the_clock_anew(site: Site) -> None:
    site.with_jobs = {BOB}
    await site.look(0)
    await site.look(90)
    site.with_jobs = {ALICE, BOB}
    await site.look(5)
    site.with_jobs = {BOB}
    assert await site.look(5) == [ALICE, BOB]
    assert await site.look(99) == [ALICE, BOB]
    assert await site.look(1) == [BOB]


async def test_a_silent_slurmctld_never_counts(site: Site) -> None:
    await site.look(0)
    await site.look(50)
    site.with_jobs = None
    for _ in range(10):
        assert await site.look(1000) == [ALICE, BOB]
    site.with_jobs = set()
    assert await site.look(1000) == [ALICE, BOB], "nobody knows who had a job during the outage"
    assert await site.look(49) == [ALICE, BOB]
    assert await site.look(1) == [], "what was seen before the outage still counts"


async def test_a_fresh_add_starts_the_clock_anew(site: Site) -> None:
    site.with_jobs = {BOB}
    await site.look(0)
    await site.look(99)
    site.retention.touch(ALICE)  # also one that is not better than what is stored
    assert await site.look(1) == [ALICE, BOB]
    assert await site.look(99) == [ALICE, BOB]
    assert await site.look(1) == [BOB]


async def test_an_add_while_squeue_runs_is_not_judged_by_its_answer(site: Site) -> None:
    site.with_jobs = {BOB}
    await site.look(0)
    site.while_asked = [ALICE]
    assert await site.look(100) == [ALICE, BOB]
    site.while_asked = []
    assert await site.look(99) == [ALICE, BOB]
    assert await site.look(1) == [ALICE, BOB], "the clock began with the first answer asked for after the ADD"
    assert await site.look(100) == [BOB]


async def test_a_login_at_another_daemon_on_the_same_store_counts(site: Site) -> None:
    site.with_jobs = {BOB}
    await site.look(0)
    await site.look(99)
    await site.store.put(ALICE, cred("alice", renew_till=9001), lambda old, new: True)
    assert await site.look(1) == [ALICE, BOB]
    await site.store.put(ALICE, cred("alice", endtime=3000, renew_till=9001), lambda old, new: True)
    assert await site.look(100) == [BOB], "a renewal is no login"


async def test_off_and_on_again(site: Site) -> None:
    """Both by HUP; while it is off no clock runs."""
    await site.look(0)
    await site.look(50)
    site.retention.grace_s = None
    for _ in range(3):
        assert await site.look(1000) == [ALICE, BOB]
    site.retention.grace_s = GRACE_S
    assert await site.look(1000) == [ALICE, BOB]
    site.retention.grace_s = 1.5
    task = asyncio.create_task(site.retention.run())
    await asyncio.sleep(0.2)
    site.now += 2
    for _ in range(400):
        await asyncio.sleep(0.05)
        if len(site.forgotten) == 2:
            break
    task.cancel()
    assert site.forgotten == [ALICE, BOB]
