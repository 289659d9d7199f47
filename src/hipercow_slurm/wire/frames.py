"""Frames of the AUKS wire: ``u32 length`` (big-endian) and that many bytes.

Rule 1: the buffer gives exactly one whole frame or nothing; a length above the limit is refused as soon as its four
bytes are there, before anything is stored for it.
Rule 2: bytes only. What a frame means belongs to ``sendauth`` and ``session``.
Source: notes on the AUKS protocol, section 1.
"""

from __future__ import annotations

import struct

from hipercow_slurm.errors import ProtocolError

_LENGTH = struct.Struct(">I")
_unpack_length = _LENGTH.unpack_from

# One limit for both sides of the handshake. The longest legal request is an ADD of 32768 bytes (about 32900 sealed);
# an AP-REQ with the authorization data of a large directory stays below 64 KiB as well.
MAX_FRAME = 64 * 1024


def frame(body: bytes) -> bytes:
    """``body`` with its length in front."""
    return _LENGTH.pack(len(body)) + body


def frame_head(length: int) -> bytes:
    """What comes before a body of ``length`` bytes."""
    return _LENGTH.pack(length)


class FrameBuffer:
    """Bytes from one peer, given back as frames.

    Args:
        limit_bytes: longest frame body accepted; may be changed between two frames.
    """

    __slots__ = ("_at", "_data", "_eof", "limit_bytes")

    def __init__(self, limit_bytes: int = MAX_FRAME) -> None:
        self.limit_bytes = limit_bytes
        self._data: bytes | bytearray = b""  # as it came while it is one piece, which it mostly is
        self._at = 0  # what lies before was given out
        self._eof = False

    def __len__(self) -> int:
        return len(self._data) - self._at

    def receive(self, data: bytes) -> None:
        """Store what the peer sent; ``b""`` means it will send no more."""
        if not data:
            self._eof = True
        elif self._at == len(self._data):
            self._data, self._at = data, 0
        else:
            if isinstance(self._data, bytes):
                self._data = bytearray(self._data)
            del self._data[: self._at]
            self._at = 0
            self._data += data

    def frame(self) -> bytes | None:
        """The next frame's body, or None while it is incomplete.

        Raises:
            ProtocolError: ``wire-too-long``, or ``wire-truncated`` when the peer stopped inside a frame.
        """
        data, begin = self._data, self._at + 4
        if len(data) < begin:
            self._check_not_cut()
            return None
        (length,) = _unpack_length(data, self._at)
        if length > self.limit_bytes:
            raise ProtocolError(
                f"the peer announced a frame of {length} bytes, the limit is {self.limit_bytes}",
                code="wire-too-long",
            )
        end = begin + length
        if len(data) < end:
            self._check_not_cut()
            return None
        if end == len(data):
            self._data, self._at = b"", 0
        else:
            self._at = end
        if type(data) is bytes:
            return data[begin:end]
        with memoryview(data) as view:  # one copy instead of two: dumps are large
            return bytes(view[begin:end])

    def skip(self, octets: bytes) -> bool:
        """Consume ``octets`` if they are what comes next, as they are."""
        if not self._data.startswith(octets, self._at):
            return False
        self._took(self._at + len(octets))
        return True

    def octet(self) -> int | None:
        """The next single byte (the one unframed answer of the handshake), or None."""
        if not len(self):
            return None
        value = self._data[self._at]
        self._took(self._at + 1)
        return value

    def _took(self, end: int) -> None:
        if end == len(self._data):
            self._data, self._at = b"", 0
        else:
            self._at = end

    @property
    def empty(self) -> bool:
        """True when every byte was consumed and the peer may send more."""
        return not (self._data or self._eof)  # what was consumed to the end is dropped

    @property
    def ended(self) -> bool:
        """True when the peer stopped sending and every byte was consumed."""
        return self._eof and not len(self)

    def _check_not_cut(self) -> None:
        if self._eof and len(self):
            raise ProtocolError("the peer stopped sending inside a frame", code="wire-truncated")
