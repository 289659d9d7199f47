"""Who may have a connection: so many in all, and so many of one address; counted from the moment it is accepted.

uvicorn counts a connection once TLS is agreed on (uvloop calls ``connection_made`` then, measured), so one that never
says a word is not seen there, and stays for a minute. Hence connections are accepted here. Rule 1: whoever is accepted
has a place until the connection is gone, whether or not the handshake ends, and the handshake has a deadline. Rule 2:
who comes too many is told so, which costs a handshake; so at most ``_TOLD`` at a time are, and others are closed
without a word. Rule 3: an address that holds all it may, and all the telling it may, keeps nobody else out; nor do a
few together: the fewer places are free, the fewer each may have.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import uvicorn

from hipercow_slurm import log
from hipercow_slurm.api.addresses import network_of

Full = Literal["all", "address"]
Refused = Callable[[Full, bool], None]

_TOLD, _TOLD_HERE = 32, 4  # of those who come too many, in all and of one address
_AT_ONCE = 64  # accepted in one look; then whoever is there already has a turn
_AGAIN_S = 0.5
_GOODBYE_S = 2.0


@dataclass(slots=True, eq=False)
class Place:
    """One connection's; ``full``: there is none any more, and of what; it is only told so."""

    network: str
    full: Full | None
    held: bool = True


class Places:
    """All places of one process; ``refused`` hears of each connection that got none, and whether it was told.

    One address alone gets ``per_address`` of them. For each address that holds many, less is left to all, and what one
    may have is a fixed multiple of what is left (as switches share out their buffers: Choudhury and Hahne, "Dynamic
    queue length thresholds", 1998). So with 600 of 1000, two get 375 each, ten 94 each; to take all, eight must come
    one after the other.
    """

    def __init__(self, most: int, per_address: int, refused: Refused = lambda full, told: None) -> None:
        self._most = most
        self._per_address = per_address
        self._refused = refused
        self._taken = 0
        self._here: Counter[str] = Counter()
        self._told = 0
        self._told_here: Counter[str] = Counter()

    def __len__(self) -> int:
        return self._taken

    def enter(self, address: str) -> Place | None:
        """A place for a new connection from there, or one to be told that there is none; None: not even that."""
        network = network_of(address)
        full = self._full(self._here[network])
        if full is None:
            self._taken += 1
            self._here[network] += 1
            return Place(network, None)
        told = self._told < _TOLD and self._told_here[network] < _TOLD_HERE
        self._refused(full, told)
        if not told:
            _drop_zero(self._here, network)
            _drop_zero(self._told_here, network)
            return None
        self._told += 1
        self._told_here[network] += 1
        return Place(network, full)

    def _full(self, here: int) -> Full | None:
        """Is there no place for an address that has ``here`` of them?"""
        free, others = self._most - self._taken, self._most - self._per_address
        if here >= self._per_address or (free > 0 and here * others >= free * self._per_address):
            return "address"
        return None if free > 0 else "all"

    def leave(self, place: Place) -> None:
        """The connection is gone; the second time nothing happens."""
        if not place.held:
            return
        place.held = False
        if place.full is None:
            self._taken -= 1
            here = self._here
        else:
            self._told -= 1
            here = self._told_here
        here[place.network] -= 1
        for counted in (self._here, self._told_here):
            _drop_zero(counted, place.network)


def _drop_zero(counted: Counter[str], network: str) -> None:
    """Nothing is kept of addresses that hold nothing: there are 2**64 networks."""
    if not counted[network]:
        del counted[network]


class Placed(Protocol):
    """A connection that knows its place; ``left`` is called when it is gone."""

    place: Place
    left: Callable[[], None]


class Door:
    """Accepts connections of one listening socket, and agrees on TLS with those who have a place.

    Closed and waited for as uvicorn does with asyncio's servers.
    """

    def __init__(
        self,
        sock: socket.socket,
        places: Places,
        tls: ssl.SSLContext,
        make: Callable[[], asyncio.Protocol],
        *,
        handshake_s: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._places = places
        self._tls = tls
        self._make = make
        self._handshake_s = handshake_s
        self._entering: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        """Accept nobody any more; who has not ended the handshake is gone."""
        self._loop.remove_reader(self._sock)
        if self._again is not None:
            self._again.cancel()
        for task in self._entering:
            task.cancel()

    async def wait_closed(self) -> None:
        """Until nobody is at the door."""
        await asyncio.gather(*self._entering, return_exceptions=True)

    def _accept(self) -> None:
        """Take in those who wait, up to a number."""
        for _ in range(_AT_ONCE):
            try:
                connection, address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor is free; who waits, waits
                log.get().error("api.not-accepting", why=error.strerror or type(error).__name__)
                self._loop.remove_reader(self._sock)
                self._again = self._loop.call_later(_AGAIN_S, self._loop.add_reader, self._sock, self._accept)
                return
            place = self._places.enter(address[0])
            if place is None:
                connection.close()
                continue
            connection.setblocking(False)
            task = self._loop.create_task(self._enter(connection, place))
            self._entering.add(task)
            task.add_done_callback(self._entering.discard)

    async def _enter(self, connection: socket.socket, place: Place) -> None:
        """Agree on TLS; from then on the connection is its protocol's, which tells when it is over."""
        entered = False

        def made() -> asyncio.Protocol:
            protocol = self._make()
            placed: Placed = protocol  # type: ignore[assignment]
            placed.place, placed.left = place, lambda: self._places.leave(place)
            return protocol

        try:
            with contextlib.suppress(OSError, ssl.SSLError):  # a TimeoutError is an OSError
                await self._loop.connect_accepted_socket(
                    made,
                    connection,
                    ssl=self._tls,
                    ssl_handshake_timeout=self._handshake_s,
                    ssl_shutdown_timeout=_GOODBYE_S,
                )
                entered = True
        finally:
            if not entered:
                self._places.leave(place)


class Listener(uvicorn.Server):
    """uvicorn behind our own door; it says when it listens, and leaves signals to ``daemon.run``."""

    def __init__(
        self,
        settings: uvicorn.Config,
        places: Places,
        tls: ssl.SSLContext,
        handshake_s: float,
        listening: asyncio.Event,
    ) -> None:
        super().__init__(settings)
        self.places = places
        self.tls = tls
        self.handshake_s = handshake_s
        self.listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        doors = [Door(sock, self.places, self.tls, self._made, handshake_s=self.handshake_s) for sock in sockets or []]
        self.servers = cast(list[asyncio.base_events.Server], doors)  # it closes them and waits for them, no more
        self.started = True
        self.listening.set()

    def _made(self) -> asyncio.Protocol:
        """A new connection's protocol."""
        make = cast(Callable[..., asyncio.Protocol], self.config.http_protocol_class)
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield
