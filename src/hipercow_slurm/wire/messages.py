"""The AUKS messages: one frozen dataclass each, one table per direction, one strict reader.

A message is ``i32 type`` and a body. ``decode_request`` and ``decode_reply`` look at the type, then at every length
before they copy, then insist that no byte is left over. All numbers are big-endian; times and uids are read as
unsigned 32-bit numbers (the original reads times as signed and loses every ticket that ends after 2038).
Source: notes on the AUKS protocol, sections 4, 5 and 19.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from hipercow_slurm.errors import ProtocolError
from hipercow_slurm.values import KrbCred, TicketTimes

MAX_CRED = 32768  # longest KRB-CRED in any message
MAX_PRINCIPAL = 127  # characters of a principal, without the NUL
MAX_UID = 0xFFFFFFFF

_PRINCIPAL_FIELD = 129
_I32 = struct.Struct(">i")
_GET = struct.Struct(">iI")
_U32 = struct.Struct(">I")
# principal field's size and bytes, uid, starttime, endtime, renew_till, addressless, crossrealm, max_length, length
_RECORD = struct.Struct(f">i{_PRINCIPAL_FIELD}sIIIIiiii")


class Reader:
    """Takes a message apart; every method refuses to read past the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        start = self._at
        if count < 0 or count > len(self._data) - start:
            raise ProtocolError(f"message too short: {count} bytes wanted, {len(self._data) - start} left")
        self._at = start + count
        return self._data[start : self._at]

    def i32(self) -> int:
        """A signed number."""
        value: int = _I32.unpack(self.take(4))[0]
        return value

    def u32(self) -> int:
        """An unsigned number."""
        value: int = _U32.unpack(self.take(4))[0]
        return value

    def blob(self, limit: int) -> bytes:
        """A length and that many bytes; a negative length or one above ``limit`` is refused before copying."""
        length = self.i32()
        if not 0 <= length <= limit:
            raise ProtocolError(f"length {length} is not between 0 and {limit}", code="wire-too-long")
        return self.take(length)

    def finish(self) -> None:
        """Refuse leftover bytes."""
        left = len(self._data) - self._at
        if left:
            raise ProtocolError(f"{left} bytes too many at the end of the message")


@dataclass(frozen=True, slots=True)
class Record:
    """One credential as GET and DUMP replies carry it (notes section 5).

    Attributes:
        uid: local uid the credential is filed under.
        principal: full text of its first ticket's client, at most 127 bytes.
        times: minimum starttime and endtime, maximum renew_till of its tickets.
        data: the KRB-CRED, at most ``max_length`` bytes; not checked here.
        max_length: size of the field that holds ``data``; a stock renewer refuses a renewed ticket longer than it.
    """

    uid: int
    principal: str
    times: TicketTimes
    data: bytes = field(repr=False)
    max_length: int = MAX_CRED
    addressless: bool = True
    crossrealm: bool = False

    @classmethod
    def of(cls, uid: int, cred: KrbCred, max_length: int) -> Record:
        """The record of a parsed credential."""
        return cls(uid, cred.client, cred.times, cred.der, max_length, cred.addressless, cred.tickets > 1)

    @staticmethod
    def size(max_length: int) -> int:
        """Octets of a record whose field for the KRB-CRED has ``max_length``."""
        return _RECORD.size + max_length + 4  # status

    def encode(self) -> bytes:
        """Its bytes; the padding is zero (the original sends 32 KiB of its stack)."""
        return _record(
            self.uid, self.principal, self.times, self.data, self.max_length, self.addressless, self.crossrealm
        )

    @classmethod
    def read(cls, reader: Reader) -> Record:
        """Take one record from a reply.

        The bytes after the principal's NUL and after the KRB-CRED are not looked at: the original leaves there
        whatever its memory held.
        """
        size, name, uid, start, end, renew_till, addressless, crossrealm, max_length, length = _RECORD.unpack(
            reader.take(_RECORD.size)
        )
        if size != _PRINCIPAL_FIELD:
            raise ProtocolError(f"principal field of {size} bytes, {_PRINCIPAL_FIELD} expected")
        if not 0 <= length <= max_length <= MAX_CRED:
            raise ProtocolError(f"KRB-CRED of {length} bytes in a field of {max_length}", code="wire-too-long")
        data = reader.take(max_length)[:length]
        if reader.i32() != 0:
            raise ProtocolError("credential record with a status other than 0")
        text, nul, _ = name.partition(b"\0")
        if not nul or not text:
            raise ProtocolError("credential record without a principal")
        try:
            principal = text.decode()
        except UnicodeDecodeError as error:
            raise ProtocolError("credential record whose principal is not UTF-8") from error
        times = TicketTimes(start, end, renew_till)
        return cls(uid, principal, times, data, max_length, bool(addressless), bool(crossrealm))


def _record(
    uid: int,
    principal: str,
    times: TicketTimes,
    data: bytes,
    max_length: int,
    addressless: bool,
    crossrealm: bool,
    *,
    after: bytes = b"",
) -> bytes:
    """See ``Record.encode``; behind the octets ``after``."""
    name, length = principal.encode(), len(data)
    if len(name) > MAX_PRINCIPAL or 0 in name:  # a number: octets are looked for after an exception
        raise ProtocolError(f"principal of {len(name)} bytes does not fit a record", code="wire-too-long")
    if not length <= max_length <= MAX_CRED:
        raise ProtocolError(f"a KRB-CRED of {length} bytes does not fit a field of {max_length}", code="wire-too-long")
    start, end, renew_till = times.starttime, times.endtime, times.renew_till
    header = _RECORD.pack(
        _PRINCIPAL_FIELD, name, uid, start, end, renew_till, addressless, crossrealm, max_length, length
    )
    return b"".join((after, header, data, bytes(max_length - length + 4)))  # + 4: status, always 0


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
    return _record(
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
