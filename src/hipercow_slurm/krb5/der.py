"""Strict DER for the few Kerberos messages we read and write ourselves (X.690; RFC 4120 section 5).

A reader of its own, because peers send these bytes: DER and nothing looser (definite, minimal lengths; minimal
integers), each value checked for type, then length, then content, and no byte left over. Tags below 31 only:
RFC 4120 has no others. All failures are ProtocolError; the message says where, never what the bytes were.
"""

from __future__ import annotations

from collections.abc import Iterator

from hipercow_slurm.errors import ProtocolError

INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
GENERALIZED_TIME = 0x18
GENERAL_STRING = 0x1B
SEQUENCE = 0x30


def context(number: int) -> int:
    """Identifier octet of an explicit context tag [number]."""
    return 0xA0 | number


def application(number: int) -> int:
    """Identifier octet of [APPLICATION number], constructed."""
    return 0x60 | number


class Reader:
    """Reads one value after another from ``data[start:end]``; ``what`` names the place in error messages."""

    __slots__ = ("_at", "_data", "_end", "what")

    def __init__(self, data: bytes, what: str, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self._at = start
        self._end = len(data) if end is None else end
        self.what = what

    def __bool__(self) -> bool:
        """True while bytes are left."""
        return self._at < self._end

    def next_is(self, tag: int) -> bool:
        """True if the next value has this identifier octet."""
        return self._at < self._end and self._data[self._at] == tag

    def enter(self, tag: int, what: str | None = None) -> Reader:
        """Step over the next value, which must have this tag; a reader of its content."""
        start, end = self._value(tag)
        return Reader(self._data, what or self.what, start, end)

    def element(self, tag: int) -> bytes:
        """The next value whole, header included."""
        first = self._at
        _, end = self._value(tag)
        return self._data[first:end]

    def content(self, tag: int) -> bytes:
        """Content octets of the next value."""
        start, end = self._value(tag)
        return self._data[start:end]

    def integer(self, low: int = -(2**31), high: int = 2**31 - 1) -> int:
        """An INTEGER in minimal form, within [low, high]."""
        body = self.content(INTEGER)
        if not body:
            raise self.error("an integer without content")
        if len(body) > 1 and (body[0], body[1] >> 7) in ((0, 0), (0xFF, 1)):
            raise self.error("an integer in a form that is not minimal")
        value = int.from_bytes(body, "big", signed=True)
        if not low <= value <= high:
            raise self.error("an integer out of range")
        return value

    def items(self, tag: int) -> Iterator[Reader]:
        """Content readers of the values left, all of which must have this tag."""
        while self:
            yield self.enter(tag)

    def finish(self) -> None:
        """Check that nothing is left."""
        if self._at != self._end:
            raise self.error("bytes after the end of a value")

    def error(self, why: str) -> ProtocolError:
        """The error to raise for this place."""
        return ProtocolError(f"{self.what}: {why}")

    def _value(self, tag: int) -> tuple[int, int]:
        """Start and end of the next value's content; moves past it."""
        data, at, end = self._data, self._at, self._end
        if at >= end:
            raise self.error("a value is missing")
        if data[at] != tag:
            raise self.error(f"found tag 0x{data[at]:02x} where 0x{tag:02x} was expected")
        if end - at < 2:
            raise self.error("cut short in a header")
        length = data[at + 1]
        start = at + 2
        if length & 0x80:
            count = length & 0x7F
            if not 1 <= count <= 4 or end - start < count:
                raise self.error("a length that is indefinite, too long or cut short")
            length = int.from_bytes(data[start : start + count], "big")
            if length < 0x80 or length >> 8 * (count - 1) == 0:
                raise self.error("a length in a form that is not minimal")
            start += count
        if length > end - start:
            raise self.error("a value longer than the bytes that hold it")
        self._at = start + length
        return start, self._at


def check_message(data: bytes, number: int, what: str, *, limit: int) -> None:
    """Check size and outer shape of a Kerberos message before libkrb5 sees it.

    ``data`` must be exactly one [APPLICATION number] SEQUENCE with pvno [0] 5 and msg-type [1] number, as AP-REQ,
    AP-REP, KRB-PRIV and KRB-ERROR begin (RFC 4120 sections 5.5, 5.7, 5.9).

    Raises:
        ProtocolError: anything else, or more than ``limit`` bytes.
    """
    if len(data) > limit:
        raise ProtocolError(f"{what}: {len(data)} bytes where at most {limit} are taken")
    outer = Reader(data, what)
    body = outer.enter(application(number))
    outer.finish()
    fields = body.enter(SEQUENCE)
    body.finish()
    for tag, value in ((0, 5), (1, number)):
        field = fields.enter(context(tag))
        field.integer(value, value)
        field.finish()


def value(tag: int, content: bytes) -> bytes:
    """One DER value."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def integer(number: int) -> bytes:
    """A DER INTEGER."""
    return value(
        INTEGER, number.to_bytes((number if number >= 0 else ~number).bit_length() // 8 + 1, "big", signed=True)
    )


def sequence(*fields: bytes | None) -> bytes:
    """A SEQUENCE whose n-th argument becomes field [n]; None leaves the field out."""
    return value(SEQUENCE, b"".join(value(context(n), f) for n, f in enumerate(fields) if f is not None))


def sequence_of(items: list[bytes]) -> bytes:
    """A SEQUENCE OF."""
    return value(SEQUENCE, b"".join(items))
