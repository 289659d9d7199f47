"""What an NFSv4.0 server says about a file (RFC 7530 section 5): the table of attributes, and fattr4 to values.

Rule 1: only what was asked for may come, in the order of its numbers, and nothing after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hipercow_slurm.errors import ProtocolError
from hipercow_slurm.files.xdr import Reader, uint

MAX_OWNER = 1024


@dataclass(frozen=True, slots=True)
class Attributes:
    """What the server says about a file. Sizes in bytes, times in seconds since 1970; None: it did not say."""

    type: str
    size: int
    fileid: int | None = None
    mode: int | None = None
    owner: str | None = None
    group: str | None = None
    mtime: float | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory; ``attributes`` is None where the server could not tell them."""

    name: str
    attributes: Attributes | None


TYPES = {1: "file", 2: "directory", 3: "block", 4: "char", 5: "symlink", 6: "socket", 7: "fifo"}


def _type(reader: Reader) -> str:
    return TYPES.get(reader.uint(), "other")


def _owner(reader: Reader) -> str:
    return reader.opaque(limit=MAX_OWNER).decode("utf-8", "backslashreplace")


def _time(reader: Reader) -> float:
    seconds = reader.hyper()
    return (seconds - (1 << 64) if seconds >> 63 else seconds) + reader.uint() / 1e9


Table = dict[int, tuple[str, Callable[[Reader], Any]]]

# number -> (field, reader), in the order in which the server must send them (RFC 7530 section 5.6 and 5.7).
ATTRIBUTES: Table = {
    1: ("type", _type),
    4: ("size", Reader.hyper),
    11: ("error", Reader.uint),
    20: ("fileid", Reader.hyper),
    33: ("mode", Reader.uint),
    36: ("owner", _owner),
    37: ("group", _owner),
    53: ("mtime", _time),
}
SPACE: Table = {42: ("available", Reader.hyper), 44: ("total", Reader.hyper)}  # of the file system that a file is in
SIZE, _RDATTR_ERROR, MODE = 4, 11, 33


def bits(*numbers: int) -> bytes:
    """bitmap4: the attributes with these numbers."""
    words = [0] * (max(numbers) // 32 + 1)
    for number in numbers:
        words[number // 32] |= 1 << number % 32
    return uint(len(words)) + b"".join(map(uint, words))


WANTED = bits(*(number for number in ATTRIBUTES if number != _RDATTR_ERROR))
WANTED_IN_LIST = bits(*ATTRIBUTES)
ROOM = bits(*SPACE)


def _values(reader: Reader, asked: Table) -> dict[str, Any]:
    """fattr4: the values by field; only what was asked for may come."""
    present = reader.bitmap()
    values = Reader(reader.opaque(limit=8192))
    found: dict[str, Any] = {}
    for number, (field, read_one) in asked.items():
        if present & (1 << number):
            found[field] = read_one(values)
            present &= ~(1 << number)
    if present:
        raise ProtocolError(f"reply has attributes that were not asked for (bitmap {present:#x})")
    values.finish()
    return found


def read_or_none(reader: Reader) -> Attributes | None:
    """What is said of a file; None if the server reports an error instead (in READDIR)."""
    found = _values(reader, ATTRIBUTES)
    if found.pop("error", 0):
        return None
    if "type" not in found or "size" not in found:
        raise ProtocolError("reply lacks the file's type or size")
    return Attributes(**found)


def read(reader: Reader) -> Attributes:
    """As ``read_or_none`` where there is no error to be told.

    Raises:
        ProtocolError: there is one, or the bytes are not a fattr4 of what was asked for.
    """
    found = read_or_none(reader)
    if found is None:
        raise ProtocolError("reply has an error where attributes should stand")
    return found


def room(reader: Reader) -> int | None:
    """Bytes that the user may still write in this file system; None where the server does not know."""
    found = _values(reader, SPACE)
    # A file system that cannot tell (some FUSE ones) says that it has nothing at all.
    return found.get("available") if found.get("total") else None
