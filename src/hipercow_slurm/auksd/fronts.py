"""Several processes on one port: this one owns the store and decides, its front processes (``front.py``) do the rest.

    clients --TCP--> front --+                           of a GET with a connection of its own, nine tenths of the
    clients --TCP--> front --+--socket pairs--> owner    CPU time are TCP, the AP exchange and KRB-PRIV: the fronts'
                 ^                                |
                 +---- one listening socket ------+

Rule 1: nothing is decided or remembered in a front, so whatever one process promises (what is revoked or replaced is so
at once, one question to slurmctld for all, one audit log, one renewal at a time) several promise.
Rule 2: all accept from one socket, which the owner holds: whatever becomes of a front, connections that nobody has
taken yet wait for another one. Rule 3: a front that dies is started anew, and one that answers nothing any more is
ended for that. Its peers lose their connections; what it had passed on is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import time

import msgspec

from hipercow_slurm import log
from hipercow_slurm.auksd.config import Auksd
from hipercow_slurm.auksd.conversations import Conversations
from hipercow_slurm.auksd.front import COUNTS
from hipercow_slurm.auksd.link import Kind, Link
from hipercow_slurm.auksd.server import BACKLOG, bound
from hipercow_slurm.auksd.service import Service
from hipercow_slurm.auksd.workers import Workers
from hipercow_slurm.errors import ConfigError, UnavailableError
from hipercow_slurm.metrics import Check

READY_S = 60.0
COUNT_S = 1.0
BEAT_S = 1.0  # between two questions whether it is alive; counted, not timed: we may have been stopped ourselves
SILENT_BEATS = 6  # so many of them unanswered, and it is ended
AGAIN_S = 1.0  # between two starts of a front
BIND_S = 5.0  # the fronts of a daemon that was killed hold the port for a moment
END_S = 5.0  # beyond the time that draining may take


class Fronts:
    """The front processes; to the rest of the daemon what a ``Server`` is.

    Args:
        config: how many, and their limits together; may be replaced while running.
        service: decides.
        workers: threads that read dumps.
    """

    def __init__(self, config: Auksd, service: Service, workers: Workers) -> None:
        self._config = config
        self.service = service
        self.workers = workers
        self.draining = False
        self._all = [Front(self, number) for number in range(config.processes)]
        self._tasks: list[asyncio.Task[None]] = []
        self._socket: socket.socket | None = None

    @property
    def config(self) -> Auksd:
        """Section [auksd] in force."""
        return self._config

    @config.setter
    def config(self, new: Auksd) -> None:
        self._config = new
        for one in self._all:
            one.configure()

    def share(self) -> Auksd:
        """What each of them is told: the limits are for all together."""
        config, count = self._config, len(self._all)
        return msgspec.structs.replace(
            config,
            connections=-(-config.connections // count),
            connections_per_peer=-(-config.connections_per_peer // count),
        )

    async def start(self) -> tuple[str, int]:
        """Listen, and return when every front serves; address and port.

        Raises:
            UnavailableError: ``cannot-listen``.
            ConfigError: a front does not start (its log line says why).
        """
        self._socket = sock = await _bound(self._config)
        sock.listen(BACKLOG)
        self._tasks = [asyncio.create_task(one.run(sock)) for one in self._all]
        started = asyncio.create_task(self._started())
        await asyncio.wait([started, *self._tasks], timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            started.cancel()
            await self.stop()
            raise ConfigError("the front processes do not start", hint="their own log lines, before this one, say why")
        log.get().info("auksd.fronts", processes=len(self._all))
        host, port = sock.getsockname()
        return host, port

    async def _started(self) -> None:
        for one in self._all:
            await one.ready.wait()

    async def stop(self) -> None:
        """Accept nothing more, answer what is being asked, close; at most ``drain_timeout_s`` and a little."""
        self.draining = True
        if self._socket is not None:
            self._socket.close()
        for one in self._all:
            one.drain()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._config.drain_timeout_s + END_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def count(self) -> None:
        """Have each front count its connections, for ``len`` and ``proven``; one that is silent is not waited for."""
        for one in self._all:
            one.count()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(COUNT_S):
                for one in self._all:
                    await one.counted.wait()

    def __len__(self) -> int:
        return sum(one.connections for one in self._all)

    @property
    def proven(self) -> int:
        """Connections that have made a request."""
        return sum(one.proven for one in self._all)

    def health(self) -> Check:
        """Whether all of them serve."""
        serving = sum(one.ready.is_set() for one in self._all)
        return Check(serving == len(self._all), f"{serving} of {len(self._all)} front processes serve")


class Front:
    """One front process, started anew when it dies.

    Attributes:
        ready: it serves.
        connections, proven: as it counted last.
        counted: since it was asked to.
    """

    def __init__(self, fronts: Fronts, number: int) -> None:
        self.ready, self.counted = asyncio.Event(), asyncio.Event()
        self.connections = self.proven = 0
        self._silent = 0  # beats since it said anything
        self._fronts = fronts
        self._number = number
        self._link: Link | None = None
        self._talks = Conversations(fronts.service, fronts.workers, self._say)

    async def run(self, listening: socket.socket) -> None:
        """Keep the process running until it has drained; ends it when cancelled.

        It returns before that only if the process ended by itself before it ever served.
        """
        served = False
        while not self._fronts.draining:
            status = await self._once(listening)
            if self._fronts.draining:
                return
            served = served or self.ready.is_set()
            self.ready.clear()
            log.get().error("auksd.front_died", number=self._number, status=status)
            if not served and status >= 0:  # killed, it may do better the next time
                return
            await asyncio.sleep(AGAIN_S)

    async def _once(self, listening: socket.socket) -> int:
        """Start the process and wait for its end; its exit status."""
        ours, theirs = socket.socketpair()
        place = (listening.fileno(), theirs.fileno())
        command = (sys.executable, "-P", "-m", "hipercow_slurm", "auksd", "--front", f"{place[0]}:{place[1]}")
        try:
            process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL, pass_fds=place)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        try:
            self._link = link = Link(self._received, lambda: self._lost(link))
            await asyncio.get_running_loop().create_connection(lambda: link, sock=ours)
            self.configure()
            watching = asyncio.create_task(self._watch(process))
            try:
                return await process.wait()
            finally:
                watching.cancel()
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGKILL)
                await process.wait()

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """End the process when it hangs: alive, it would hold its connections and those it still accepts for ever."""
        self._silent = 0
        while not self._fronts.draining:
            await asyncio.sleep(BEAT_S)
            self._silent += 1
            if self._silent > (SILENT_BEATS if self.ready.is_set() else READY_S / BEAT_S):
                log.get().error("auksd.front_silent", number=self._number, pid=process.pid)
                process.send_signal(signal.SIGKILL)
                return
            self._say(Kind.BEAT)

    def configure(self) -> None:
        """Tell it what section [auksd] says now."""
        self._say(Kind.SETTINGS, payload=msgspec.json.encode(self._fronts.share()))

    def drain(self) -> None:
        """Let it answer what is being asked, and end."""
        self._say(Kind.DRAIN)

    def count(self) -> None:
        """Ask how many connections it has."""
        self.counted.clear()
        if self._link is None:
            self.counted.set()
        self._say(Kind.COUNT)

    def _say(self, kind: Kind, number: int = 0, payload: bytes = b"") -> None:
        if self._link is not None:
            self._link.send(kind, number, payload)

    def _lost(self, link: Link) -> None:
        """The process is gone."""
        if link is not self._link:
            return
        self._link = None
        self.connections = self.proven = 0
        self.counted.set()
        self._talks.end()

    def _received(self, kind: int, number: int, payload: bytes) -> None:
        self._silent = 0
        if kind == Kind.BEAT:
            return
        if kind == Kind.COUNT:
            self.connections, self.proven = COUNTS.unpack(payload)
            self.counted.set()
        elif kind == Kind.READY:
            self.ready.set()
        else:
            self._talks.received(kind, number, payload)


async def _bound(config: Auksd) -> socket.socket:
    end = time.monotonic() + BIND_S
    while True:
        try:
            return bound(config)
        except UnavailableError:
            if time.monotonic() > end:
                raise
        await asyncio.sleep(0.1)
