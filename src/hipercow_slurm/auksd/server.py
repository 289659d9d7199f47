"""The cache's socket side: accepts, feeds sessions, sends what the service answers. Nothing here knows what is asked.

Rule 1: nobody waits for a peer. A connection has a deadline from its accept to its first request, afterwards one
between requests. One sweep per second looks at all of them instead of a timer each.
Rule 2: memory per connection is bounded: frames up to the session's limit, then reading pauses; replies up to the
transport's high-water mark, then the next request waits.
Rule 3: at a limit the oldest unproven connection makes room: one whose first request has not been opened yet (an
AP-REQ alone may be a recorded one). Silent connections can therefore not keep anybody out, however many there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import sys
from collections import Counter
from collections.abc import Callable
from typing import cast

from hipercow_slurm import log
from hipercow_slurm.auksd.config import Auksd
from hipercow_slurm.auksd.service import Requester, Service
from hipercow_slurm.auksd.workers import Workers
from hipercow_slurm.errors import Error, UnavailableError
from hipercow_slurm.wire.frames import MAX_FRAME
from hipercow_slurm.wire.messages import EncodedDump, Reply
from hipercow_slurm.wire.sendauth import Acceptor
from hipercow_slurm.wire.session import Authenticated, Ended, Malformed, ServerEvent, ServerSession

BACKLOG = 4096
SWEEP_S = 1.0
PIECE = 256 * 1024  # bytes of a dump handed to the transport at once

# Makes the crypto object of a connection from its two IPv4 addresses (ours, the peer's), 4 octets each.
MakeAcceptor = Callable[[bytes, bytes], Acceptor]


class Server:
    """Listens and keeps the connections.

    Args:
        config: limits and deadlines.
        service: decides.
        make_acceptor: cryptography.
        workers: threads that seal dumps.
    """

    def __init__(self, config: Auksd, service: Service, make_acceptor: MakeAcceptor, workers: Workers) -> None:
        self.config = config
        self.service = service
        self.make_acceptor = make_acceptor
        self.workers = workers
        self.log = log.get()
        self.draining = False
        self.most = sys.maxsize  # connections the process has descriptors for, whatever the configuration says
        self._connections: dict[Connection, None] = {}  # in order of their accept
        self._per_peer: Counter[str] = Counter()
        self._closed_early: Counter[str] = Counter()
        self._listener: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._empty = asyncio.Event()

    async def start(self) -> tuple[str, int]:
        """Listen; returns address and port.

        Raises:
            UnavailableError: ``cannot-listen``.
        """
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self.config.share_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
            sock.bind(self.config.address())
            sock.setblocking(False)
        except OSError as error:
            sock.close()
            raise UnavailableError(f"cannot listen on {self.config.listen}: {error}", code="cannot-listen") from error
        self._listener = await loop.create_server(lambda: Connection(self), sock=sock, backlog=BACKLOG)
        self._sweeper = loop.create_task(self._sweep())
        host, port = sock.getsockname()
        return host, port

    async def stop(self) -> None:
        """Accept nothing more, answer what is being asked, close; at most ``drain_timeout_s``."""
        self.draining = True
        if self._listener is not None:
            self._listener.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self._connections):
            connection.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.config.drain_timeout_s):
                while self._connections:
                    self._empty.clear()
                    await self._empty.wait()
        for connection in list(self._connections):
            connection.abort()

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def proven(self) -> int:
        """Connections that have made a request."""
        return sum(connection.proven for connection in self._connections)

    def enter(self, connection: Connection) -> bool:
        """Take a new connection in, making room if need be; False when there is none."""
        peer = connection.peer
        if self.draining:
            return False
        if self._per_peer[peer] >= self.config.connections_per_peer and not self._make_room(peer):
            return False
        if len(self._connections) >= min(self.config.connections, self.most) and not self._make_room(None):
            return False
        self._connections[connection] = None
        self._per_peer[peer] += 1
        return True

    def leave(self, connection: Connection) -> None:
        """Forget a connection; harmless for one that never entered."""
        if connection not in self._connections:
            return
        del self._connections[connection]
        self._per_peer[connection.peer] -= 1
        if not self._per_peer[connection.peer]:
            del self._per_peer[connection.peer]
        if not self._connections:
            self._empty.set()

    def refuse(self, peer: str) -> None:
        """Count a connection closed before it could say who it is; the sweep logs them together."""
        self._closed_early[peer] += 1

    def _make_room(self, peer: str | None) -> bool:
        """Close the oldest unproven connection (of ``peer``)."""
        for connection in self._connections:
            if not connection.proven and peer in (None, connection.peer):
                self.refuse(connection.peer)
                connection.abort()
                return True
        return False

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        interval = min(SWEEP_S, self.config.handshake_timeout_s / 4, self.config.idle_timeout_s / 4)
        while True:
            await asyncio.sleep(interval)
            now = loop.time()
            for connection in [each for each in self._connections if each.deadline < now]:
                if not connection.proven:
                    self.refuse(connection.peer)
                connection.abort()
            for peer, count in self._closed_early.items():
                self.log.warning("auksd.closed_unproven", peer=peer, count=count)
            self._closed_early.clear()


class Connection(asyncio.Protocol):
    """One peer. The transport's callbacks feed the session; one task reads events and answers them in order."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._wake: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._paused = False
        self._busy = False
        self._lost = False
        self.peer = ""
        self.proven = False
        self.deadline = math.inf

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Check the limits and begin."""
        self._transport = cast(asyncio.Transport, transport)
        ours, theirs = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
        if not ours or not theirs:  # gone already
            self.abort()
            return
        self.peer = theirs[0]
        if not self._server.enter(self):
            self._server.refuse(self.peer)
            self.abort()
            return
        self.deadline = self._loop.time() + self._server.config.handshake_timeout_s
        self._acceptor = self._server.make_acceptor(socket.inet_aton(ours[0]), socket.inet_aton(self.peer))
        self._session = ServerSession(self._acceptor)
        self._task = self._loop.create_task(self._run())

    def data_received(self, data: bytes) -> None:
        """Bytes from the peer."""
        if self._lost:
            return
        self._session.receive(data)
        if self._session.buffered > 2 * MAX_FRAME and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake_up()

    def eof_received(self) -> bool:
        """The peer will send no more, but may still want its answers."""
        if not self._lost:
            self._session.receive(b"")
            self._wake_up()
        return True

    def pause_writing(self) -> None:
        """The peer does not take its replies."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """It does again."""
        self._writable.set()

    def connection_lost(self, _error: Exception | None) -> None:
        """The socket is closed. A request being answered goes on: its change may be committed already."""
        self._lost = True
        self._server.leave(self)
        self._writable.set()
        self._wake_up()

    # What the server calls

    def finish(self) -> None:
        """Close now, or after the reply that is being made."""
        if not self._busy:
            self._transport.close()

    def abort(self) -> None:
        """Close now and drop what was not sent."""
        self._lost = True
        self._server.leave(self)
        self._transport.abort()
        self._wake_up()

    # The conversation

    async def _run(self) -> None:
        try:
            await self._converse()
        except Error as error:
            self._write(self._session.outgoing())
            self._server.log.warning("auksd.closed", peer=self.peer, code=error.code, why=error.message)
        except Exception:
            self._server.log.exception("auksd.bug", peer=self.peer)
        finally:
            self._acceptor.close()
            self._transport.close()

    async def _converse(self) -> None:
        event = await self._next_event()
        if not isinstance(event, Authenticated):
            return
        self._write(self._session.outgoing())
        who = await self._server.service.admit(event.client, self.peer)
        if who is None:
            return  # AUKS: closed right after the AP-REP
        while not (self._lost or self._server.draining):
            event = await self._next_event()
            if isinstance(event, Ended):
                return
            self.proven = self._busy = True
            self.deadline = math.inf
            await self._answer(who, event)
            self._busy = False

    async def _answer(self, who: Requester, event: ServerEvent) -> None:
        service = self._server.service
        if isinstance(event, Malformed):
            reply: Reply | EncodedDump = await service.malformed(who, event.why)
        else:
            assert not isinstance(event, Authenticated | Ended)
            reply = await service.answer(who, event)
        if isinstance(reply, EncodedDump):  # tens of megabytes: a second of encryption
            parts: tuple[bytes | bytearray, ...] = await self._server.workers.run(self._session.send_dump, reply)
        else:
            parts = (self._session.send(reply),)
        for part in parts:
            await self._write_in_pieces(part)

    async def _write_in_pieces(self, data: bytes | bytearray) -> None:
        """Hand ``data`` to the transport as the peer takes it: the transport copies what it keeps."""
        with memoryview(data) as view:
            for start in range(0, len(data), PIECE):
                self._write(view[start : start + PIECE])
                self.deadline = self._loop.time() + self._server.config.idle_timeout_s
                await self._writable.wait()

    async def _next_event(self) -> ServerEvent:
        """The session's next event; waits for bytes as long as it has none."""
        while (event := self._session.next_event()) is None:
            self._write(self._session.outgoing())
            if self._lost:
                return Ended(clean=False)
            if self._paused:
                self._paused = False
                self._transport.resume_reading()
            self._wake = self._loop.create_future()
            await self._wake
        return event

    def _write(self, data: bytes | memoryview) -> None:
        if data and not self._lost:
            self._transport.write(data)

    def _wake_up(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
