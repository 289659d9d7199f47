"""What a front process and the one that owns the store say to each other, over a socket pair.

    front                                  owner
    READY                          --->              it serves
                                   <---    SETTINGS  section [auksd], at the start and after a HUP
    HELLO n    peer, principal     --->              connection n is of this proven principal
    ASK n      request             --->
    UNKNOWN n  why                 --->              a message that is no request
                                   <---    ANSWER n  the reply
                                   <---    CLOSE n   no rule matches
                                   <---    DUMP n    its length
    MORE n                         --->
                                   <---    PIECE n   of the dump; an empty one is its end
    BYE n                          --->              the connection is closed
                                   <---    COUNT
    COUNT      connections, proven --->
                                   <---    DRAIN     end when everybody is answered
                                   <---    BEAT
    BEAT                           --->              at once, or it is taken for dead

A frame is ``u32 length, u8 kind, u32 n`` and as many octets; requests and replies are the messages of ``wire``, in
clear. Rule 1: one request of a connection at a time, so ``n`` tells which one an answer is for. Rule 2: what is
written in one turn of the event loop leaves in one system call (uvloop sees to that).
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from enum import IntEnum, auto
from typing import cast

from hipercow_slurm.errors import InternalError
from hipercow_slurm.wire.records import MAX_CRED

_HEAD = struct.Struct(">IBI")
MAX_PAYLOAD = 1024 * 1024  # a piece of a dump is a quarter of it, and a record
assert MAX_CRED < MAX_PAYLOAD // 4


class Kind(IntEnum):
    """What a frame says."""

    READY = auto()
    SETTINGS = auto()
    HELLO = auto()
    ASK = auto()
    UNKNOWN = auto()
    ANSWER = auto()
    CLOSE = auto()
    DUMP = auto()
    MORE = auto()
    PIECE = auto()
    BYE = auto()
    COUNT = auto()
    DRAIN = auto()
    BEAT = auto()


Received = Callable[[int, int, bytes], None]


class Link(asyncio.Protocol):
    """One end.

    Args:
        received: told kind, number and payload of each frame; must not raise.
        lost: told once when the other end is gone.
    """

    def __init__(self, received: Received, lost: Callable[[], None]) -> None:
        self._received = received
        self._lost = lost
        self._data = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, _error: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._transport = None
        self._lost()

    def data_received(self, data: bytes) -> None:
        """Give out what is complete."""
        if self._data:
            data = self._data + data
        at, size = 0, _HEAD.size
        while len(data) - at >= size:
            length, kind, number = _HEAD.unpack_from(data, at)
            if length > MAX_PAYLOAD:
                raise InternalError(f"a frame of {length} bytes between our own processes")
            end = at + size + length
            if len(data) < end:
                break
            self._received(kind, number, data[at + size : end])
            at = end
        self._data = data[at:]

    def send(self, kind: Kind, number: int = 0, payload: bytes = b"") -> None:
        """Say something; nothing if nobody is there any more."""
        if self._transport is not None:
            self._transport.write(_HEAD.pack(len(payload), kind, number) + payload)

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()
