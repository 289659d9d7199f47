"""The pool of connections to slurmrestd in a crowd: who gets whose answer, and whether its places come back.

The peer is a real unix socket server that says of each request what was asked, so that a mix-up is seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hipercow_slurm.slurm.link import HungUpError, Pool, Reply, TooLongError, request

LIMIT = 1 << 20
Answer = Callable[[str, asyncio.StreamWriter], Awaitable[bool]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rest.sock"


class Echo:
    """Answers with the path of each request; what it does besides is the test's."""

    def __init__(self, act: Answer | None = None) -> None:
        self.act = act
        self.seen: list[str] = []
        self.connections = self.open = self.most = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                asked = head.split(b" ", 2)[1].decode()
                self.seen.append(asked)
                if self.act is not None and not await self.act(asked, writer):
                    break
                writer.write(answer(asked))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            writer.close()


def answer(words: str, status: int = 200, more: str = "") -> bytes:
    return (
        f"HTTP/1.1 {status} X\r\nContent-Type: text/plain\r\n{more}Content-Length: {len(words)}\r\n\r\n{words}".encode()
    )


@asynccontextmanager
async def met(echo: Echo, path: Path, connections: int) -> AsyncIterator[Pool]:
    server = await asyncio.start_unix_server(echo.serve, path)
    async with server:
        pool = Pool(str(path), connections)
        yield pool
        pool.close()


def ask(pool: Pool, words: str, *, method: str = "POST", limit: int = LIMIT, owner: str = "") -> Awaitable[Reply]:
    return pool.exchange(request(method, words, {}, b"" if method == "POST" else None), limit, lambda: None, owner)


async def said(pool: Pool, words: str) -> str:
    return (await ask(pool, words)).body.decode()


async def places_are_whole(pool: Pool, connections: int) -> None:
    """As many at once as there are places, and then all of them idle."""
    names = [f"/last/{number}" for number in range(connections)]
    async with asyncio.timeout(5):
        assert await asyncio.gather(*(said(pool, name) for name in names)) == names
    assert pool._places == connections and not pool._line, (pool._places, pool._line)


async def test_who_stands_in_line_is_written_before_the_answer_is_used(path: Path) -> None:
    """Slurm stood idle while we worked on answers: the next request was written a turn of the loop or more later."""
    echo = Echo()
    order: list[str] = []
    async with met(echo, path, 1) as pool:
        await said(pool, "/warm")

        async def first() -> None:
            await said(pool, "/first")
            order.append("first used")

        def sent() -> None:
            order.append("second written")

        both = [asyncio.ensure_future(first())]
        await asyncio.sleep(0)
        both.append(asyncio.ensure_future(pool.exchange(request("POST", "/second", {}, b""), LIMIT, sent)))  # type: ignore[arg-type]
        await asyncio.gather(*both)
    assert order == ["second written", "first used"], order
    assert echo.connections == 1, "and on the same connection"


async def test_who_gives_up_as_the_answer_comes_does_not_end_the_next_ones_request(path: Path) -> None:
    """The connection is the next one's by then: a submission would have been "unknown" because a neighbour left."""
    async with met(Echo(), path, 1) as pool:
        first = asyncio.ensure_future(ask(pool, "/first"))

        def written() -> None:
            first.cancel()

        await asyncio.sleep(0)
        assert (await pool.exchange(request("POST", "/second", {}, b""), LIMIT, written)).body == b"/second"
        with pytest.raises(asyncio.CancelledError):
            await first
        await places_are_whole(pool, 1)


async def test_those_in_line_have_their_turn(path: Path) -> None:
    echo = Echo()
    async with met(echo, path, 2) as pool:
        names = [f"/{number}" for number in range(50)]
        assert await asyncio.gather(*(said(pool, name) for name in names)) == names
        assert echo.seen == names, "first come, first served"
        assert echo.most == 2
        await places_are_whole(pool, 2)


