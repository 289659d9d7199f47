"""The shared renewer's bookkeeping on a real PostgreSQL, with a KDC made of a function."""

import asyncio
import contextlib
from datetime import timedelta

from test_auksd_renewer import TIMING, Kdc, by, due, put, until

from hipercow_slurm.auksd.sharing import SharedRenewer
from hipercow_slurm.store.envelope import Keys
from hipercow_slurm.store.postgres import PostgresStore


@contextlib.asynccontextmanager
async def instances(url, kdc, count, lease_s=4.0, **options):
    """Running renewers, each with its own store."""
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            store = await PostgresStore.open(url, Keys(b"k" * 32))
            stack.push_async_callback(store.close)
            store.lease_s, store._lease = lease_s, timedelta(seconds=lease_s)
            renewer = SharedRenewer(store, by(kdc), timing=TIMING, **{"rate_per_s": 10_000.0, **options})
            task = asyncio.create_task(renewer.run())
            made.append((store, renewer, task))
        yield made
        for _, renewer, task in made:
            assert not task.done(), task
            task.cancel()
            await asyncio.wait({task})
            renewer.stop()


async def test_three_instances_renew_everything_once(postgres_url):
    kdc = Kdc()
    kdc.takes_s = 0.01
    store = await PostgresStore.open(postgres_url, Keys(b"k" * 32))
    for uid in range(150):
        await put(store, uid, due(f"u{uid}@R"))
    await store.close()
    async with instances(postgres_url, kdc, 3):
        await until(lambda: len(kdc.calls) >= 150, 20)
        await asyncio.sleep(0.5)
    assert sorted(kdc.calls) == sorted(f"u{uid}@R" for uid in range(150))
    assert kdc.twice == []


async def test_a_claim_that_ran_out_and_comes_back_is_no_second_renewal(postgres_url):
    """Heartbeats fail for longer than a claim lasts, while the KDC takes its time."""
    kdc = Kdc()
    kdc.takes_s = 1.5

    async def no_beat(_uids):
        await asyncio.sleep(0)

    async with instances(postgres_url, kdc, 1, lease_s=0.3) as ((store, renewer, _),):
        store.beat = no_beat
        await put(store, 7, due())
        renewer.schedule((await store.get(7)).entry)
        await until(lambda: kdc.calls and not renewer._busy, 10)
    assert kdc.twice == []


async def test_what_has_expired_is_dropped_once_and_failures_are_counted_in_the_database(postgres_url):
    kdc = Kdc()
    kdc.down = True
    results = []
    async with instances(postgres_url, kdc, 2, observe=results.append) as made:
        store = made[0][0]
        await put(store, 7, due(left=3))
        await until(lambda: results.count("failed") >= 2, 10)
        await until(lambda: "dropped" in results, 10)
        assert await store.get(7) is None
        await asyncio.sleep(1.2)
    assert results.count("dropped") == 1
