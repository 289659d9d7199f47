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

    Attributes:
        stored: what came and was not given out, perhaps behind something that was; empty if there is nothing.
        eof: the peer will send no more.
    """

    __slots__ = ("_at", "eof", "limit_bytes", "stored")

    def __init__(self, limit_bytes: int = MAX_FRAME) -> None:
        self.limit_bytes = limit_bytes
        self.stored: bytes | bytearray = b""  # as it came while it is one piece, which it mostly is
        self._at = 0  # what lies before was given out
        self.eof = False

    def __len__(self) -> int:
        return len(self.stored) - self._at

    def receive(self, data: bytes) -> None:
        """Store what the peer sent; ``b""`` means it will send no more."""
        if not data:
            self.eof = True
        elif self._at == len(self.stored):
            self.stored, self._at = data, 0
        else:
            if isinstance(self.stored, bytes):
                self.stored = bytearray(self.stored)
            del self.stored[: self._at]
            self._at = 0
            self.stored += data

    def whole(self, data: bytes) -> bytes | None:
        """The body of the frame that ``data`` is, to the byte, with nothing before it; None: ``receive`` it.

        That is how most frames come, and storing them first costs more than all else here.
        """
        end = len(data)
        if end < 4 or self.stored:
            return None
        (length,) = _unpack_length(data)
        return data[4:] if length == end - 4 and length <= self.limit_bytes else None

    def frame(self) -> bytes | None:
        """The next frame's body, or None while it is incomplete.

        Raises:
            ProtocolError: ``wire-too-long``, or ``wire-truncated`` when the peer stopped inside a frame.
        """
        data, begin = self.stored, self._at + 4
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
            self.stored, self._at = b"", 0
        else:
            self._at = end
        if type(data) is bytes:
            return data[begin:end]
        with memoryview(data) as view:  # one copy instead of two: dumps are large
            return bytes(view[begin:end])

    def octet(self) -> int | None:
        """The next single byte (the one unframed answer of the handshake), or None."""
        if not len(self):
            return None
        value = self.stored[self._at]
        self._took(self._at + 1)
        return value

    def _took(self, end: int) -> None:
        if end == len(self.stored):
            self.stored, self._at = b"", 0
        else:
            self._at = end

    @property
    def ended(self) -> bool:
        """True when the peer stopped sending and every byte was consumed."""
        return self.eof and not len(self)

    def _check_not_cut(self) -> None:
        if self.eof and len(self):
            raise ProtocolError("the peer stopped sending inside a frame", code="wire-truncated")
