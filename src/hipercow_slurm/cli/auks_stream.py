"""What ``--send`` writes and ``--receive`` reads: one credential as a stream of bytes, for a pipe between two hosts.

A length in the host's own byte order and width (that is AUKS' format), then a message of type 7 and one record. Nothing
in it is encrypted. Source: protocol notes, section 17.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import BinaryIO

from hipercow_slurm.errors import ProtocolError
from hipercow_slurm.krb5 import krbcred
from hipercow_slurm.values import KrbCred
from hipercow_slurm.wire.records import MAX_CRED, Reader, Record

TYPE = 7
_LENGTH = struct.Struct("@N")  # size_t
_LARGEST = 4 + 169 + MAX_CRED


def encode(record: Record) -> bytes:
    """The stream of a record, its field as large as AUKS makes it."""
    body = TYPE.to_bytes(4, "big") + replace(record, max_length=MAX_CRED).encode()
    return _LENGTH.pack(len(body)) + body


def decode(stream: BinaryIO) -> KrbCred:
    """The credential of a stream, every byte of which is checked.

    Raises:
        ProtocolError: ``stream-malformed`` and what ``krbcred.parse`` says.
    """
    head = stream.read(_LENGTH.size)
    if len(head) != _LENGTH.size:
        raise _bad(f"it has {len(head)} bytes")
    (length,) = _LENGTH.unpack(head)
    if not 4 + 169 <= length <= _LARGEST:
        raise _bad(f"a length of {length}")
    body = stream.read(length)
    if len(body) != length or stream.read(1):
        raise _bad(f"{len(body)} bytes came, {length} were announced, and nothing may follow")
    reader = Reader(body)
    if (kind := reader.i32()) != TYPE:
        raise _bad(f"type {kind} in place of {TYPE}")
    record = Record.read(reader)
    reader.finish()
    cred = krbcred.parse(record.data)
    if record.principal != cred.client:
        raise _bad(f"a record of {record.principal} with a ticket of {cred.client}")
    return cred


def _bad(why: str) -> ProtocolError:
    return ProtocolError(f"not what auks --send writes: {why}", code="stream-malformed")
