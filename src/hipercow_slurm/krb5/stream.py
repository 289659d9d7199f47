"""Encryption of one long message in pieces, for the AES encryption types (RFC 3962 and RFC 8009).

libkrb5 encrypts a message as a whole: a dump of 50 000 credentials would be in memory at once. The algorithms do not
ask for that. AES and HMAC are OpenSSL's; here is what RFC 3961 and RFC 8009 say about keys, order and last blocks.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

BLOCK = 16
_ENCRYPTION, _INTEGRITY = b"\xaa", b"\x55"  # RFC 3961 section 5.3: last octet of the constant keys are derived with


@dataclass(frozen=True, slots=True)
class _Type:
    """An encryption type: octets of its checksum and what its keys are derived with."""

    checksum: int
    digest: Callable[[], hashes.HashAlgorithm]
    of_cipher: bool  # the checksum is one of the cipher text, not of the plain text
    derive: Callable[[bytes, bytes, int], bytes]
    integrity_key: int


def _derive_sha1(key: bytes, constant: bytes, size: int) -> bytes:
    """DK of RFC 3961 section 5.1; ``size`` is the key's own."""
    block, made = fold(constant), b""
    while len(made) < size:
        block = _raw(key, block)
        made += block
    return made[:size]


def _derive_sha2(digest: Callable[[], hashes.HashAlgorithm]) -> Callable[[bytes, bytes, int], bytes]:
    def derive(key: bytes, constant: bytes, size: int) -> bytes:
        """KDF-HMAC-SHA2 of RFC 8009 section 3."""
        return _mac(digest, key, b"\0\0\0\1" + constant + b"\0" + (8 * size).to_bytes(4, "big"))[:size]

    return derive


_TYPES = {
    17: _Type(12, hashes.SHA1, False, _derive_sha1, 16),
    18: _Type(12, hashes.SHA1, False, _derive_sha1, 32),
    19: _Type(16, hashes.SHA256, True, _derive_sha2(hashes.SHA256), 16),
    20: _Type(24, hashes.SHA384, True, _derive_sha2(hashes.SHA384), 24),
}


def overhead(etype: int) -> int | None:
    """Octets that encryption adds; None for a type this module does not know."""
    kind = _TYPES.get(etype)
    return None if kind is None else BLOCK + kind.checksum


class Encryption:
    """One message: ``update`` with its parts in order, then ``finish``.

    Args:
        etype: an encryption type for which ``overhead`` has an answer.
        key: of that type.
        usage: key usage number (RFC 4120 section 7.5.1).
    """

    def __init__(self, etype: int, key: bytes, usage: int) -> None:
        kind = self._kind = _TYPES[etype]
        number = usage.to_bytes(4, "big")
        secret = kind.derive(key, number + _ENCRYPTION, len(key))
        self._cipher = Cipher(algorithms.AES(secret), modes.CBC(bytes(BLOCK))).encryptor()
        self._check = hmac.HMAC(kind.derive(key, number + _INTEGRITY, kind.integrity_key), kind.digest())
        if kind.of_cipher:
            self._check.update(bytes(BLOCK))  # the initial vector
        self._length = 0
        self._held = b""  # the last two blocks, which change places at the end
        self._begin = os.urandom(BLOCK)  # the confounder

    def update(self, data: bytes) -> bytes:
        """Cipher text that is ready after these octets."""
        if self._begin:
            data, self._begin = self._begin + data, b""
        self._length += len(data)
        if not self._kind.of_cipher:
            self._check.update(data)
        return self._ready(self._cipher.update(data), 2 * BLOCK)

    def finish(self) -> bytes:
        """The rest of it, and the checksum."""
        out = self.update(b"")  # an empty message has its confounder
        last = (self._length - 1) % BLOCK + 1
        out += self._ready(self._cipher.update(bytes(BLOCK - last)) + self._cipher.finalize(), 2 * BLOCK)
        one, two = self._held[:-BLOCK], self._held[-BLOCK:]
        end = two + one[:last]  # RFC 3962 section 5: ciphertext stealing, also for a last block that is whole
        if self._kind.of_cipher:
            self._check.update(end)
        return out + end + self._check.finalize()[: self._kind.checksum]

    def _ready(self, more: bytes, keep: int) -> bytes:
        every = self._held + more
        ready, self._held = every[:-keep], every[-keep:]
        if self._kind.of_cipher:
            self._check.update(ready)
        return ready


def fold(constant: bytes) -> bytes:
    """n-fold of RFC 3961 section 5.1 to 128 bits, of a constant of 5 octets."""
    size = len(constant)
    copies = b"".join(_rotated(constant, 13 * number) for number in range(BLOCK))  # 16 times 5 octets are 5 times 16
    total = sum(int.from_bytes(copies[at : at + BLOCK], "big") for at in range(0, size * BLOCK, BLOCK))
    mask = (1 << 8 * BLOCK) - 1
    while total > mask:  # ones' complement: what runs over comes in again below
        total = (total & mask) + (total >> 8 * BLOCK)
    return total.to_bytes(BLOCK, "big")


def _rotated(octets: bytes, right: int) -> bytes:
    bits = 8 * len(octets)
    value, right = int.from_bytes(octets, "big"), right % bits
    return ((value >> right | value << (bits - right)) & ((1 << bits) - 1)).to_bytes(len(octets), "big")


def _raw(key: bytes, block: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES(key), modes.CBC(bytes(BLOCK))).encryptor()
    return encryptor.update(block) + encryptor.finalize()


def _mac(digest: Callable[[], hashes.HashAlgorithm], key: bytes, data: bytes) -> bytes:
    made = hmac.HMAC(key, digest())
    made.update(data)
    return made.finalize()
