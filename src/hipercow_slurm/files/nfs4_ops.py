"""The operations of NFSv4.0 (RFC 7530 section 16; XDR in RFC 7531) that we use, as bytes: arguments out, results in.

An ``Op`` is the operation's number, its encoded arguments and the function that reads its result. There is one table
of NFS errors, ``ERRORS``, and one of attributes (``nfs4_attributes``); both are everything this client knows of them.
Rule 1: names are LOOKUP'd one by one and the server never follows a symbolic link for us (RFC 7530 section 16.13).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hipercow_slurm.errors import AccessError, Error, ProtocolError, RequestError, UnavailableError
from hipercow_slurm.files import nfs4_attributes as attributes
from hipercow_slurm.files.nfs4_attributes import Entry
from hipercow_slurm.files.xdr import Reader, hyper, opaque, uint

PROGRAM, VERSION, COMPOUND = 100003, 4, 1
ANONYMOUS = bytes(16)  # the stateid of all zeros: reading without opening (RFC 7530 section 9.1.4.3)
MAX_NAME, MAX_HANDLE = 255, 128
DELAY, GRACE = 10008, 10013

# status: (our error, code, HTTP status or None, sentence)
ERRORS: dict[int, tuple[type[Error], str, int | None, str]] = {
    1: (AccessError, "access-denied", None, "operation not permitted"),
    2: (RequestError, "no-such-file", 404, "no such file or directory"),
    5: (UnavailableError, "file-server-error", None, "input/output error at the server"),
    13: (AccessError, "access-denied", None, "permission denied"),
    17: (RequestError, "file-exists", 409, "it exists already"),
    20: (RequestError, "not-a-directory", None, "not a directory"),
    21: (RequestError, "is-a-directory", None, "is a directory"),
    22: (RequestError, "bad-request", None, "not possible with this kind of file"),
    27: (RequestError, "file-too-large", 413, "file too large"),
    28: (UnavailableError, "no-space", None, "no space left on the server"),
    30: (AccessError, "access-denied", None, "the file system is read-only"),
    63: (RequestError, "bad-path", None, "name too long"),
    69: (AccessError, "quota", None, "disk quota exceeded"),
    70: (UnavailableError, "file-server-error", None, "stale file handle"),
    10004: (UnavailableError, "file-server-error", None, "the server has restarted"),
    10006: (UnavailableError, "file-server-error", None, "the server has a fault"),
    DELAY: (UnavailableError, "file-server-busy", None, "the server asks to wait"),
    10012: (RequestError, "file-locked", 409, "locked by another client"),
    GRACE: (UnavailableError, "file-server-busy", None, "the server has just started and asks to wait"),
    10015: (RequestError, "file-locked", 409, "opened by another client that shares it with no one"),
    10016: (AccessError, "wrong-security", None, "the export wants another security than this (see sec=)"),
    10018: (UnavailableError, "file-server-error", None, "the server is out of resources"),
    10021: (UnavailableError, "file-server-error", None, "the server does not offer NFS version 4.0"),
    10029: (RequestError, "is-a-symlink", None, "a symbolic link, and links are not followed"),
    10040: (RequestError, "bad-path", None, "the server does not take this name"),
    10041: (RequestError, "bad-path", None, "the server does not take this name"),
}


def error(status: int, what: str) -> Error:
    """The error for an NFS status; ``what`` says which operation on which file ("cannot read /a/b")."""
    unknown = (UnavailableError, "file-server-error", None, f"the server refuses with NFS status {status}")
    family, code, http, sentence = ERRORS.get(status, unknown)
    return family(f"{what}: {sentence}", code=code, status=http)


@dataclass(frozen=True, slots=True)
class Op:
    """One operation of a COMPOUND: ``result`` reads what follows its status when that is NFS4_OK."""

    number: int
    arguments: bytes
    result: Callable[[Reader], Any]


def _nothing(reader: Reader) -> None:
    return None


ROOT = Op(24, b"", _nothing)
GET_HANDLE = Op(10, b"", lambda reader: reader.opaque(limit=MAX_HANDLE))
GET_ATTRIBUTES = Op(9, attributes.WANTED, attributes.read)
GET_ROOM = Op(9, attributes.ROOM, attributes.room)


def lookup(name: bytes) -> Op:
    """LOOKUP: go down to ``name`` in the current directory."""
    return Op(15, opaque(name), _nothing)


def use(handle: bytes) -> Op:
    """PUTFH: continue at ``handle``."""
    return Op(22, opaque(handle), _nothing)


def read(offset: int, count: int, stateid: bytes = ANONYMOUS) -> Op:
    """READ -> (end of file reached, bytes)."""

    def result(reader: Reader) -> tuple[bool, bytes]:
        return reader.boolean(), reader.opaque(limit=count)

    return Op(25, stateid + hyper(offset) + uint(count), result)


def read_directory(cookie: int, verifier: bytes) -> Op:
    """READDIR -> (verifier, [(cookie, Entry)], end of directory reached)."""

    def result(reader: Reader) -> tuple[bytes, list[tuple[int, Entry]], bool]:
        new_verifier, entries = reader.fixed(8), []
        while reader.boolean():
            at = reader.hyper()
            name = reader.opaque(limit=MAX_NAME)
            if not name or b"/" in name or b"\0" in name or name in (b".", b".."):
                raise ProtocolError(f"the server lists the impossible file name {name!r}")
            entries.append((at, Entry(name.decode("utf-8", "surrogateescape"), attributes.read_or_none(reader))))
        return new_verifier, entries, reader.boolean()

    return Op(26, hyper(cookie) + verifier + uint(8192) + uint(65536) + attributes.WANTED_IN_LIST, result)


def make_directory(name: bytes, mode: int) -> Op:
    """CREATE a directory ``name`` with ``mode`` in the current one, and go there (RFC 7530 section 16.4)."""

    def result(reader: Reader) -> None:
        reader.boolean(), reader.hyper(), reader.hyper()  # change_info of the directory
        reader.bitmap()

    return Op(6, uint(2) + opaque(name) + attributes.bits(attributes.MODE) + opaque(uint(mode)), result)


def set_client(verifier: bytes, name: bytes) -> Op:
    """SETCLIENTID -> (client id, confirmation). The callback is nowhere, so the server grants no delegations."""
    callback = uint(0) + opaque(b"tcp") + opaque(b"0.0.0.0.0.0") + uint(0)
    return Op(35, verifier + opaque(name) + callback, lambda r: (r.hyper(), r.fixed(8)))


def confirm_client(client: int, confirmation: bytes) -> Op:
    """SETCLIENTID_CONFIRM."""
    return Op(36, hyper(client) + confirmation, _nothing)


@dataclass(frozen=True, slots=True)
class Opened:
    """Result of OPEN: its stateid, and whether it must be confirmed before use."""

    stateid: bytes
    must_confirm: bool


def open_for_write(client: int, owner: bytes, name: bytes, *, mode: int, truncate: bool) -> Op:
    """OPEN ``name`` in the current directory for writing, creating it with ``mode`` -> Opened."""
    if truncate:
        given = attributes.bits(attributes.SIZE, attributes.MODE) + opaque(hyper(0) + uint(mode))
    else:
        given = attributes.bits(attributes.MODE) + opaque(uint(mode))
    arguments = b"".join(
        (
            uint(0),  # seqid: every OPEN here is the first of a fresh owner
            uint(2) + uint(0),  # share access WRITE, deny nothing
            hyper(client) + opaque(owner),
            uint(1) + uint(0) + given,  # CREATE, UNCHECKED: an existing file is used as it is
            uint(0) + opaque(name),  # CLAIM_NULL
        )
    )

    def result(reader: Reader) -> Opened:
        stateid = reader.fixed(16)
        reader.boolean(), reader.hyper(), reader.hyper()  # change_info of the directory
        flags = reader.uint()
        reader.bitmap()
        if reader.uint():
            raise ProtocolError("the server grants a delegation that could never be recalled")
        return Opened(stateid, must_confirm=bool(flags & 2))

    return Op(18, arguments, result)


def confirm_open(stateid: bytes) -> Op:
    """OPEN_CONFIRM -> stateid; second request of its owner."""
    return Op(20, stateid + uint(1), lambda reader: reader.fixed(16))


def close(stateid: bytes, seqid: int) -> Op:
    """CLOSE -> stateid of no further use."""
    return Op(4, uint(seqid) + stateid, lambda reader: reader.fixed(16))


def write(stateid: bytes, offset: int, data: bytes) -> Op:
    """WRITE, to stable storage before the answer -> bytes written."""

    def result(reader: Reader) -> int:
        count, committed = reader.uint(), reader.uint()
        reader.fixed(8)
        if not 0 < count <= len(data) or committed != 2:
            raise ProtocolError(f"the server claims {count} of {len(data)} bytes written, stability {committed}")
        return count

    return Op(38, stateid + hyper(offset) + uint(2) + opaque(data), result)


def compound(operations: list[Op]) -> bytes:
    """Arguments of a COMPOUND: empty tag, minor version 0."""
    encoded = b"".join(uint(op.number) + op.arguments for op in operations)
    return opaque(b"") + uint(0) + uint(len(operations)) + encoded


def results(reader: Reader, operations: list[Op]) -> tuple[int, list[Any]]:
    """Read a COMPOUND's results -> (status, results of the operations that succeeded).

    The server stops at the first operation that fails; nothing after a failed status is read, as nothing there
    is of use.
    """
    status = reader.uint()
    reader.opaque(limit=64)
    count = reader.uint()
    if count > len(operations):
        raise ProtocolError(f"reply has {count} results for {len(operations)} operations")
    values: list[Any] = []
    for operation in operations[:count]:
        number, one = reader.uint(), reader.uint()
        if number != operation.number:
            raise ProtocolError(f"reply has a result of operation {number} instead of {operation.number}")
        if one:
            if one != status:
                raise ProtocolError(f"reply has the statuses {status} and {one}")
            return status, values
        values.append(operation.result(reader))
    if status == 0:
        reader.finish()
        if count != len(operations):
            raise ProtocolError(f"reply has {count} results for {len(operations)} operations")
    return status, values
