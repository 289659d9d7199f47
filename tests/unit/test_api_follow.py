"""How many outputs a process follows at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

from hipercow_slurm.api.follow import Asked, Followers
from hipercow_slurm.api.problems import ThrottledError
from hipercow_slurm.errors import UnavailableError

ASKED = Asked(7, "stdout", 0, exact=False)


class Jobs:
    """One job that waits for ever."""

    async def find(self, session: Any, job_id: int) -> Any:
        await asyncio.sleep(0)
        return SimpleNamespace(state="PENDING", ended=False, nodes=(), output="/home/alice/o", error="/home/alice/o")


class Outputs:
    """Nothing has been written."""

    async def tail(self, *asked: Any) -> tuple[bytes, int | None]:
        return b"", None


class Sessions:
    """All are good."""

    async def resume(self, session: Any) -> Any:
        return session


PARTS: Any = (Jobs(), Outputs(), Sessions())


def person(name: str) -> Any:
    return SimpleNamespace(cred=None, principal=name)


async def test_no_more_are_followed_than_there_are_places() -> None:
    """The place was taken with the first event: of many that came at once, all found one free."""
    session = person("alice")
    followers = Followers(2, 9, *PARTS)
    found = await asyncio.gather(*(followers.follow(session, ASKED) for _ in range(9)), return_exceptions=True)
    refused = [one.code for one in found if isinstance(one, UnavailableError)]
    streams = [one for one in found if isinstance(one, AsyncGenerator)]
    assert (len(streams), refused) == (2, ["too-many-followers"] * 7), found
    assert await anext(streams[0]) == b'event: state\ndata: {"state":"PENDING"}\n\n'
    for stream in streams:  # one that has begun, one whose client went before that
        await stream.aclose()
    again = await asyncio.gather(*(followers.follow(session, ASKED) for _ in range(2)))
    assert len(again) == 2
    for stream in again:
        assert isinstance(stream, AsyncGenerator)
        await stream.aclose()


async def test_one_user_cannot_take_all_places() -> None:
    """Would have caught: 100 streams of one user's, and 503 for everybody else until they end."""
    followers = Followers(10, 3, *PARTS)
    alices = [followers.follow(person("alice"), ASKED) for _ in range(8)]
    found = await asyncio.gather(*alices, return_exceptions=True)
    refused = [(one.code, one.status, one.retry_after_s) for one in found if isinstance(one, ThrottledError)]
    assert refused == [("too-many-followers", 429, 5.0)] * 5, found
    bobs = await asyncio.gather(*(followers.follow(person("bob"), ASKED) for _ in range(3)))
    alices_one = next(one for one in found if isinstance(one, AsyncGenerator))
    await alices_one.aclose()
    again = await followers.follow(person("alice"), ASKED)
    for stream in (*found, *bobs, again):
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()
    assert not followers._of, "something is kept of who follows nothing"
