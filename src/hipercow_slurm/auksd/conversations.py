"""What the owner of the store answers to the peers of a front process (``fronts.py``, ``link.py``)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

from hipercow_slurm import log
from hipercow_slurm.auksd.deciding import Requester
from hipercow_slurm.auksd.dumping import Dump
from hipercow_slurm.auksd.front import LENGTH
from hipercow_slurm.auksd.link import Kind
from hipercow_slurm.auksd.service import Service
from hipercow_slurm.auksd.workers import Workers
from hipercow_slurm.errors import Error
from hipercow_slurm.wire import messages
from hipercow_slurm.wire.messages import Reply


@dataclass(slots=True)
class _Peer:
    """A conversation.

    Attributes:
        dump, content: what is being sent.
        reading: a piece of it is being made.
    """

    who: Requester
    dump: Dump | None = None
    content: Iterator[bytes] = field(default_factory=lambda: iter(()))
    reading: bool = False


class Conversations:
    """The conversations of one front, by number.

    Args:
        service: decides.
        workers: threads that read dumps.
        say: sends kind, number and payload to the front, if it is there.
    """

    def __init__(self, service: Service, workers: Workers, say: Callable[[Kind, int, bytes], None]) -> None:
        self._service = service
        self._workers = workers
        self._say = say
        self._peers: dict[int, _Peer] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def end(self) -> None:
        """The front is gone. What is being done for its peers goes on: a change may be committed already."""
        for number in list(self._peers):
            self._leave(number)

    def received(self, kind: int, number: int, payload: bytes) -> None:
        """A frame of the front."""
        peer = self._peers.get(number)
        if kind == Kind.HELLO:
            self._enter(number, payload.decode())
        elif kind == Kind.BYE:
            self._leave(number)
        elif peer is None:
            return
        elif kind == Kind.ASK:
            self._answer(number, peer, payload)
        elif kind == Kind.UNKNOWN:
            self._do(self._malformed(number, peer, payload.decode()))
        elif kind == Kind.MORE and not peer.reading:
            self._do(self._piece(number, peer))

    def _enter(self, number: int, text: str) -> None:
        address, _, principal = text.partition(" ")
        who = self._service.requester(principal, address)
        if who is None:
            self._do(self._turn_away(number, principal, address))
        else:
            self._peers[number] = _Peer(who)

    def _leave(self, number: int) -> None:
        peer = self._peers.pop(number, None)
        if peer is not None and not peer.reading:
            self._do(self._end_dump(peer))

    def _answer(self, number: int, peer: _Peer, payload: bytes) -> None:
        request = messages.decode_request(payload)
        reply = self._service.answer_now(peer.who, request)
        if reply is None:
            self._do(self._wait(number, peer, request))
        else:
            self._say(Kind.ANSWER, number, reply)

    def _reply(self, number: int, reply: Reply) -> None:
        self._say(Kind.ANSWER, number, messages.encode(reply))

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            log.get().exception("auksd.bug", during="a front's request")

    async def _turn_away(self, number: int, principal: str, address: str) -> None:
        await self._service.turned_away(principal, address)
        self._say(Kind.CLOSE, number, b"")

    async def _malformed(self, number: int, peer: _Peer, why: str) -> None:
        self._reply(number, await self._service.malformed(peer.who, why))

    async def _wait(self, number: int, peer: _Peer, request: messages.Request) -> None:
        reply = await self._service.answer(peer.who, request)
        if not isinstance(reply, Dump):
            self._reply(number, reply)
        elif self._peers.get(number) is peer:
            peer.dump, peer.content = reply, iter(reply.content())
            self._say(Kind.DUMP, number, LENGTH.pack(reply.length))
        else:
            await self._workers.run(reply.close)

    async def _piece(self, number: int, peer: _Peer) -> None:
        """Read on in a dump, as its peer takes it."""
        peer.reading = True
        try:
            piece = await self._workers.run(next, peer.content, b"")
            self._say(Kind.PIECE, number, piece)
        except Error as error:
            log.get().error("auksd.dump_failed", code=error.code, why=error.message)
            self._say(Kind.CLOSE, number, b"")
            piece = b""
        finally:
            peer.reading = False
        if not piece or self._peers.get(number) is not peer:
            await self._end_dump(peer)

    async def _end_dump(self, peer: _Peer) -> None:
        dump, peer.dump, peer.content = peer.dump, None, iter(())
        if dump is not None:
            await self._workers.run(dump.close)
