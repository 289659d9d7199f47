"""One line of the audit log, made and read. Pure: bytes and values, no file, no clock.

    {"seq":7,"ts":"...Z","program":"auksd","verb":"get",...,"prev":"<64 hex>","sum":"<64 hex>"}

``prev`` is the SHA-256 of the line before, without its newline (64 zeros for the very first). The last member covers
every byte before it: ``sum`` is their SHA-256, or ``mac`` their HMAC-SHA256 when there is a key.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from hipercow_slurm.errors import ConfigError

GENESIS = "0" * 64
MAX_LINE = 16384
MAX_TEXT = 512

# Lines the log writes about itself; no decision may use the prefix.
OWN = "audit."
OPENED = "audit.opened"
RESUMED = "audit.resumed"

_SEAL = re.compile(rb',"(sum|mac)":"([0-9a-f]{64})"\}')
_ascii = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class Link:
    """What the next line is chained to: the sequence number and hash of the last one."""

    seq: int
    hash: str


START = Link(0, GENESIS)


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was read and whose own seal fits."""

    link: Link
    prev: str
    verb: str
    torn_bytes: int
    torn_sha256: str
    lost: int
    checked: bool  # False: it has a mac and no key was given


class LineError(Exception):
    """A line that cannot be trusted; the text says why."""


def make(after: Link, fields: dict[str, Any], key: bytes | None) -> tuple[bytes, Link]:
    """The line (with its newline) that follows ``after``, and its link."""
    members = {"seq": after.seq + 1, **{name: _plain(value) for name, value in fields.items()}, "prev": after.hash}
    body = _encoded(members)[:-1]
    digest = hashlib.sha256(body)
    kind, seal = ("mac", _digest(body, key)) if key else ("sum", digest.hexdigest())
    end = f',"{kind}":"{seal}"}}'.encode()
    digest.update(end)
    return body + end + b"\n", Link(after.seq + 1, digest.hexdigest())


def read(line: bytes, key: bytes | None) -> Line:
    """Check one line, given without its newline.

    Raises:
        LineError: it is no line of ours, or was changed, or is not sealed with ``key``.
    """
    start = max(0, len(line) - 74)  # ,"sum":"<64 hex>"}
    match = _SEAL.fullmatch(line, start)
    if match is None or len(line) > MAX_LINE:
        raise LineError("it is not a line of an audit log")
    body, kind, seal = line[: match.start()], match[1], match[2].decode()
    if key and kind == b"sum":
        raise LineError("it is not sealed with the key")
    checked = kind == b"sum" or key is not None
    if checked and not hmac.compare_digest(seal, _digest(body, key if kind == b"mac" else None)):
        raise LineError("its bytes are not those it was written with" + (", or the key is another" if key else ""))
    try:
        members = json.loads(line)
        return Line(
            link=Link(_whole(members["seq"]), hash_of(line)),
            prev=str(members["prev"]),
            verb=str(members["verb"]),
            torn_bytes=_whole(members.get("torn_bytes", 0)),
            torn_sha256=str(members.get("torn_sha256", "")),
            lost=_whole(members.get("lost", 0)),
            checked=checked,
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LineError("it is not a line of an audit log") from error


def _encoded(members: dict[str, Any]) -> bytes:
    """As JSON, in ASCII: what a peer sent cannot play tricks with a terminal.

    msgspec writes the same for less, where there is nothing to escape for that.
    """
    try:
        text = msgspec.json.encode(members)
        if text.isascii() and b"\x7f" not in text:  # DEL is ASCII, and no printable one
            return text
    except (UnicodeEncodeError, OverflowError):  # half a character, a number of more than 64 bits
        pass
    return _ascii(members).encode("ascii")


def hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_key(path: Path) -> bytes:
    """The 32 bytes of a key file: 64 hexadecimal digits, as ``openssl rand -hex 32`` makes.

    Raises:
        ConfigError: unreadable, not such a file, or open to others than its owner.
    """
    try:
        with path.open("rb") as file:
            mode = path.stat().st_mode
            text = file.read(200)
    except OSError as error:
        raise ConfigError(f"cannot read the audit key {path}: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"the audit key {path} is open to others", hint=f"chmod 600 {path}")
    try:
        key = bytes.fromhex(text.decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ConfigError(f"the audit key {path} is not 64 hexadecimal digits", hint="openssl rand -hex 32")
    return key


def _digest(body: bytes, key: bytes | None) -> str:
    return hmac.digest(key, body, "sha256").hex() if key else hash_of(body)


def _plain(value: Any) -> Any:
    """Numbers and None as they are; text cut where a hostile peer could fill the disk with it."""
    if value is None or isinstance(value, int):
        return value
    text = str(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}... (+{len(text) - MAX_TEXT})"


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("not a whole number")
    return value
