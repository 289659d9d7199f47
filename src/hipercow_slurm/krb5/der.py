"""DER as we know it ourselves: tag and length around a value, how a whole message begins, and how a refusal is said."""

from __future__ import annotations

from functools import lru_cache

from hipercow_slurm.errors import ProtocolError


class refusing:  # noqa: N801  # a context manager, in half the time of a generator
    """What the library, our ``check``s and Python's conversions refuse in the block becomes a ProtocolError."""

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError | OverflowError | TypeError):
            raise ProtocolError(f"{self._what}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """A sentence without content of the message. The library's tells the kind of error, and sometimes which field."""
    if isinstance(error, UnicodeDecodeError):
        return "a name that is not UTF-8"
    _, is_parsing, said = str(error).partition("ParseError { ")
    return f"not DER of this message ({said.rstrip(' }')})" if is_parsing else str(error)


def check_message(data: bytes, number: int, what: str, *, limit: int) -> None:
    """Check size and outer shape of a Kerberos message before libkrb5 sees it; costs the same for any size.

    ``data`` must be exactly one [APPLICATION number] SEQUENCE with pvno [0] 5 and msg-type [1] number, as AP-REQ,
    AP-REP, KRB-PRIV and KRB-ERROR begin (RFC 4120 sections 5.5, 5.7, 5.9). DER leaves one way to write that.

    Raises:
        ProtocolError: anything else, or more than ``limit`` bytes.
    """
    if len(data) > limit:
        raise ProtocolError(f"{what}: {len(data)} bytes where at most {limit} are taken")
    begin = _beginning(number, len(data))
    if not begin or not data.startswith(begin):
        raise ProtocolError(f"{what}: {len(data)} bytes that are not one whole message of type {number} in DER")


@lru_cache(maxsize=1024)
def _beginning(number: int, size: int) -> bytes:
    """How a message of that type and size begins; empty where none can have that size."""
    outer = header(0x60 | number, size)
    inner = header(0x30, size - len(outer))
    return outer + inner + bytes((0xA0, 3, 2, 1, 5, 0xA1, 3, 2, 1, number)) if outer and inner else b""


def header(tag: int, size: int) -> bytes:
    """Tag and length of the DER value that has ``size`` bytes with them; empty where no value can."""
    if 2 <= size <= 0x81:
        return bytes((tag, size - 2))
    for octets in range(1, 5):
        content = size - 2 - octets
        if content >= 0x80 and (content.bit_length() + 7) // 8 == octets:
            return bytes((tag, 0x80 | octets)) + content.to_bytes(octets, "big")
    return b""


def wrap(tag: int, inner: bytes) -> bytes:
    """The DER value of a tag of one octet around ``inner``."""
    size = len(inner)
    octets = b"" if size < 0x80 else size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets) if octets else size)) + octets + inner
