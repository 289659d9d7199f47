"""Encryption at rest: each record has a key of its own (DEK), and that key is wrapped by the site's key (KEK).

A fresh DEK per write leaves no nonce to be reused, and changing the KEK means wrapping 32 bytes again, not the record.
AES-256-GCM both times. The record's metadata is the associated data: a record moved to another uid, or with a later
renew_till written into the database, does not open.

The KEK lives in a file outside the database: one key per line, 32 random bytes in hex or base64, ``#`` comments. The
first line wraps new records; further lines (a key being replaced) still open old ones.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hipercow_slurm.errors import ConfigError, InternalError
from hipercow_slurm.store.base import Entry

KEY_BYTES = 32
_NONCE_BYTES = 12
_METADATA = struct.Struct(">IIIIII?")
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Box:
    """An encrypted record: which KEK, the wrapped DEK, the ciphertext."""

    key_id: str
    wrapped: bytes = field(repr=False)
    sealed: bytes = field(repr=False)


class Keys:
    """The KEKs of a key file.

    Args:
        keys: 32 bytes each; the first wraps new records.
    """

    def __init__(self, *keys: bytes) -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise ConfigError(f"a store key has {KEY_BYTES} bytes", code="store-key")
        self._keks: Mapping[str, AESGCM] = {key_id(key): AESGCM(key) for key in keys}
        self.active = key_id(keys[0])

    def __contains__(self, name: str) -> bool:
        return name in self._keks

    def __iter__(self) -> Iterator[str]:
        return iter(self._keks)

    def seal(self, entry: Entry, data: bytes) -> Box:
        """Encrypt ``data`` as the record of ``entry``."""
        random, bound = os.urandom(KEY_BYTES + 2 * _NONCE_BYTES), _bound(entry)  # asked for once: it is a system call
        dek, nonces = random[:KEY_BYTES], random[KEY_BYTES:]
        wrapped = _encrypt(self._keks[self.active], nonces[:_NONCE_BYTES], dek, bound)
        return Box(self.active, wrapped, _encrypt(AESGCM(dek), nonces[_NONCE_BYTES:], data, bound))

    def rewrap(self, entry: Entry, box: Box) -> Box:
        """The same record with its DEK wrapped by the active key; the ciphertext stays as it is.

        Raises:
            InternalError: ``store-corrupt``, as ``open``.
        """
        bound = _bound(entry)
        dek, nonce = self._dek(entry, box, bound), os.urandom(_NONCE_BYTES)
        return Box(self.active, _encrypt(self._keks[self.active], nonce, dek, bound), box.sealed)

    def open(self, entry: Entry, box: Box) -> bytes:
        """Decrypt a record.

        Raises:
            InternalError: ``store-corrupt``: not sealed with one of our keys, or not for this entry.
        """
        bound = _bound(entry)
        dek = self._dek(entry, box, bound)
        try:
            return _decrypt(AESGCM(dek), box.sealed, bound)
        except (InvalidTag, ValueError) as error:
            raise _corrupt(entry, "it does not decrypt") from error

    def _dek(self, entry: Entry, box: Box, bound: bytes) -> bytes:
        kek = self._keks.get(box.key_id)
        if kek is None:
            raise _corrupt(entry, f"its key {box.key_id} is not in the key file")
        try:
            return _decrypt(kek, box.wrapped, bound)
        except (InvalidTag, ValueError) as error:
            raise _corrupt(entry, "its key does not unwrap") from error


def key_id(key: bytes) -> str:
    """A name for a key that tells nothing about it."""
    return hashlib.sha256(b"hipercow-slurm store key\0" + key).hexdigest()[:16]


def read_key_file(path: Path) -> Keys:
    """Read a key file.

    Raises:
        ConfigError: ``store-key``: it is missing, others can read it, or a line is not a key.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read the store key {path}: {error}",
            code="store-key",
            hint=f"make one: (umask 077; head -c 32 /dev/urandom | base64 > {path})",
        ) from error
    if mode & 0o077:
        raise ConfigError(
            f"the store key {path} can be read by others (mode {mode:04o})",
            code="store-key",
            hint=f"chmod 600 {path}",
        )
    lines = enumerate(text.splitlines(), start=1)
    keys = [key for number, line in lines if (key := _parse_key(path, number, line)) is not None]
    if not keys:
        raise ConfigError(f"{path}: there is no key in it", code="store-key")
    return Keys(*keys)


def line_key(line: str) -> bytes | None:
    """The key on a line of a key file; None for a line without one.

    Raises:
        ValueError: what is there is no key.
    """
    text = line.partition("#")[0].strip()
    if not text:
        return None
    key = bytes.fromhex(text) if len(text) == 2 * KEY_BYTES else base64.b64decode(text, validate=True)
    if len(key) != KEY_BYTES:
        raise ValueError("not the length of a key")
    return key


def _parse_key(path: Path, number: int, line: str) -> bytes | None:
    try:
        return line_key(line)
    except ValueError as error:  # binascii.Error is one
        raise ConfigError(f"{path}:{number}: not {KEY_BYTES} bytes in hex or base64", code="store-key") from error


def _bound(entry: Entry) -> bytes:
    times = entry.times
    numbers = _METADATA.pack(
        _VERSION, entry.uid, times.starttime, times.endtime, times.renew_till, entry.tickets, entry.addressless
    )
    return numbers + entry.principal.encode()


def _encrypt(key: AESGCM, nonce: bytes, data: bytes, bound: bytes) -> bytes:
    return nonce + key.encrypt(nonce, data, bound)


def _decrypt(key: AESGCM, data: bytes, bound: bytes) -> bytes:
    return key.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], bound)


def _corrupt(entry: Entry, why: str) -> InternalError:
    return InternalError(f"the stored credential of uid {entry.uid} cannot be opened: {why}", code="store-corrupt")
