"""kill -9 in random moments of adds and replaces: what was acknowledged is there afterwards, whole."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
from collections.abc import Callable, Iterator

from auksd_box import USERS, Auksd, uid_of

from hipercow_slurm.errors import Error
from hipercow_slurm.krb5 import krbcred
from hipercow_slurm.values import KrbCred


def rising(cred: KrbCred, number: int) -> KrbCred:
    """The same ticket with a renew_till that grows with ``number``: each replaces the one before."""
    (one,) = krbcred.tickets(cred)
    return krbcred.build([dataclasses.replace(one, renew_till=one.renew_till + number)])


async def survive_kills(
    auksd: Auksd,
    tgt: dict[str, KrbCred],
    kills: int,
    kill: Callable[[], object],
    start: Callable[[], object],
) -> int:
    """Kill something ``kills`` times while eight writers add; returns how many adds were acknowledged."""
    numbers, acknowledged, total = iter(range(1, 10**9)), dict[str, int](), 0
    for user in USERS:
        found = await auksd.client().get(uid_of(user), auth=tgt["node"])
        if found is not None:
            numbers = iter(range(10**6 + found.times.renew_till - tgt[user].times.renew_till, 10**9))
    for number in range(kills):
        flowing, enough = asyncio.Event(), asyncio.Event()
        dying = asyncio.create_task(_add_until_it_fails(auksd, tgt, numbers, acknowledged, flowing, enough))
        await asyncio.wait_for(flowing.wait(), 60)
        await asyncio.sleep(random.random() * 0.1)
        await asyncio.to_thread(kill)
        # A daemon whose database died is still there, and waits for it: the adds under way are answered later.
        await asyncio.to_thread(start)
        enough.set()
        total += await dying
        client = auksd.client(read_s=10.0)
        for user, last in acknowledged.items():
            cred = await client.get(uid_of(user), auth=tgt["node"])
            assert cred is not None, f"kill {number}: {user} is gone"
            have = cred.times.renew_till - tgt[user].times.renew_till
            assert have >= last, f"kill {number}: {user} was acknowledged {last}, the store has {have}"
            assert cred.der == rising(tgt[user], have).der, f"kill {number}: {user} is not what was stored"
        left = await client.dump(auth=tgt["node"])
        assert {record.uid for record in left} >= {uid_of(user) for user in acknowledged}, "half-written ones left"
    assert total > kills, "there were adds to lose"
    return total


async def _add_until_it_fails(
    auksd: Auksd,
    tgt: dict[str, KrbCred],
    numbers: Iterator[int],
    acknowledged: dict[str, int],
    flowing: asyncio.Event,
    enough: asyncio.Event,
) -> int:
    client, count = auksd.client(read_s=2.0), 0

    async def writer() -> None:
        nonlocal count
        with contextlib.suppress(Error):
            while not enough.is_set():
                user = random.choice(USERS)
                number = next(numbers)
                await client.add(rising(tgt[user], number), auth=tgt["node"])
                acknowledged[user] = max(acknowledged.get(user, 0), number)
                count += 1
                flowing.set()

    await asyncio.gather(*(writer() for _ in range(8)))
    return count
