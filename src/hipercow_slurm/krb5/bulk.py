"""KRB-PRIV (RFC 4120 section 5.7) around tens of megabytes, made in pieces.

krb5_mk_priv holds such a message four times at once: as given, as DER, encrypted, and as DER again. Here its content
comes and goes in pieces (``stream.py``); its length must be known beforehand, because DER begins with it. For
encryption types that ``stream.py`` does not know, libkrb5 encrypts the whole where it lies: it is in memory once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

from hipercow_slurm.errors import InternalError
from hipercow_slurm.krb5 import codes, stream
from hipercow_slurm.krb5.lib import check, context, ffi, lib, wipe

USAGE = 13  # RFC 4120 section 7.5.1: KRB-PRIV encrypted part
HEADER, DATA, PADDING, TRAILER = 1, 2, 4, 5  # KRB5_CRYPTO_TYPE_*
Address = tuple[int, bytes]

_PVNO, _MSG_TYPE = bytes.fromhex("a003020105"), bytes.fromhex("a103020115")


def seal(
    auth: Any, length: int, content: Iterable[bytes], own: Address, peer: Address
) -> tuple[int, Iterator[bytes | bytearray]]:
    """The KRB-PRIV of a content that comes in pieces: its length, and its own pieces.

    The caller steps the sequence number of ``auth`` afterwards: libkrb5 has no call for that alone.

    Args:
        auth: a krb5_auth_context after the AP exchange; not needed any more when this returns.
        length: octets of the content in all.
        own, peer: sender's and receiver's address, as set in ``auth``.
    """
    sequence = ffi.new("int32_t *")
    check(lib.krb5_auth_con_getlocalseqnumber(context(), auth, sequence), "seal a message", codes.PRIV)
    before, after = _inner(length, sequence[0] & 0xFFFFFFFF, own, peer)
    etype, key = _key(auth)
    added = stream.overhead(etype)
    if added is None:
        parts = _whole(etype, key, before, _joined(length, content), after)
        return sum(map(len, parts)), iter(parts)
    cipher_length = len(before) + length + len(after) + added
    head = _outer(cipher_length, etype)
    return len(head) + cipher_length, _pieces(
        head, stream.Encryption(etype, key, USAGE), before, length, content, after
    )


def _pieces(
    head: bytes, encryption: stream.Encryption, before: bytes, length: int, content: Iterable[bytes], after: bytes
) -> Iterator[bytes]:
    yield head + encryption.update(before)
    for part in content:
        length -= len(part)
        yield encryption.update(part)
    if length:
        raise InternalError(f"a message was {-length} bytes longer than it had been said to be")
    yield encryption.update(after) + encryption.finish()


def _joined(length: int, content: Iterable[bytes]) -> bytearray:
    joined = bytearray()
    for part in content:
        joined += part
    if len(joined) != length:
        raise InternalError(f"a message of {len(joined)} bytes had been said to have {length}")
    return joined


def _key(auth: Any) -> tuple[int, bytes]:
    """Type and octets of the key that our messages are sealed with."""
    holder = ffi.new("krb5_keyblock **")
    check(lib.krb5_auth_con_getsendsubkey(context(), auth, holder), "seal a message", codes.PRIV)
    if holder[0] == ffi.NULL:
        check(lib.krb5_auth_con_getkey(context(), auth, holder), "seal a message", codes.PRIV)
    key = holder[0]
    try:
        return key.enctype, bytes(ffi.buffer(key.contents, key.length))
    finally:
        lib.krb5_free_keyblock(context(), key)


def _whole(etype: int, key: bytes, before: bytes, content: bytearray, after: bytes) -> list[bytes | bytearray]:
    """The message with ``content`` encrypted where it lies."""
    pieces = [
        (HEADER, bytearray(_size(etype, HEADER))),
        (DATA, bytearray(before)),
        (DATA, content),
        (DATA, bytearray(after)),
        (PADDING, bytearray(_size(etype, PADDING))),
        (TRAILER, bytearray(_size(etype, TRAILER))),
    ]
    octets, block = ffi.new("unsigned char[]", key), ffi.new("krb5_keyblock *")
    block.enctype, block.length, block.contents = etype, len(key), octets
    try:
        _encrypt(block, pieces)
    finally:
        wipe(octets)
    header, first, _, last, padding, trailer = (part for _, part in pieces)
    cipher_length = sum(len(part) for _, part in pieces)
    return [_outer(cipher_length, etype) + header + first, content, last + padding + trailer]


def _encrypt(key: Any, pieces: list[tuple[int, bytearray]]) -> None:
    iov = ffi.new("krb5_crypto_iov[]", len(pieces))
    keep = []
    for one, (kind, octets) in zip(iov, pieces, strict=True):
        view = ffi.from_buffer(octets)
        keep.append(view)
        one.flags, one.data.length, one.data.data = kind, len(octets), ffi.cast("char *", view)
    code = lib.krb5_c_encrypt_iov(context(), key, USAGE, ffi.NULL, iov, len(pieces))
    for view in keep:
        ffi.release(view)
    check(code, "seal a message", codes.PRIV)


def _size(etype: int, kind: int) -> int:
    """Octets of a part other than the data; no padding for any etype in use (all are AES-CTS or streams)."""
    if kind == PADDING:
        return 0
    size = ffi.new("unsigned int *")
    check(lib.krb5_c_crypto_length(context(), etype, kind, size), "seal a message", codes.PRIV)
    return int(size[0])


def _inner(length: int, sequence: int, own: Address, peer: Address) -> tuple[bytes, bytes]:
    """EncKrbPrivPart around a content of so many octets: what comes before, what comes after."""
    after = _explicit(3, _integer(sequence)) + _explicit(4, _address(own)) + _explicit(5, _address(peer))
    octets = _head(0x04, length)
    content = _head(0xA0, len(octets) + length) + octets
    body = len(content) + length + len(after)
    sequence_head = _head(0x30, body)
    return _head(0x7C, len(sequence_head) + body) + sequence_head + content, after


def _outer(length: int, etype: int) -> bytes:
    """KRB-PRIV up to the cipher text of so many octets."""
    octets = _head(0x04, length)
    cipher = _explicit(0, _integer(etype)) + _head(0xA2, len(octets) + length) + octets
    enc = len(cipher) + length
    enc_head = _head(0x30, enc)
    part = _head(0xA3, len(enc_head) + enc) + enc_head + cipher
    body = len(_PVNO) + len(_MSG_TYPE) + len(part) + length
    body_head = _head(0x30, body)
    return _head(0x75, len(body_head) + body) + body_head + _PVNO + _MSG_TYPE + part


def _address(address: Address) -> bytes:
    kind, octets = address
    body = _explicit(0, _integer(kind)) + _explicit(1, _head(0x04, len(octets)) + octets)
    return _head(0x30, len(body)) + body


def _explicit(number: int, inner: bytes) -> bytes:
    return _head(0xA0 | number, len(inner)) + inner


def _integer(value: int) -> bytes:
    octets = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return _head(0x02, len(octets)) + octets


def _head(tag: int, length: int) -> bytes:
    if length < 0x80:
        return bytes((tag, length))
    size = struct.pack(">Q", length).lstrip(b"\0")
    return bytes((tag, 0x80 | len(size))) + size
