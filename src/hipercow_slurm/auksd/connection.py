"""One peer of the cache: the transport's callbacks feed its session, and requests are answered in order.

Rule 1: what can be answered at once is answered in the turn (``turns.py``) that brought it: a GET from SQLite is a
matter of some hundredths of a millisecond, and a task of its own would double that. What waits (for a commit,
slurmctld, the disk of the audit log) is a task; until it has ended the next request stays in the session's buffer.
Rule 2: the event loop belongs to all: after each request of one peer the others have their turn.

Who decides is a subclass's matter: the service of this process (``Answering``), or of another one (``front.py``).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from hipercow_slurm.auksd.deciding import Requester
from hipercow_slurm.auksd.dumping import Dump
from hipercow_slurm.auksd.service import Service
from hipercow_slurm.errors import Error
from hipercow_slurm.wire.frames import MAX_FRAME
from hipercow_slurm.wire.messages import Reply, Request
from hipercow_slurm.wire.session import Authenticated, Ended, Malformed, ServerEvent, ServerSession

if TYPE_CHECKING:
    from hipercow_slurm.auksd.server import Server

DUMP_S = 600.0  # a dump must be taken in so long: until then the database throws nothing away


class Connection(asyncio.Protocol):
    """One peer.

    Attributes:
        peer: its IPv4 address.
        proven: its first request has been opened: it holds the key, and no recording does.
        deadline: when it is closed, by the event loop's clock.
    """

    __slots__ = (
        "_acceptor",
        "_busy",
        "_closing",
        "_full",
        "_lost",
        "_paused",
        "_queued",
        "_room",
        "_server",
        "_session",
        "_task",
        "_transport",
        "deadline",
        "peer",
        "proven",
    )

    _transport: asyncio.Transport
    _session: ServerSession

    def __init__(self, server: Server) -> None:
        self._server = server
        self._busy = False  # a reply has to be waited for
        self._task: asyncio.Task[None] | None = None  # makes it
        self._room: asyncio.Future[None] | None = None  # that task waits for the peer to take what was written
        self._full = False  # the peer does not take its replies
        self._queued = False  # waits for its turn
        self._paused = self._closing = self._lost = False
        self.peer = ""
        self.proven = False
        self.deadline = math.inf

    # What the transport calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Check the limits and begin."""
        self._transport = transport  # type: ignore[assignment]  # of a TCP socket; cast() is a call
        server = self._server
        theirs = transport.get_extra_info("peername")
        ours = server.own or transport.get_extra_info("sockname")
        if not ours or not theirs:  # gone already
            self.abort()
            return
        self.peer = peer = theirs[0]
        if not server.enter(self):
            server.refuse(peer)
            self.abort()
            return
        self.deadline = server.now() + server.config.handshake_timeout_s
        self._acceptor = server.acceptor(ours[0], peer)
        self._session = ServerSession(self._acceptor)

    def data_received(self, data: bytes) -> None:
        """Bytes from the peer."""
        if self._closing:
            return
        turns = self._server.turns
        if self._queued or self._busy or self._full:
            self._session.receive(data)
            self._hold()
        elif turns.few:
            turns.few -= 1
            self.step(data)
        else:
            self._session.receive(data)
            self._queued = True
            turns.add(self)

    def eof_received(self) -> bool:
        """The peer will send no more, but may still want its answers."""
        if not self._closing:
            self._session.receive(b"")
            if not self._busy:
                self._go()
        return True

    def pause_writing(self) -> None:
        """The peer does not take its replies."""
        self._full = True

    def resume_writing(self) -> None:
        """It does again."""
        self._full = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if not self._busy:
            self._go()

    def connection_lost(self, _error: Exception | None) -> None:
        """The socket is closed. A request being answered goes on: its change may be committed already."""
        entered = hasattr(self, "_session")
        self._closing = self._lost = True
        self._server.leave(self)
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if entered and not self._busy:
            self._acceptor.close()

    # What the server calls

    def finish(self) -> None:
        """Close now, or after the reply that is being made."""
        if not self._busy:
            self._close()

    def abort(self) -> None:
        """Close now and drop what was not sent."""
        self._closing = self._lost = True
        self._server.leave(self)
        self._transport.abort()

    # The conversation

    def _go(self) -> None:
        """Take what has come, when it is our turn."""
        if not self._queued:
            self._queued = True
            self._server.turns.add(self)

    def step(self, data: bytes | None = None) -> None:
        """Take one event, if nothing must be waited for; ``data`` has just come."""
        self._queued = False
        if self._closing or self._full or self._busy:
            return
        session = self._session
        try:
            event = session.next_event() if data is None else session.take(data)
            if event is None:
                self._need_more()
                return
            self._take(event)
            if session.exhausted:
                if self._paused:
                    self._need_more()
            elif not self._closing:
                self._hold()
                self._go()
        except Error as error:
            self._fail(error)
        except Exception:
            self._server.log.exception("auksd.bug", peer=self.peer)
            self._close()

    def _hold(self) -> None:
        """Take no more from the peer while enough of it waits here."""
        if not self._paused and self._session.buffered > 2 * MAX_FRAME:
            self._paused = True
            self._transport.pause_reading()

    def _take(self, event: ServerEvent) -> None:
        if isinstance(event, Authenticated):
            self._write(self._session.outgoing())
            self._greet(event.client)
        elif isinstance(event, Ended):
            self._close()
        else:
            self.proven = True
            self._decide(event)

    def _greet(self, client: str) -> None:
        """The peer has proved to be ``client``."""
        raise NotImplementedError

    def _decide(self, event: Request | Malformed) -> None:
        """Answer a request, now or later."""
        raise NotImplementedError

    def _answered(self, data: bytes) -> None:
        server = self._server
        self._write(data)
        self.deadline = server.now() + server.config.idle_timeout_s

    def _need_more(self) -> None:
        if out := self._session.outgoing():
            self._write(out)
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def _later(self, work: Coroutine[Any, Any, None], *, last: bool = False) -> None:
        """Have ``work`` done, then go on, or close after it."""
        self._busy = True
        self.deadline = math.inf
        self._task = asyncio.get_running_loop().create_task(self._wait_for(work, last=last))

    async def _wait_for(self, work: Coroutine[Any, Any, None], *, last: bool) -> None:
        try:
            await work
        except Error as error:
            self._fail(error)
        except Exception:
            self._server.log.exception("auksd.bug", peer=self.peer)
            last = True
        finally:
            self._busy, self._task = False, None
        self._continue(last=last)

    def _continue(self, *, last: bool = False) -> None:
        """A reply was waited for and is on its way."""
        if self._lost:
            self._acceptor.close()
        elif last or self._server.draining:
            self._close()
        else:
            self._go()

    async def _send_pieces(self, pieces: Iterator[bytes | bytearray]) -> None:
        """Send tens of megabytes, made and encrypted in threads as the peer takes them."""
        run, until = self._server.workers.run, self._server.now() + DUMP_S
        while (piece := await run(next, pieces, None)) is not None and not self._lost:
            await self._send(piece, until=until)

    async def _send(self, data: bytes | bytearray, *, until: float = math.inf) -> None:
        """Hand ``data`` to the transport, and wait while the peer does not take it."""
        self._write(data)
        self.deadline = min(until, self._server.now() + self._server.config.idle_timeout_s)
        if self._full and not self._lost:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def _write(self, data: bytes | bytearray) -> None:
        if data:
            said = self._server.turns.said
            if said is not None:
                said.append((self, data))
            elif not self._lost:
                self._transport.write(data)

    def deliver(self, data: bytes | bytearray | None) -> None:
        """Hand ``data`` to the transport; None: close when everything has been sent."""
        if data is None:
            self._transport.close()
        elif not self._lost:
            self._transport.write(data)

    def _fail(self, error: Error) -> None:
        self._write(self._session.outgoing())
        self._server.log.warning("auksd.closed", peer=self.peer, code=error.code, why=error.message)
        self._close()

    def _close(self) -> None:
        """Close when everything written has been sent."""
        self._closing = True
        said = self._server.turns.said
        if said is None:
            self._transport.close()
        else:
            said.append((self, None))


class Answering(Connection):
    """A peer that is answered by ``service``."""

    __slots__ = ("_service", "_who")

    _who: Requester

    def __init__(self, server: Server, service: Service) -> None:
        super().__init__(server)
        self._service = service

    def _greet(self, client: str) -> None:
        who = self._service.requester(client, self.peer)
        if who is None:
            self._later(self._service.turned_away(client, self.peer), last=True)
        else:
            self._who = who

    def _decide(self, event: Request | Malformed) -> None:
        reply = None if isinstance(event, Malformed) else self._service.answer_now(self._who, event)
        if reply is None:
            self._later(self._answer(event))
        else:
            self._answered(self._session.send_encoded(reply))

    async def _answer(self, event: Request | Malformed) -> None:
        if isinstance(event, Malformed):
            reply: Reply | Dump = await self._service.malformed(self._who, event.why)
        else:
            reply = await self._service.answer(self._who, event)
        if isinstance(reply, Dump):
            await self._send_dump(reply)
        else:
            await self._send(self._session.send(reply))

    async def _send_dump(self, dump: Dump) -> None:
        try:
            await self._send_pieces(self._session.send_dump(dump))
        finally:
            await self._server.workers.run(dump.close)
