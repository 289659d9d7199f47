"""The renewer's bookkeeping, with a KDC made of a function: what real time would make slow or random."""

import asyncio
import contextlib
import threading
import time

import pytest

from hipercow_slurm.auksd.agenda import Act, Plan, Timing
from hipercow_slurm.auksd.asking import OneByOne
from hipercow_slurm.auksd.renewer import TAKEN, Renewer
from hipercow_slurm.errors import UnavailableError
from hipercow_slurm.store.base import Entry
from hipercow_slurm.store.envelope import Keys
from hipercow_slurm.store.sqlite import SqliteStore
from hipercow_slurm.values import KrbCred, TicketTimes

TIMING = Timing(retry_first_s=0.05, retry_max_s=0.1)


class Kdc:
    """Renews for ``life_s`` seconds more; records who was being renewed with whom, and how often."""

    def __init__(self):
        self.life_s = 1000
        self.takes_s = 0.0
        self.down = False
        self.calls: list[str] = []
        self.together = 0
        self.twice: list[str] = []
        self._now: list[str] = []
        self._lock = threading.Lock()

    def __call__(self, cred):
        with self._lock:
            self.calls.append(cred.client)
            if cred.client in self._now:
                self.twice.append(cred.client)
            self._now.append(cred.client)
            self.together = max(self.together, len(self._now))
        time.sleep(self.takes_s)
        with self._lock:
            self._now.remove(cred.client)
        if self.down:
            raise UnavailableError("KDC unreachable", code="kdc-unreachable")
        now = int(time.time())
        return KrbCred(cred.der, cred.client, TicketTimes(now, now + self.life_s, cred.times.renew_till))


def due(client="u@R", *, left=500, renew=100_000):
    """A credential long past its half life."""
    now = int(time.time())
    return KrbCred(b"data", client, TicketTimes(now - 9000, now + left, now + renew))


def by(kdc):
    """What a renewer takes, by a function that renews one."""
    return lambda creds: OneByOne(creds, kdc)


@pytest.fixture
def kdc():
    return Kdc()


@pytest.fixture
async def store(tmp_path):
    store = SqliteStore(tmp_path / "creds.db", Keys(b"k" * 32))
    yield store
    await store.close()


@contextlib.asynccontextmanager
async def running(store, kdc, **options):
    renewer = Renewer(store, by(kdc), timing=TIMING, **{"rate_per_s": 10_000.0, **options})
    await renewer.load()
    task = asyncio.create_task(renewer.run())
    try:
        yield renewer
        assert not task.done(), task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        renewer.stop()


async def put(store, uid, cred):
    return (await store.put(uid, cred, lambda old, new: True)).entry


async def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not come true in time"
        await asyncio.sleep(0.01)


async def test_everything_due_is_renewed_once_and_never_more_than_the_threads_allow(store, kdc):
    kdc.takes_s = 0.005
    for uid in range(100):
        await put(store, uid, due(f"u{uid}@R"))
    async with running(store, kdc, threads=4) as renewer:
        await until(lambda: len(kdc.calls) == 100)
        await asyncio.sleep(0.1)
        assert len(renewer._agenda) == 100, "each is planned again"
    assert sorted(kdc.calls) == sorted(f"u{uid}@R" for uid in range(100))
    assert (kdc.together, kdc.twice) == (4, [])


async def test_after_an_outage_the_urgent_ones_come_first_and_neighbours_together(store, kdc):
    """Due for long, all of them; how long ago says nothing, how long they still live does."""
    left = {uid: 100 if uid % 5 == 0 else 1500 if uid % 5 == 3 else 1900 for uid in range(50)}
    for uid, seconds in left.items():
        await put(store, uid, due(f"u{uid}@R", left=seconds))
    async with running(store, kdc, threads=1):
        await until(lambda: len(kdc.calls) == 50)
    urgent = [uid for uid, seconds in left.items() if seconds == 100]
    others = [uid for uid, seconds in left.items() if seconds != 100]
    assert kdc.calls == [f"u{uid}@R" for uid in urgent + others]


async def test_much_that_is_due_at_once_keeps_nobody_from_the_event_loop(store, kdc):
    """It is taken a few hundred at a time, and the first of them begin before the last are looked at."""
    renewer, count = Renewer(store, by(kdc), timing=TIMING, rate_per_s=10_000.0), 20 * TAKEN
    for uid in range(count):
        renewer._agenda.set(uid, Plan(Act.RENEW, 1.0, 2**31))
    queued, begun = [], []
    put_in, begin = renewer._pacing.put, renewer._begun
    renewer._pacing.put = lambda uid: queued.append(uid) or put_in(uid)
    renewer._begun = lambda uids: begun.append(len(queued)) or begin(uids)
    task, most, before = asyncio.create_task(renewer.run()), 0, 0
    async with asyncio.timeout(60):
        while len(queued) < count:
            await asyncio.sleep(0)
            most, before = max(most, len(queued) - before), len(queued)
    task.cancel()
    await asyncio.wait({task})
    renewer.stop()
    assert sorted(queued) == list(range(count))
    assert most <= TAKEN, f"{most} in one turn of the loop"
    assert begun[0] < count / 2, f"the first began when {begun[0]} were queued"


async def test_the_rate_is_capped(store, kdc):
    for uid in range(20):
        await put(store, uid, due(f"u{uid}@R"))
    began = time.monotonic()
    async with running(store, kdc, rate_per_s=50.0):
        await until(lambda: len(kdc.calls) == 20)
    assert 0.3 < time.monotonic() - began < 1.5


async def test_one_credential_is_never_renewed_twice_at_once(store, kdc):
    kdc.takes_s = 0.1
    began = time.monotonic()
    async with running(store, kdc) as renewer:
        for _ in range(20):
            renewer.schedule(await put(store, 7, due()))
            await asyncio.sleep(0.01)
        await until(lambda: not renewer._busy)
    assert kdc.twice == []
    # One after the other: so many fit into the time that twenty puts took on this disk.
    assert len(kdc.calls) <= (time.monotonic() - began) / kdc.takes_s + 1, kdc.calls


async def test_failures_are_tried_again_ever_more_slowly_and_success_ends_it(store, kdc):
    kdc.down = True
    await put(store, 7, due())
    async with running(store, kdc) as renewer:
        await until(lambda: len(kdc.calls) >= 4)
        assert renewer._failures[7] >= 3
        assert (await store.get(7)) is not None, "kept while it lives"
        kdc.down = False
        await until(lambda: renewer._failures == {})
        assert (await store.get(7)).entry.times.endtime > time.time() + 900


async def test_dropped_only_when_it_has_really_expired(store, kdc):
    kdc.down = True
    await put(store, 7, due(left=2))  # one to two seconds: times are whole
    async with running(store, kdc) as renewer:
        await until(lambda: len(kdc.calls) >= 2)
        end = (await store.get(7)).entry.times.endtime
        while await store.get(7) is not None:
            assert time.time() < end + 1
            await asyncio.sleep(0.02)
        assert time.time() >= end
        assert len(renewer._agenda) == 0


async def test_a_fresh_one_that_came_during_the_renewal_wins(store, kdc):
    kdc.takes_s = 0.2
    await put(store, 7, due())
    async with running(store, kdc) as renewer:
        await until(lambda: kdc.calls)
        fresh = due(left=5000, renew=900_000)
        renewer.schedule(await put(store, 7, fresh))
        await until(lambda: not renewer._busy)
        assert (await store.get(7)).entry.times.renew_till == fresh.times.renew_till


async def test_a_removal_or_another_owner_during_the_renewal_stays(store, kdc):
    kdc.takes_s = 0.2
    await put(store, 7, due())
    await put(store, 8, due("old@R"))
    async with running(store, kdc) as renewer:
        await until(lambda: len(kdc.calls) == 2)
        await store.remove(7, lambda entry: True)
        renewer.forget(7)
        other = due("new@R", left=400, renew=500)
        renewer.schedule(await put(store, 8, other))
        await until(lambda: not renewer._busy)
        assert await store.get(7) is None
        assert (await store.get(8)).entry == Entry.of(8, other)


async def test_a_kdc_that_gives_nothing_more_is_not_asked_in_a_loop(store, kdc):
    kdc.life_s = 10  # less than what the old one has left
    await put(store, 7, due(left=500))
    async with running(store, kdc):
        await asyncio.sleep(0.5)
    assert 2 <= len(kdc.calls) <= 12, len(kdc.calls)
    assert (await store.get(7)).entry.times.endtime > time.time() + 400


async def test_requests_do_not_wait_while_the_kdc_hangs(store, kdc):
    kdc.takes_s = 0.5
    for uid in range(8):
        await put(store, uid, due(f"u{uid}@R"))
    await put(store, 99, due("dead@R", left=1, renew=1))
    async with running(store, kdc, threads=2):
        await asyncio.sleep(0.1)
        began = time.monotonic()
        assert await store.get(3) is not None
        assert time.monotonic() - began < 0.1
        end = time.monotonic() + 2.5
        while await store.get(99) is not None:
            assert time.monotonic() < end, "what has expired is dropped though all threads hang"
            await asyncio.sleep(0.05)


async def test_what_expired_while_no_daemon_ran_is_dropped_and_the_kdc_is_not_asked(store, kdc):
    """Renewable by its renew_till, but no KDC renews an expired ticket: asking again and again would never end."""
    dropped = []
    await put(store, 7, due(left=-10))
    await put(store, 8, due("alive@R"))
    async with running(store, kdc, observe=dropped.append):
        await until(lambda: "dropped" in dropped)
        await until(lambda: len(dropped) == 2)
        assert await store.get(7) is None
    assert kdc.calls == ["alive@R"]
    assert sorted(dropped) == ["dropped", "renewed"]
