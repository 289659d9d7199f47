"""HTTP to slurmrestd over its unix socket: connections that are kept, and one whole answer for each request.

The parser is httptools'. The rest is ours because slurmrestd 26.05 answers every refused request **twice** on one
connection (measured, 26.05.5: the JSON, then its words again as text/plain, after ``Connection: Close``). aiohttp takes
the second for a broken answer and drops the first with it; the clients that read on calmly cost six times as much.

Rule 1: the first answer counts, and a connection with anything behind it is not used again. Rule 2: only a request
of which no byte was written, a GET on a connection that had been kept, or what slurmrestd says it could not read, is
ever sent again. The last is a fault of 26.05: on a new connection it may look before we have written, reads 512 bytes
then, and a header that ends behind them it calls empty (``NOT_READ``; nothing of such a request is done).
"""

from __future__ import annotations

import asyncio
import functools
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import httptools

NOT_READ = b"Invalid empty HTTP header"
UNREAD = 3  # times that may happen to a request

HEAD_LIMIT = 64 * 1024  # bytes of status line and headers; slurmrestd sends some hundred


class HungUpError(Exception):
    """The connection ended, or what came was no HTTP; ``answered``: after the answer had begun."""

    def __init__(self, words: str, *, answered: bool) -> None:
        super().__init__(words)
        self.answered = answered


class TooLongError(Exception):
    """The answer is longer than the caller allows."""


@dataclass(slots=True)
class Reply:
    """What came."""

    status: int
    content_type: str
    body: bytes


_PLACE = Reply(0, "", b"")  # to one who stood in line: there is place for a connection, make one


class _Asked:
    """A request on its way.

    Attributes:
        owner: whose it is: those of one wait for each other, not for those of another.
        reply: the answer, or ``_PLACE``; cancelled: nobody waits any more.
        place: whether it has one of the pool's places.
        connection: on which it was written; None: nothing of it was.
        kept: that connection had been used before.
    """

    __slots__ = ("connection", "kept", "limit", "owner", "place", "reply", "request", "sent")

    def __init__(self, request: bytes, limit: int, sent: Callable[[], None], owner: str) -> None:
        self.request = request
        self.owner = owner
        self.limit = limit
        self.sent = sent
        self.place = False
        self.kept = False
        self.connection: _Connection | None = None
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()


class _Connection(asyncio.Protocol):
    """One connection, for one request at a time; ``free`` is called whenever it has none any more."""

    def __init__(self, free: Callable[[_Connection], None]) -> None:
        self._free = free
        self._transport: asyncio.Transport | None = None
        self._asked: _Asked | None = None
        self._received = 0
        self.reusable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def connection_lost(self, exc: Exception | None) -> None:
        self.close()

    def close(self) -> None:
        self._end(HungUpError("the connection was closed", answered=self._received > 0))

    def begin(self, asked: _Asked) -> None:
        """Write the request; its ``reply`` will be the answer, or ``HungUpError`` or ``TooLongError``."""
        assert self._transport is not None
        self._asked, asked.connection = asked, self
        self._received, self._size, self._whole = 0, 0, False
        self._content_type = ""
        self._parts: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)
        asked.sent()
        self._transport.write(asked.request)

    def leave(self, asked: _Asked) -> None:
        """Nobody waits for this answer any more: if it is not here yet, nothing else can come on this connection."""
        if self._asked is asked:
            self.close()

    def data_received(self, data: bytes) -> None:
        if self._asked is None:
            self.close()  # an answer nobody asked for: the second one of a refusal
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            # Behind a complete answer anything may stand.
            self._end(HungUpError(f"no HTTP: {type(error).__name__}", answered=True))
            return
        if self._whole:
            self._over()
        elif self._size > self._asked.limit:
            self._end(TooLongError(f"more than {self._asked.limit} bytes"))
        elif not self._parts and self._received > HEAD_LIMIT:
            self._end(HungUpError("headers without end", answered=True))

    def _end(self, error: Exception) -> None:
        """No use of this connection any more."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()
        if self._asked is not None:
            if not self._asked.reply.done():
                self._asked.reply.set_exception(error)
            self._over()

    def _over(self) -> None:
        """Nothing more is expected for this request; another one may be written here and now."""
        self._asked = None
        self._free(self)

    # What httptools calls.

    def on_message_begin(self) -> None:
        if self._whole:
            self.reusable = False  # something stands behind the answer

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type" and not self._whole:
            self._content_type = value.decode("ascii", "replace")

    def on_body(self, part: bytes) -> None:
        self._size += len(part)
        if self._asked is not None and self._size <= self._asked.limit:
            self._parts.append(part)

    def on_message_complete(self) -> None:
        if self._whole or self._asked is None or self._size > self._asked.limit:
            return
        self._whole = True
        status = self._parser.get_status_code()
        self.reusable = self.reusable and status < 400 and self._parser.should_keep_alive()
        if not self._asked.reply.done():
            self._asked.reply.set_result(Reply(status, self._content_type, b"".join(self._parts)))


class _Line:
    """Requests that wait for a connection: owners take turns, and of one owner's the first is the first."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, deque[_Asked]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def add(self, asked: _Asked) -> None:
        waiting = self._of.get(asked.owner)
        if waiting is None:
            waiting = self._of[asked.owner] = deque()
        waiting.append(asked)

    def next(self) -> _Asked | None:
        """Whose turn it is, of those for whose answer somebody still waits; no more in line then."""
        while self._of:
            owner, waiting = self._of.popitem(last=False)
            while waiting:
                asked = waiting.popleft()
                if not asked.reply.done():
                    if waiting:
                        self._of[owner] = waiting  # behind all others
                    return asked
        return None


