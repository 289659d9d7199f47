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
import resource
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

from hipercow_slurm import log
from hipercow_slurm.auksd.config import Auksd
from hipercow_slurm.auksd.connection import Connection
from hipercow_slurm.auksd.turns import Turns
from hipercow_slurm.auksd.workers import Workers
from hipercow_slurm.errors import UnavailableError
from hipercow_slurm.krb5.auth import Acceptor

BACKLOG = 4096
CROWD = 16  # connections open at once, from which on so many more listeners take new ones in: see ``Server._widen``
SWEEP_S = 1.0
# Descriptors that are not connections: the daemon's own, a crowd's listeners, and the connections of one look that make
# room for its new ones and are closed after it.
RESERVED_FILES = 64 + 2 * CROWD


_octets = lru_cache(maxsize=4096)(socket.inet_aton)


def bound(config: Auksd) -> socket.socket:
    """The socket to listen on.

    Raises:
        UnavailableError: ``cannot-listen``.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if config.share_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
        sock.bind(config.address())
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise UnavailableError(f"cannot listen on {config.listen}: {error}", code="cannot-listen") from error
    return sock


class Server:
    """Listens and keeps the connections.

    Args:
        config: keytab, limits and deadlines; may be replaced while running.
        connect: makes the connection of each peer.
        workers: threads that seal dumps.
    """

    def __init__(self, config: Auksd, connect: Callable[[Server], Connection], workers: Workers) -> None:
        self.config = config
        self.workers = workers
        self._connect = connect
        self.log = log.get()
        self.draining = False
        self.turns = Turns()
        self.now = time.monotonic  # the event loop's once it runs
        self.own: tuple[str, int] | None = None  # address of our end of each connection, where it is always the same
        self.most = sys.maxsize  # connections the process has descriptors for, whatever the configuration says
        self._connections: dict[Connection, None] = {}  # in order of their accept
        self._per_peer: dict[str, int] = {}
        self._closed_early: Counter[str] = Counter()
        self._socket: socket.socket | None = None
        self._listener: asyncio.Server | None = None
        self._more: list[asyncio.Server] = []  # of the same socket, while there is a crowd
        self._widening: asyncio.Task[None] | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._empty = asyncio.Event()

    async def start(self, sock: socket.socket | None = None) -> tuple[str, int]:
        """Listen, on ``sock`` or what the configuration says; returns address and port.

        Raises:
            UnavailableError: ``cannot-listen``.
        """
        loop = asyncio.get_running_loop()
        self.now = loop.time
        sock = sock or bound(self.config)
        self._socket, self._listener = sock, await self._listening(sock)
        self._sweeper = loop.create_task(self._sweep())
        host, port = own = sock.getsockname()
        self.own = None if host == "0.0.0.0" else own  # noqa: S104  # nothing is bound here
        return host, port

    async def stop(self) -> None:
        """Accept nothing more, answer what is being asked, close; at most ``drain_timeout_s``."""
        self.turns.run()  # what has come before is answered
        self.draining = True
        if self._listener is not None:
            self._listener.close()
        self._narrow()
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

    async def _listening(self, sock: socket.socket) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(lambda: self._connect(self), sock=sock, backlog=BACKLOG)

    async def _widen(self) -> None:
        """Accept many connections in one look at the sockets, while there is a crowd.

        uvloop accepts one per look and listening socket; so it gets the socket several times. What comes then comes
        together, and that is worth a quarter of a get with its connection (``turns.py``). Where few come, each one
        would wake all listeners for nothing. asyncio's own event loop accepts all that wait.
        """
        sock, loop = self._socket, asyncio.get_running_loop()
        if sock is None or not type(loop).__module__.startswith("uvloop"):
            return
        with contextlib.suppress(OSError):  # of descriptors there are too few: it goes on as it was
            while len(self._more) < CROWD and not self.draining:
                self._more.append(await self._listening(sock.dup()))
        if self.draining:
            self._narrow()

    def _narrow(self) -> None:
        """The crowd is gone."""
        for listener in self._more:
            listener.close()
        self._more.clear()
        self._widening = None

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def proven(self) -> int:
        """Connections that have made a request."""
        return sum(connection.proven for connection in self._connections)

    def acceptor(self, ours: str, theirs: str) -> Acceptor:
        """The crypto object of a connection between these two IPv4 addresses."""
        config = self.config
        return Acceptor(config.keytab, config.principal, local=_octets(ours), remote=_octets(theirs))

    def enter(self, connection: Connection) -> bool:
        """Take a new connection in, making room if need be; False when there is none."""
        peer = connection.peer
        if self.draining:
            return False
        config, there = self.config, self._per_peer
        if there.get(peer, 0) >= config.connections_per_peer and not self._make_room(peer):
            return False
        count = len(self._connections)
        if (count >= config.connections or count >= self.most) and not self._make_room(None):
            return False
        if count >= CROWD and self._widening is None:
            self._widening = asyncio.get_running_loop().create_task(self._widen())
        self._connections[connection] = None
        there[peer] = there.get(peer, 0) + 1
        return True

    def leave(self, connection: Connection) -> None:
        """Forget a connection; harmless for one that never entered."""
        if self._connections.pop(connection, self) is self:
            return
        there, peer = self._per_peer, connection.peer
        if there[peer] > 1:
            there[peer] -= 1
        else:
            del there[peer]
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
            if self._widening is not None and self._widening.done() and len(self._connections) < CROWD:
                self._narrow()
            for peer, count in self._closed_early.items():
                self.log.warning("auksd.closed_unproven", peer=peer, count=count)
            self._closed_early.clear()


def allow_files(connections: int) -> int:
    """Raise the soft limit of open files to what the connections need; how many there is room for, said if too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + RESERVED_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return connections
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.get().warning("auksd.files", limit=allowed, wanted=wanted)
    return max(1, allowed - RESERVED_FILES)
