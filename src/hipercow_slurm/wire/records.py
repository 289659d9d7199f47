"""One credential as AUKS replies carry it, and the strict reader that takes messages apart.

All numbers are big-endian; times and uids are read as unsigned 32-bit numbers (the original reads times as signed and
loses every ticket that ends after 2038). Source: notes on the AUKS protocol, sections 4, 5 and 19.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from hipercow_slurm.errors import ProtocolError
from hipercow_slurm.values import KrbCred, TicketTimes

MAX_CRED = 32768  # longest KRB-CRED in any message
MAX_PRINCIPAL = 127  # characters of a principal, without the NUL

_PRINCIPAL_FIELD = 129
_I32 = struct.Struct(">i")
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
        return packed(
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


def packed(
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
    """The bytes of a record with these fields (see ``Record``), behind the octets ``after``."""
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
