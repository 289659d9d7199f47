"""The AUKS messages: one frozen dataclass each, one table per direction, one strict reader.

A message is ``i32 type`` and a body. ``decode_request`` and ``decode_reply`` look at the type, then at every length
before they copy, then insist that no byte is left over; ``records.py`` reads what a reply carries.
Source: notes on the AUKS protocol, sections 4, 5 and 19.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from hipercow_slurm.errors import ProtocolError
from hipercow_slurm.values import KrbCred
from hipercow_slurm.wire.records import MAX_CRED, Reader, Record, packed

_I32 = struct.Struct(">i")
_GET = struct.Struct(">iI")
_U32 = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class _Bare:
    """A message without a body."""

    TYPE: ClassVar[int]

    def body(self) -> bytes:
        return b""


@dataclass(frozen=True, slots=True)
class Ping(_Bare):
    TYPE: ClassVar[int] = 0


@dataclass(frozen=True, slots=True)
class List(_Bare):
    """Unused by clients; a server answers it with a PING reply."""

    TYPE: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class Add:
    """Store this KRB-CRED (at most 32768 bytes, not checked here)."""

    TYPE: ClassVar[int] = 2
    cred: bytes = field(repr=False)

    def body(self) -> bytes:
        if len(self.cred) > MAX_CRED:
            raise ProtocolError(f"a KRB-CRED of {len(self.cred)} bytes is too long for ADD", code="wire-too-long")
        return _I32.pack(len(self.cred)) + self.cred


@dataclass(frozen=True, slots=True)
class Get:
    TYPE: ClassVar[int] = 3
    uid: int

    def body(self) -> bytes:
        return _U32.pack(self.uid)


@dataclass(frozen=True, slots=True)
class Remove:
    TYPE: ClassVar[int] = 4
    uid: int

    def body(self) -> bytes:
        return _U32.pack(self.uid)


@dataclass(frozen=True, slots=True)
class Close(_Bare):
    """The client's last message; there is no reply."""

    TYPE: ClassVar[int] = 5


@dataclass(frozen=True, slots=True)
class Dump(_Bare):
    TYPE: ClassVar[int] = 6


@dataclass(frozen=True, slots=True)
class PingReply(_Bare):
    TYPE: ClassVar[int] = 20


@dataclass(frozen=True, slots=True)
class ErrorReply(_Bare):
    """Refused or failed; the protocol has no room for the reason."""

    TYPE: ClassVar[int] = 21


@dataclass(frozen=True, slots=True)
class AddReply(_Bare):
    TYPE: ClassVar[int] = 23


@dataclass(frozen=True, slots=True)
class GetReply:
    TYPE: ClassVar[int] = 24
    record: Record

    def body(self) -> bytes:
        return self.record.encode()


@dataclass(frozen=True, slots=True)
class RemoveReply(_Bare):
    TYPE: ClassVar[int] = 25


@dataclass(frozen=True, slots=True)
class DumpReply:
    TYPE: ClassVar[int] = 26
    records: tuple[Record, ...]

    def body(self) -> bytes:
        return _I32.pack(len(self.records)) + b"".join(record.encode() for record in self.records)


@dataclass(frozen=True, slots=True)
class DumpOut:
    """A DUMP reply as the server makes it, record by record: never in memory as a whole.

    Attributes:
        count: number of records.
        octets: sum of their sizes (``Record.size``).
        records: their bytes, in pieces of any size.
    """

    TYPE: ClassVar[int] = DumpReply.TYPE
    count: int
    octets: int
    records: Iterable[bytes] = field(repr=False)

    @property
    def length(self) -> int:
        """Octets of the whole message."""
        return 2 * _I32.size + self.octets

    def content(self) -> Iterator[bytes]:
        """The message in pieces."""
        yield _I32.pack(self.TYPE) + _I32.pack(self.count)
        yield from self.records


Request = Ping | List | Add | Get | Remove | Close | Dump
Reply = PingReply | ErrorReply | AddReply | GetReply | RemoveReply | DumpReply

REQUESTS = {kind.TYPE: kind for kind in (Ping, List, Add, Get, Remove, Close, Dump)}
REPLIES = {kind.TYPE: kind for kind in (PingReply, ErrorReply, AddReply, GetReply, RemoveReply, DumpReply)}


def encode(message: Request | Reply) -> bytes:
    """Type and body."""
    return _I32.pack(message.TYPE) + message.body()


def encode_get_reply(uid: int, cred: KrbCred, max_length: int) -> bytes:
    """``encode(GetReply(Record.of(...)))`` without making either: this is answered by the thousand."""
    return packed(
        uid, cred.client, cred.times, cred.der, max_length, cred.addressless, cred.tickets > 1, after=_GET_REPLY
    )


_GET_REPLY = _I32.pack(GetReply.TYPE)


_BARE: dict[bytes, Request] = {encode(kind()): kind() for kind in (Ping, List, Close, Dump)}


def decode_request(data: bytes) -> Request:
    """What a client asks.

    Raises:
        ProtocolError: unknown type, a wrong length, a missing byte or one too many.
    """
    if len(data) == _GET.size:  # the one that comes by the thousand when jobs start
        number, uid = _GET.unpack(data)
        if number == Get.TYPE:
            return Get(uid)
    elif known := _BARE.get(data):
        return known
    reader = Reader(data)
    number = reader.i32()
    kind = REQUESTS.get(number)
    request: Request
    if kind is None:
        raise ProtocolError(f"unknown request type {number}", code="wire-unexpected")
    if kind is Add:
        request = Add(reader.blob(MAX_CRED))
    elif kind is Get:
        request = Get(reader.u32())
    elif kind is Remove:
        request = Remove(reader.u32())
    else:
        request = kind()  # type: ignore[call-arg]  # the rest has no fields, and this one some bytes too many
    reader.finish()
    return request


def decode_reply(data: bytes) -> Reply:
    """What a server answered.

    Raises:
        ProtocolError: as ``decode_request``.
    """
    reader = Reader(data)
    number = reader.i32()
    kind = REPLIES.get(number)
    reply: Reply
    if kind is None:
        raise ProtocolError(f"unknown reply type {number}", code="wire-unexpected")
    if kind is ErrorReply:
        return ErrorReply()  # a server may add a reason of its own; clients look at the type only
    if kind is GetReply:
        reply = GetReply(Record.read(reader))
    elif kind is DumpReply:
        reply = DumpReply(_read_records(reader))
    else:
        reply = kind()  # type: ignore[call-arg]
    reader.finish()
    return reply


def _read_records(reader: Reader) -> tuple[Record, ...]:
    count = reader.i32()
    if count < 0:
        raise ProtocolError(f"a dump of {count} records")
    # Reading stops at the first record that is not there, so a large count alone costs nothing.
    return tuple(Record.read(reader) for _ in range(count))