class Pool:
    """At most ``connections`` connections to the socket at ``path``; an idle one is kept until the peer closes it.

    Who finds all of them in use stands in line (another's first request overtakes a thousand of one owner's), and is
    written on the first one that has its answer at once, before anything is done with that answer: Slurm has work while
    we attend to a crowd.
    """

    def __init__(self, path: str, connections: int) -> None:
        self._path = path
        self._places = connections
        self._line = _Line()
        self._idle: list[_Connection] = []

    def close(self) -> None:
        """End the idle connections; those in use end with their exchange."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def exchange(self, request: bytes, limit: int, sent: Callable[[], None], owner: str = "") -> Reply:
        """One request, one answer of at most ``limit`` bytes; ``sent()`` is called before the first byte is written.

        Raises:
            OSError: no connection.
            HungUpError, TooLongError: no answer, or not a whole one.
        """
        unread = 0
        while True:
            asked = _Asked(request, limit, sent, owner)
            try:
                reply = await self._answer(asked)
            except HungUpError as error:
                # The peer closed an idle connection just when we wrote to it.
                if asked.kept and not error.answered and request.startswith(b"GET "):
                    continue
                raise
            if reply.status == 500 and reply.body.strip() == NOT_READ and unread < UNREAD:
                unread += 1
                continue
            return reply

    async def _answer(self, asked: _Asked) -> Reply:
        """The answer, in its turn; whoever stops waiting ends the connection."""
        try:
            if self._places:
                self._places -= 1
                asked.place = True
            else:
                self._line.add(asked)
                reply = await asked.reply
                if reply is not _PLACE:
                    return reply
                asked.reply = asyncio.get_running_loop().create_future()
            await self._begin(asked)
            return await asked.reply
        except BaseException:
            if asked.connection is not None:
                asked.connection.leave(asked)
            elif asked.place:
                self._pass_on(None)
            raise

    async def _begin(self, asked: _Asked) -> None:
        """Write a request that has a place on the idle connection used last, or on a new one."""
        connection: _Connection | None = None
        while self._idle and connection is None:
            last = self._idle.pop()
            connection = last if last.reusable else None
        asked.kept = connection is not None
        if connection is None:
            make = functools.partial(_Connection, self._free)
            _, connection = await asyncio.get_running_loop().create_unix_connection(make, self._path)
        connection.begin(asked)

    def _free(self, connection: _Connection) -> None:
        """A connection has no request any more."""
        if connection.reusable:
            self._pass_on(connection)
        else:
            connection.close()
            self._pass_on(None)

    def _pass_on(self, connection: _Connection | None) -> None:
        """A place, with its connection if that is good, goes to the first in line."""
        asked = self._line.next()
        if asked is not None:
            asked.place = True
            if connection is None:
                asked.reply.set_result(_PLACE)
            else:
                asked.kept = True
                connection.begin(asked)
            return
        self._places += 1
        if connection is not None:
            self._idle.append(connection)


def request(method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """A request, its body of known length: slurmrestd answers a chunked one with 406.

    Raises:
        ValueError: a blank or control character where none may be.
    """
    given = "".join([path, *headers.values()])
    if " " in given or not given.isprintable():
        raise ValueError("a blank or control character in a request's path or header")
    lines = [f"{method} {path} HTTP/1.1\r\nHost: slurmrestd\r\n"]
    lines += [f"{name}: {value}\r\n" for name, value in headers.items()]
    lines.append("\r\n" if body is None else f"Content-Length: {len(body)}\r\n\r\n")
    return "".join(lines).encode("latin-1") + (body or b"")
