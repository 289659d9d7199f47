"""How many requests of one user's are worked on at a time."""

from __future__ import annotations

import asyncio

import pytest

from hipercow_slurm.api.problems import ThrottledError
from hipercow_slurm.api.turns import Turns


def nothing_is_kept(turns: Turns) -> bool:
    return not turns._busy and not turns._waiting


async def test_one_user_waits_and_another_does_not() -> None:
    """Would have caught: 900 bodies of 10 MB read at once for one user."""
    turns, order, busy = Turns(3), [], 0

    async def request(number: int) -> None:
        nonlocal busy
        await turns.take("alice")
        busy += 1
        assert busy <= 3
        order.append(number)
        await asyncio.sleep(0.001)
        busy -= 1
        turns.leave("alice")

    crowd = [asyncio.create_task(request(number)) for number in range(50)]
    await asyncio.sleep(0)
    assert not turns.take_now("alice") and turns.take_now("bob")
    turns.leave("bob")
    await asyncio.gather(*crowd)
    assert order == list(range(50)), "first come, first served"
    assert nothing_is_kept(turns)


async def test_who_waits_too_long_is_told_so_and_who_goes_costs_no_turn() -> None:
    """A lost turn is one request less at a time for ever."""
    turns = Turns(1, wait_s=0.05)
    await turns.take("alice")
    with pytest.raises(ThrottledError) as caught:
        await turns.take("alice")
    assert (caught.value.code, caught.value.status) == ("too-many-requests", 429)
    gone = [asyncio.create_task(turns.take("alice")) for _ in range(3)]
    await asyncio.sleep(0)
    gone[0].cancel()
    turns.leave("alice")  # the first is about to go: its turn goes on to the second
    gone[1].cancel()  # which has it, and goes at this very moment
    await asyncio.wait(gone)
    assert gone[2].done() and gone[2].exception() is None
    turns.leave("alice")
    assert nothing_is_kept(turns) and turns.take_now("alice")
