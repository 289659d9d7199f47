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

# One limit for both sides of the handshake. The longest legal request is an ADD of 32768 bytes (about 32900 sealed);
# an AP-REQ with the authorization data of a large directory stays below 64 KiB as well.
MAX_FRAME = 64 * 1024


def frame(body: bytes) -> bytes:
    """``body`` with its length in front."""
    return frame_head(len(body)) + body


def frame_head(length: int) -> bytes:
    """What comes before a body of ``length`` bytes."""
    return _LENGTH.pack(length)


class FrameBuffer:
    """Bytes from one peer, given back as frames.

    Args:
        limit_bytes: longest frame body accepted; may be changed between two frames.
    """

    def __init__(self, limit_bytes: int = MAX_FRAME) -> None:
        self.limit_bytes = limit_bytes
        self._data = bytearray()
        self._eof = False

    def __len__(self) -> int:
        return len(self._data)

    def receive(self, data: bytes) -> None:
        """Store what the peer sent; ``b""`` means it will send no more."""
        if data:
            self._data += data
        else:
            self._eof = True

    def frame(self) -> bytes | None:
        """The next frame's body, or None while it is incomplete.

        Raises:
            ProtocolError: ``wire-too-long``, or ``wire-truncated`` when the peer stopped inside a frame.
        """
        if len(self._data) < _LENGTH.size:
            self._check_not_cut()
            return None
        (length,) = _LENGTH.unpack_from(self._data)
        if length > self.limit_bytes:
            raise ProtocolError(
                f"the peer announced a frame of {length} bytes, the limit is {self.limit_bytes}",
                code="wire-too-long",
            )
        end = _LENGTH.size + length
        if len(self._data) < end:
            self._check_not_cut()
            return None
        with memoryview(self._data) as view:  # one copy instead of two: dumps are large
            body = bytes(view[_LENGTH.size : end])
        del self._data[:end]
        return body

    def octet(self) -> int | None:
        """The next single byte (the one unframed answer of the handshake), or None."""
        if not self._data:
            return None
        value = self._data[0]
        del self._data[:1]
        return value

    @property
    def ended(self) -> bool:
        """True when the peer stopped sending and every byte was consumed."""
        return self._eof and not self._data

    def _check_not_cut(self) -> None:
        if self._eof and self._data:
            raise ProtocolError("the peer stopped sending inside a frame", code="wire-truncated")
