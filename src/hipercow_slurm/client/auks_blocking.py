"""The client of the credential cache for short programs: plain sockets, no event loop to import and start.

What is done in which order is in ``auks_steps.py``. Made for ``hipercow-slurm upload``, which runs inside every
``srun``: only what that needs.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
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

_READ = 64 * 1024


class BlockingAuksClient:
    """As ``auks.AuksClient``; not for several threads at once."""

    def __init__(self, servers: Sequence[Server], *, limits: Limits | None = None) -> None:
        self._servers = list(servers)
        self._limits = limits or Limits()
        self._tickets = Tickets()

    def ping(self, *, auth: KrbCred) -> None:
        """Make sure that a cache answers and knows us."""
        expect(self._ask(messages.Ping(), auth), messages.PingReply, "ping", auth)

    def add(self, cred: KrbCred, *, auth: KrbCred | None = None) -> None:
        """Hand over a credential, authenticated by itself unless ``auth`` says otherwise."""
        auth = auth or cred
        expect(self._ask(messages.Add(cred.der), auth), messages.AddReply, "add", auth)

    def get(self, uid: int, *, auth: KrbCred) -> Record | None:
        """The record of ``uid``, its credential checked; None if there is none or it is not ours to have."""
        reply = self._ask(messages.Get(uid), auth)
        if is_error(reply):
            return None
        expect(reply, messages.GetReply, "get", auth)
        assert isinstance(reply, messages.GetReply)
        check_record(reply.record, uid, krbcred.parse(reply.record.data))
        return reply.record

    def remove(self, uid: int, *, auth: KrbCred) -> None:
        """Remove the credential of ``uid``."""
        expect(self._ask(messages.Remove(uid), auth), messages.RemoveReply, "remove", auth)

    def dump(self, *, auth: KrbCred) -> tuple[Record, ...]:
        """Every record of the cache (role admin); their KRB-CREDs are not checked."""
        reply = self._ask(messages.Dump(), auth)
        expect(reply, messages.DumpReply, "dump", auth)
        assert isinstance(reply, messages.DumpReply)
        return reply.records

    def _ask(self, request: Request, auth: KrbCred) -> Reply:
        steps = ask(self._servers, self._limits, self._tickets, auth, request)
        try:
            step = next(steps)
            while True:
                try:
                    result = _perform(step)
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as done:
            reply: Reply = done.value
            return reply
        finally:
            steps.close()


def _perform(step: Step) -> Any:
    if isinstance(step, Block):
        return _within(step.function, step.timeout_s)
    if isinstance(step, Connect):
        return _connect(step)
    if isinstance(step, Exchange):
        return _exchange(step)
    return time.sleep(step.seconds)


def _connect(step: Connect) -> socket.socket:
    sock = socket.create_connection(step.address, timeout=step.timeout_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _exchange(step: Exchange) -> bytes:
    step.sock.settimeout(step.timeout_s)
    if step.data:
        step.sock.sendall(step.data)
    with contextlib.suppress(OSError):  # see auks.quick_ack
        step.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
    return step.sock.recv(_READ)


def _within(function: Callable[[], Any], timeout_s: float) -> Any:
    """Call ``function`` on a thread that is left behind if it takes too long: libkrb5 and the resolver have no
    deadlines of ours."""
    outcome: list[tuple[Any, Exception | None]] = []

    def call() -> None:
        try:
            outcome.append((function(), None))
        except Exception as error:
            outcome.append((None, error))

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not outcome:
        raise TimeoutError(f"no answer in {timeout_s:.0f} s")
    value, error = outcome[0]
    if error is not None:
        raise error
    return value
