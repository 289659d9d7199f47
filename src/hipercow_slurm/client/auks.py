"""The client of the credential cache for asyncio programs: our own auksd or CEA's, over the AUKS wire.

What is done in which order is in ``auks_steps.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Any

from hipercow_slurm.client.auks_steps import (
    Block,
    Connect,
    Exchange,
    Limits,
    Server,
    Step,
    Tickets,
    ask,
    check_record,
    expect,
    is_error,
)
from hipercow_slurm.krb5 import krbcred
from hipercow_slurm.values import KrbCred
from hipercow_slurm.wire import messages
from hipercow_slurm.wire.messages import Reply, Request
from hipercow_slurm.wire.records import Record

__all__ = ["AuksClient", "Limits", "Server"]

_READ = 256 * 1024


class AuksClient:
    """Asks the first of ``servers`` that answers; one connection per call.

    Every method takes ``auth``, the TGT to authenticate with, and raises: UnavailableError ``cache-unreachable`` (no
    server answered before the deadlines), AccessError ``no-role`` or ``cache-refused``, and what the KDC says when
    it gives no ticket for the cache.

    Args:
        servers: in order of preference; ``Server`` or (host, port, principal).
        limits: deadlines and tries.
    """

    def __init__(self, servers: Sequence[Server | tuple[str, int, str]], *, limits: Limits | None = None) -> None:
        self._servers = [one if isinstance(one, Server) else Server(one[0], one[2], one[1]) for one in servers]
        self._limits = limits or Limits()
        self._tickets = Tickets()

    async def ping(self, *, auth: KrbCred) -> None:
        """Make sure that a cache answers and knows us."""
        expect(await self._ask(messages.Ping(), auth), messages.PingReply, "ping", auth)

    async def add(self, cred: KrbCred, *, auth: KrbCred | None = None) -> None:
        """Hand over a credential, authenticated by itself unless ``auth`` says otherwise.

        Success means it is stored, or that the cache holds a better one.
        """
        auth = auth or cred
        expect(await self._ask(messages.Add(cred.der), auth), messages.AddReply, "add", auth)

    async def get(self, uid: int, *, auth: KrbCred) -> KrbCred | None:
        """The credential of ``uid``; None if there is none or it is not ours to have."""
        reply = await self._ask(messages.Get(uid), auth)
        if is_error(reply):
            return None
        expect(reply, messages.GetReply, "get", auth)
        assert isinstance(reply, messages.GetReply)
        return check_record(reply.record, uid, krbcred.parse(reply.record.data))

    async def remove(self, uid: int, *, auth: KrbCred) -> bool:
        """Remove the credential of ``uid``; False if there is none or it is not ours to remove."""
        reply = await self._ask(messages.Remove(uid), auth)
        if is_error(reply):
            return False
        expect(reply, messages.RemoveReply, "remove", auth)
        return True

    async def dump(self, *, auth: KrbCred) -> tuple[Record, ...]:
        """Every record of the cache (role admin); their KRB-CREDs are not checked."""
        reply = await self._ask(messages.Dump(), auth)
        expect(reply, messages.DumpReply, "dump", auth)
        assert isinstance(reply, messages.DumpReply)
        return reply.records

    async def _ask(self, request: Request, auth: KrbCred) -> Reply:
        steps = ask(self._servers, self._limits, self._tickets, auth, request)
        try:
            step = next(steps)
            while True:
                try:
                    result = await _perform(step)
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as done:
            reply: Reply = done.value
            return reply
        finally:
            steps.close()


async def _perform(step: Step) -> Any:
    if isinstance(step, Block):
        async with asyncio.timeout(step.timeout_s):
            return await asyncio.to_thread(step.function)
    if isinstance(step, Connect):
        async with asyncio.timeout(step.timeout_s):
            return await _connect(step.address)
    if isinstance(step, Exchange):
        async with asyncio.timeout(step.timeout_s):
            return await _exchange(step.sock, step.data)
    return await asyncio.sleep(step.seconds)


async def _connect(address: tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _exchange(sock: socket.socket, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    if data:
        await loop.sock_sendall(sock, data)
    quick_ack(sock)
    return await loop.sock_recv(sock, _READ)


def quick_ack(sock: socket.socket) -> None:
    """Have the kernel acknowledge at once.

    CEA's auksd writes its two handshake answers apart and leaves Nagle on: a delayed ACK costs 44 ms per connection.
    Linux forgets the option, so it is set before each read.
    """
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
