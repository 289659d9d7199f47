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


class _Connection(asyncio.Protocol):
    """One connection, for one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[Reply] | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self.reusable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        self._fail(HungUpError("the connection was closed", answered=bool(self._received)))

    def close(self) -> None:
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    async def exchange(self, request: bytes, limit: int) -> Reply:
        """Write ``request`` and wait for the answer; whoever stops waiting ends the connection.

        Raises:
            HungUpError, TooLongError: no use of this connection any more.
        """
        assert self._transport is not None
        self._limit, self._received, self._size = limit, 0, 0
        self._content_type = ""
        self._parts: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            return await self._waiting
        except BaseException:
            self.close()
            raise

    _received = 0  # before the first exchange

    def data_received(self, data: bytes) -> None:
        if self._waiting is None or self._waiting.done() or self._parser is None:
            self.close()  # an answer nobody asked for: the second one of a refusal
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            # Behind a complete answer anything may stand.
            self._fail(HungUpError(f"no HTTP: {type(error).__name__}", answered=True))
            self.close()
        if not self._parts and self._received > HEAD_LIMIT:
            self._fail(HungUpError("headers without end", answered=True))

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)

    # What httptools calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"content-type":
            self._content_type = value.decode("ascii", "replace")

    def on_body(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit:
            self._fail(TooLongError(f"more than {self._limit} bytes"))
        else:
            self._parts.append(part)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        self.reusable = self.reusable and self._parser.should_keep_alive()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(Reply(self._parser.get_status_code(), self._content_type, b"".join(self._parts)))


class Pool:
    """At most ``connections`` connections to the socket at ``path``; an idle one is kept until the peer closes it."""

    def __init__(self, path: str, connections: int) -> None:
        self._path = path
        self._slots = asyncio.Semaphore(connections)
        self._idle: list[_Connection] = []

    def close(self) -> None:
        """End the idle connections; those in use end with their exchange."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def exchange(self, request: bytes, limit: int, sent: Callable[[], None]) -> Reply:
        """One request, one answer of at most ``limit`` bytes; ``sent()`` is called before the first byte is written.

        Raises:
            OSError: no connection.
            HungUpError, TooLongError: no answer, or not a whole one.
        """
        unread = 0
        async with self._slots:
            while True:
                connection, kept = self._kept(), True
                if connection is None:
                    _, connection = await asyncio.get_running_loop().create_unix_connection(_Connection, self._path)
                    kept = False
                sent()
                try:
                    reply = await connection.exchange(request, limit)
                except HungUpError as error:
                    # The peer closed an idle connection just when we wrote to it.
                    if kept and not error.answered and request.startswith(b"GET "):
                        continue
                    raise
                if connection.reusable:
                    self._idle.append(connection)
                else:
                    connection.close()
                if reply.status == 500 and reply.body.strip() == NOT_READ and unread < UNREAD:
                    unread += 1
                    continue
                return reply

    def _kept(self) -> _Connection | None:
        """The idle connection used last."""
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        return None


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
