"""A front process: takes connections, proves who is there, seals and opens; the owner (``fronts.py``) decides.

It has the keytab and the listening socket, and neither the store nor its key. Rule 1: it answers nothing by itself,
not even a PING, so that what counts is what the owner knows at that moment: roles, revocations, records, jobs.
Rule 2: without its owner it ends at once; clients try again, as with any daemon that was killed.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import struct
from collections.abc import Iterator

import msgspec

from hipercow_slurm import daemon, log
from hipercow_slurm.auksd.config import Auksd
from hipercow_slurm.auksd.connection import Connection
from hipercow_slurm.auksd.link import Kind, Link
from hipercow_slurm.auksd.server import Server, allow_files
from hipercow_slurm.auksd.workers import Workers
from hipercow_slurm.errors import Error, UnavailableError
from hipercow_slurm.wire import messages
from hipercow_slurm.wire.messages import Request
from hipercow_slurm.wire.session import Malformed

BULK_THREADS = 2  # dumps
COUNTS = struct.Struct(">II")
LENGTH = struct.Struct(">Q")
_OWNER_GONE = 70


async def serve(place: str, stop: asyncio.Event) -> None:
    """Serve as a front process until ``stop`` is set or the owner says so.

    Args:
        place: descriptors of the listening socket and of our end of the socket pair, ``"5:6"``.
    """
    listening, link = (socket.socket(fileno=int(number)) for number in place.split(":"))
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):  # for the owner, who tells us what matters
        signal.signal(number, signal.SIG_IGN)
    daemon.die_with_parent(signal.SIGKILL)
    front = Front(stop)
    await asyncio.get_running_loop().create_connection(lambda: front.owner, sock=link)
    server = await front.server()
    await server.start(listening)
    front.owner.send(Kind.READY)
    await stop.wait()
    await server.stop()
    front.over = True


class Front:
    """The conversations of this process, by number.

    Args:
        stop: set when the owner says so.
    """

    def __init__(self, stop: asyncio.Event) -> None:
        self.owner = Link(self._received, self._lost)
        self.loop = asyncio.get_running_loop()
        self.over = False  # the owner may go
        self._stop = stop
        self._settings: asyncio.Future[Auksd] = self.loop.create_future()
        self._server: Server | None = None
        self._number = 0
        self._open: dict[int, FrontConnection] = {}
        self._pieces: dict[int, asyncio.Future[bytes]] = {}

    async def server(self) -> Server:
        """The server, once the owner has said how it shall be."""
        settings = await self._settings
        workers = Workers(BULK_THREADS, "bulk")
        self._server = server = Server(settings, lambda server: FrontConnection(server, self), workers)
        server.most = allow_files(settings.connections)
        return server

    def enter(self, connection: FrontConnection, principal: str) -> int:
        """A peer has proved to be ``principal``; the number of the conversation."""
        self._number = number = self._number % 0xFFFFFFFF + 1
        self._open[number] = connection
        self.owner.send(Kind.HELLO, number, f"{connection.peer} {principal}".encode())
        return number

    def leave(self, number: int) -> None:
        """The conversation is over."""
        if self._open.pop(number, None) is not None:
            self.owner.send(Kind.BYE, number)
        self._no_more(number)

    def _no_more(self, number: int) -> None:
        if (waiting := self._pieces.pop(number, None)) is not None:
            waiting.set_exception(UnavailableError("the dump has ended early", code="peer-gone"))

    async def piece(self, number: int) -> bytes:
        """The next piece of a dump; empty after the last.

        Raises:
            UnavailableError: the conversation is over.
        """
        if number not in self._open:
            raise UnavailableError("the dump has ended early", code="peer-gone")
        future: asyncio.Future[bytes] = self.loop.create_future()
        self._pieces[number] = future
        self.owner.send(Kind.MORE, number)
        return await future

    def _received(self, kind: int, number: int, payload: bytes) -> None:
        connection = self._open.get(number)
        if kind == Kind.ANSWER:
            if connection is not None:
                connection.answered(payload)
        elif kind == Kind.PIECE:
            if (future := self._pieces.pop(number, None)) is not None:
                future.set_result(payload)
        elif kind == Kind.DUMP:
            if connection is not None:
                connection.relay(LENGTH.unpack(payload)[0])
        elif kind == Kind.CLOSE:
            self._no_more(number)
            if connection is not None:
                connection.turned_away()
        elif kind == Kind.SETTINGS:
            settings = msgspec.json.decode(payload, type=Auksd)
            if self._server is None:
                self._settings.set_result(settings)
            else:
                self._server.config = settings
        elif kind == Kind.COUNT:
            server = self._server
            self.owner.send(
                Kind.COUNT, payload=COUNTS.pack(len(server), server.proven) if server else COUNTS.pack(0, 0)
            )
        elif kind == Kind.BEAT:
            self.owner.send(Kind.BEAT)
        elif kind == Kind.DRAIN:
            self._stop.set()

    def _lost(self) -> None:
        if self.over:
            return
        log.get().error("auksd.owner_gone")
        os._exit(_OWNER_GONE)


class FrontConnection(Connection):
    """One peer, whose requests the owner answers."""

    __slots__ = ("_front", "_number")

    def __init__(self, server: Server, front: Front) -> None:
        super().__init__(server)
        self._front = front
        self._number = 0  # until the peer has proved who it is

    def connection_lost(self, error: Exception | None) -> None:
        """See ``Connection``."""
        super().connection_lost(error)
        self._front.leave(self._number)
        if self._busy and self._task is None:  # nobody will come with an answer
            self._busy = False
            self._acceptor.close()

    def answered(self, reply: bytes) -> None:
        """The owner's reply."""
        self._busy = False
        try:
            self._answered(self._session.send_encoded(reply))
        except Error as error:
            self._fail(error)
        self._continue()

    def turned_away(self) -> None:
        """No rule gives this peer a role, or its dump cannot go on."""
        self._busy = False
        self._close()

    def relay(self, length: int) -> None:
        """The reply is a dump of so many octets."""
        self._later(self._send_pieces(self._session.send_in_pieces(length, self._content())))

    def _greet(self, client: str) -> None:
        self._number = self._front.enter(self, client)

    def _decide(self, event: Request | Malformed) -> None:
        self._busy = True
        self.deadline = math.inf
        if isinstance(event, Malformed):
            self._front.owner.send(Kind.UNKNOWN, self._number, event.why.encode())
        else:
            self._front.owner.send(Kind.ASK, self._number, messages.encode(event))

    def _content(self) -> Iterator[bytes]:
        """The dump in pieces; runs in a thread that seals them."""
        front = self._front
        while piece := asyncio.run_coroutine_threadsafe(front.piece(self._number), front.loop).result():
            yield piece