async def test_owners_take_turns(path: Path) -> None:
    """Would have caught: a user who waits behind a thousand submissions of another's (4 s, measured)."""
    echo = Echo()
    async with met(echo, path, 1) as pool:
        alice = [asyncio.ensure_future(ask(pool, f"/alice/{number}", owner="alice")) for number in range(20)]
        others = [asyncio.ensure_future(ask(pool, f"/{who}", owner=who)) for who in ("bob", "carol", "dave")]
        await asyncio.sleep(0)
        others[1].cancel()
        await asyncio.wait([*alice, *others])
        turns = ["/alice/0", "/alice/1", "/bob", "/dave", *(f"/alice/{number}" for number in range(2, 20))]
        assert echo.seen == turns, echo.seen
        await places_are_whole(pool, 1)


@pytest.mark.parametrize("end", ["hang up", "close", "refuse"])
async def test_a_connection_that_ends_leaves_its_place_to_the_next(path: Path, end: str) -> None:
    """A lost place is one request less at a time for ever; with the last one the API stands still."""

    async def act(asked: str, writer: asyncio.StreamWriter) -> bool:
        if asked.startswith("/last"):
            return True
        if end != "hang up":
            writer.write(answer(asked, 500 if end == "refuse" else 200, "Connection: Close\r\n"))
            await writer.drain()
        return False

    async with met(Echo(act), path, 2) as pool:
        asked = [ask(pool, f"/{number}") for number in range(9)]
        found = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)
        kinds = {type(one) for one in found}
        assert kinds == ({HungUpError} if end == "hang up" else {Reply}), found
        await places_are_whole(pool, 2)


async def test_nobody_at_the_socket_costs_no_place(path: Path) -> None:
    pool = Pool(str(path), 2)
    asked = [ask(pool, f"/{number}") for number in range(9)]
    found = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)
    assert all(isinstance(one, FileNotFoundError) for one in found), found
    echo = Echo()
    server = await asyncio.start_unix_server(echo.serve, path)
    async with server:
        await places_are_whole(pool, 2)
        pool.close()


async def test_an_answer_that_is_too_long_is_not_kept_and_costs_no_place(path: Path) -> None:
    async with met(Echo(), path, 1) as pool:
        with pytest.raises(TooLongError):
            await ask(pool, "/" + "x" * 100, limit=50)
        with pytest.raises(TooLongError):
            await ask(pool, "/" + "x" * 30_000, limit=50)
        await places_are_whole(pool, 1)


async def test_a_second_answer_behind_the_first_is_for_nobody(path: Path) -> None:
    """Would have caught: the next in line gets what was written behind another's answer."""

    async def act(asked: str, writer: asyncio.StreamWriter) -> bool:
        if asked == "/twice":
            writer.write(answer(asked) + answer("again"))
            await writer.drain()
            await asyncio.sleep(0.1)
            return False
        return True

    async with met(Echo(act), path, 1) as pool:
        both = list(await asyncio.gather(said(pool, "/twice"), said(pool, "/next")))
        assert both == ["/twice", "/next"]
        await places_are_whole(pool, 1)


@pytest.mark.parametrize("seed", range(8))
async def test_a_crowd_that_comes_and_goes(path: Path, seed: int) -> None:
    """Callers that stop waiting at any moment, connections that end at any moment: each answer is for who asked, and
    no place is lost."""
    rng = random.Random(seed)

    async def act(asked: str, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(rng.choice((0, 0, 0.001, 0.004)))
        if asked.startswith("/last") or rng.random() < 0.9:
            return True
        if rng.random() < 0.5:
            writer.write(answer(asked)[: rng.randrange(60)])
            await writer.drain()
        return False

    answered = 0
    async with met(Echo(act), path, 3) as pool:

        async def one(number: int) -> None:
            nonlocal answered
            method = rng.choice(("GET", "POST"))
            with contextlib.suppress(HungUpError, TimeoutError):
                async with asyncio.timeout(rng.choice((0, 0.001, 0.003, 0.01, 5))):
                    reply = await ask(pool, f"/{number}", method=method, owner=f"user{number % 7}")
                    assert reply.body.decode() == f"/{number}", reply
                    answered += 1

        for _ in range(6):
            await asyncio.gather(*(one(number) for number in range(60)))
        await places_are_whole(pool, 3)
    assert answered > 20, answered  # on a busy machine most have gone before their answer comes
