"""XDR (RFC 4506), the part NFSv4 and RPCSEC_GSS use: integers, booleans and opaques, big-endian, padded to 4 bytes.

Rule 1: the reader takes nothing on trust. A length is compared with its limit before anything is copied, a boolean
is 0 or 1, padding is zero, and ``finish`` refuses bytes that nobody asked for.
Rule 2: no I/O, no clock, no meaning; only bytes and values.
"""

from __future__ import annotations

import struct

from hipercow_slurm.errors import ProtocolError

_UINT = struct.Struct(">I")
_HYPER = struct.Struct(">Q")


def uint(value: int) -> bytes:
    """An unsigned 32-bit integer (or an enum, or a count)."""
    return _UINT.pack(value)


def hyper(value: int) -> bytes:
    """An unsigned 64-bit integer."""
    return _HYPER.pack(value)


def boolean(value: object) -> bytes:
    """A boolean: 1 for anything true."""
    return _UINT.pack(1 if value else 0)


def opaque(value: bytes) -> bytes:
    """Variable-length bytes: length, bytes, zero padding."""
    return b"".join((_UINT.pack(len(value)), value, bytes(-len(value) % 4)))


class Reader:
    """Reads values off the front of ``data``; every method raises ProtocolError where the bytes do not fit."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise ProtocolError(
                f"reply ends early: {count} bytes wanted at {self._at}, {len(self._data) - self._at} left"
            )
        start, self._at = self._at, self._at + count
        return self._data[start : self._at]

    def uint(self) -> int:
        """An unsigned 32-bit integer."""
        value: int = _UINT.unpack(self._take(4))[0]
        return value

    def hyper(self) -> int:
        """An unsigned 64-bit integer."""
        value: int = _HYPER.unpack(self._take(8))[0]
        return value

    def boolean(self) -> bool:
        """A boolean; anything but 0 and 1 is refused."""
        value = self.uint()
        if value > 1:
            raise ProtocolError(f"reply has the boolean {value}")
        return value == 1

    def fixed(self, count: int) -> bytes:
        """Exactly ``count`` bytes; ``count`` is a multiple of 4."""
        return self._take(count)

    def opaque(self, *, limit: int) -> bytes:
        """Variable-length bytes of at most ``limit``."""
        count = self.uint()
        if count > limit:
            raise ProtocolError(f"reply has {count} bytes where at most {limit} may stand")
        value = self._take(count)
        if any(self._take(-count % 4)):
            raise ProtocolError("reply has padding that is not zero")
        return value

    def bitmap(self) -> int:
        """An attribute bitmap (RFC 7530 section 3.3.1, bitmap4) as one integer; bit n is attribute n."""
        words = self.uint()
        if words > 8:
            raise ProtocolError(f"reply has an attribute bitmap of {words} words")
        return sum(self.uint() << 32 * index for index in range(words))

    def rest(self) -> bytes:
        """Everything not read yet."""
        return self._take(len(self._data) - self._at)

    def finish(self) -> None:
        """Refuse left-over bytes."""
        if self._at != len(self._data):
            raise ProtocolError(f"reply has {len(self._data) - self._at} bytes too many")
