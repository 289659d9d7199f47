"""A client of NFSv4.0 over RPCSEC_GSS that needs no kernel support and no privileges, only a ticket.

Rule 1: a path is walked name by name from the server's root, and a symbolic link anywhere in it is an error; so no
one who can write in a directory can lead a reader or writer elsewhere.
Rule 2: every operation has one deadline, every reply a limit. The one wait that is not ours to bound is libkrb5's
for the KDC (see krb5.conf), when the ticket for the server is fetched.
Rule 3: a client is used by one thread at a time.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hipercow_slurm.errors import ConfigError, Error, ProtocolError, RequestError, UnavailableError
from hipercow_slurm.files import nfs4_ops as ops
from hipercow_slurm.files.nfs4_attributes import Attributes, Entry
from hipercow_slurm.files.nfs4_ops import Op
from hipercow_slurm.files.rpc import Deadline, Transport
from hipercow_slurm.files.rpcsec_gss import SERVICES, Context, initiate

CHUNK = 512 * 1024  # one READ or WRITE; the server may take less
MAX_DEPTH = 100  # names in a path: each is one operation of a COMPOUND, and servers limit those
MAX_ENTRIES = 100_000
SET_UP_S = 15.0


@dataclass(frozen=True, slots=True)
class Server:
    """An NFS server.

    Attributes:
        host: its name in the realm; the ticket is for nfs/host.
        security: krb5 (who), krb5i (and unchanged), krb5p (and unseen).
        address: where to connect, if that is not what ``host`` resolves to.
    """

    host: str
    port: int = 2049
    security: str = "krb5p"
    address: str | None = None

    def __post_init__(self) -> None:
        if self.security not in SERVICES:
            raise ConfigError(f"security {self.security!r} is none of {', '.join(SERVICES)}")


def split(path: str) -> list[bytes]:
    """The names in an absolute path of the server's, checked; "." and doubled slashes vanish, ".." is refused.

    Raises:
        RequestError: "bad-path".
    """
    if not path.startswith("/"):
        raise RequestError(f"the path {path!r} does not start with /", code="bad-path")
    try:
        names = [os.fsencode(name) for name in path.split("/") if name not in ("", ".")]
    except UnicodeEncodeError as error:
        raise RequestError(f"the path {path!r} is not text", code="bad-path") from error
    if b".." in names:
        # What ".." means depends on links in the path, which we do not follow.
        raise RequestError(f"the path {path!r} has a part ..", code="bad-path", hint="give the path without ..")
    if len(names) > MAX_DEPTH or any(len(name) > ops.MAX_NAME or b"\0" in name for name in names):
        raise RequestError(f"the path {path[:200]!r} is too long or has a zero byte", code="bad-path")
    return names


class Client:
    """A connection to ``server`` as the owner of the ticket in ``ccache`` (None: KRB5CCNAME, then the default).

    Args:
        timeout_s: deadline of each operation, and of setting up, which never has more than ``SET_UP_S``.

    Raises:
        CredentialError: "no-tgt", "expired". AccessError: the server or the KDC refuses. UnavailableError: the
        server or the KDC is down or slow. ProtocolError: the server's answer is not one.
    """

    def __init__(self, server: Server, *, ccache: str | None = None, timeout_s: float = 15.0) -> None:
        self._server, self._timeout_s = server, timeout_s
        self._name = f"the file server {server.host}"
        gss = initiate(server.host, ccache=ccache)
        deadline = Deadline(min(timeout_s, SET_UP_S))
        self._transport = Transport(server.address or server.host, server.port, deadline=deadline, name=self._name)
        try:
            self._context = Context(
                self._transport,
                gss,
                program=ops.PROGRAM,
                version=ops.VERSION,
                security=server.security,
                deadline=deadline,
            )
        except BaseException:
            self._transport.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the server forget us, and close the connection; never raises."""
        self._context.destroy(Deadline(min(self._timeout_s, 2.0)))
        self._transport.close()

    def stat(self, path: str) -> Attributes:
        """Type, size, owner and times of ``path``; of a symbolic link itself, if it is one."""
        found: Attributes = self._compound([*_walk(split(path)), ops.GET_ATTRIBUTES], f"cannot look at {path}")[-1]
        return found

    def read(self, path: str, *, offset: int = 0, limit: int | None = None) -> tuple[bytes, int]:
        """Bytes of ``path`` from ``offset`` on, at most ``limit``; and the file's size, at least as far as was read.

        Raises:
            RequestError: "no-such-file", "is-a-directory", "is-a-symlink". AccessError: "access-denied".
        """
        deadline = Deadline(self._timeout_s)
        if not 0 <= offset < 2**63 or (limit is not None and limit < 0):
            raise RequestError(f"cannot read {path} from {offset}, {limit} bytes", code="bad-request")
        handle, size = self._open_to_read(path, deadline)
        pieces: list[bytes] = []
        at, left = offset, 2**62 if limit is None else limit
        while left > 0:
            end, data = self._read(handle, at, min(left, CHUNK), path, deadline)
            pieces.append(data)
            at, left = at + len(data), left - len(data)
            if end or not data:
                break
        # ganesha remembers a size for a minute: a file that grows behind its back is longer than it says. What was
        # read is there; and if nothing was, the byte before tells whether the file ends here or has become shorter.
        if at == offset > size and not self._read(handle, offset - 1, 1, path, deadline)[1]:
            return b"", size
        return b"".join(pieces), max(size, at)

    def stream(self, path: str, *, offset: int = 0) -> Iterator[bytes]:
        """The file's bytes from ``offset`` to its end in chunks; each chunk has its own deadline."""
        handle, _ = self._open_to_read(path, Deadline(self._timeout_s))
        while True:
            end, data = self._read(handle, offset, CHUNK, path, Deadline(self._timeout_s))
            if data:
                yield data
            offset += len(data)
            if end or not data:
                return

    def _open_to_read(self, path: str, deadline: Deadline) -> tuple[bytes, int]:
        """Handle and size of a regular file; its handle stays the same file whatever becomes of the path."""
        what = f"cannot read {path}"
        handle, attributes = self._compound([*_walk(split(path)), ops.GET_HANDLE, ops.GET_ATTRIBUTES], what, deadline)[
            -2:
        ]
        refusal = {"directory": 21, "symlink": 10029}.get(attributes.type, 22)
        if attributes.type != "file":
            raise ops.error(refusal, what)
        return handle, attributes.size

    def _read(self, handle: bytes, offset: int, count: int, path: str, deadline: Deadline) -> tuple[bool, bytes]:
        end, data = self._compound([ops.use(handle), ops.read(offset, count)], f"cannot read {path}", deadline)[-1]
        return end, data

    def listdir(self, path: str) -> list[Entry]:
        """The names in the directory ``path`` with their attributes, sorted.

        Raises:
            RequestError: "not-a-directory"; "too-many-entries" beyond 100 000.
        """
        deadline, what = Deadline(self._timeout_s), f"cannot list {path}"
        handle = self._compound([*_walk(split(path)), ops.GET_HANDLE], what, deadline)[-1]
        entries: list[Entry] = []
        cookie, verifier, end = 0, bytes(8), False
        while not end:
            verifier, page, end = self._compound(
                [ops.use(handle), ops.read_directory(cookie, verifier)], what, deadline
            )[-1]
            if not page and not end:
                raise ProtocolError(f"{self._name} sends an empty page of the directory {path}")
            entries.extend(entry for _, entry in page)
            cookie = page[-1][0] if page else cookie
            if len(entries) > MAX_ENTRIES:
                raise RequestError(f"{what}: more than {MAX_ENTRIES} names", code="too-many-entries")
        return sorted(entries, key=lambda entry: entry.name)

    def make_directory(self, path: str, *, mode: int = 0o700) -> bool:
        """Create the directory ``path`` with ``mode``; False: there is one already.

        Raises:
            RequestError: "no-such-file": there is none to create it in; "file-exists": something else has the name.
        """
        names = split(path)
        what = f"cannot make the directory {path}"
        try:
            if not names:
                raise ops.error(17, what)
            self._compound([*_walk(names[:-1]), ops.make_directory(names[-1], mode)], what)
        except RequestError as error:
            if error.code != "file-exists" or self.stat(path).type != "directory":
                raise
            return False
        return True

    def write(self, path: str, data: bytes, *, mode: int = 0o600, append: bool = False) -> int:
        """Replace the content of ``path`` by ``data``, or ``append`` to it; create it with ``mode`` if need be.

        The data is on the server's stable storage when this returns. Readers can see a part of it before; two
        appending writers can overwrite each other.

        Returns:
            The file's size now.

        Raises:
            UnavailableError: "no-space": the server has no room for it. What was there is still there, unless the room
                went while we wrote.
        """
        names = split(path)
        deadline, what = Deadline(self._timeout_s), f"cannot write {path}"
        if not names:
            raise ops.error(21, what)
        self._find_room(names, len(data), what, deadline, append=append)
        client = self._client_id(what, deadline)

        def open_() -> list[Op]:
            # A refused OPEN counts in its owner's sequence (RFC 7530 section 9.1.7): each attempt is a new owner.
            opening = ops.open_for_write(client, os.urandom(16), names[-1], mode=mode, truncate=not append)
            return [*_walk(names[:-1]), opening, ops.GET_HANDLE, ops.GET_ATTRIBUTES]

        try:
            opened, handle, attributes = self._compound(open_, what, deadline)[-3:]
        except RequestError as error:
            # Version 4.0 has no error of its own for pipes, sockets and devices: ganesha says "symlink" of them.
            if error.code == "is-a-symlink" and self.stat(path).type != "symlink":
                raise ops.error(22, what) from error
            raise
        stateid, seqid = opened.stateid, 1
        if opened.must_confirm:
            stateid = self._compound([ops.use(handle), ops.confirm_open(stateid)], what, deadline)[-1]
            seqid = 2
        try:
            return self._write_all(handle, stateid, attributes.size if append else 0, data, what, deadline)
        finally:
            # The data is safe or lost by now; a CLOSE that fails changes neither.
            with contextlib.suppress(Error):
                self._compound([ops.use(handle), ops.close(stateid, seqid)], what, Deadline(2.0))

    def _find_room(self, names: list[bytes], size: int, what: str, deadline: Deadline, *, append: bool) -> None:
        """Raise "no-space" while the old content is still there, which makes room, too, if it is to go."""
        room = self._compound([*_walk(names[:-1]), ops.GET_ROOM], what, deadline)[-1]
        if room is None or size <= room:
            return
        if not append:
            with contextlib.suppress(RequestError):  # there is no such file yet
                room += self._compound([*_walk(names), ops.GET_ATTRIBUTES], what, deadline)[-1].size
        if size > room:
            raise UnavailableError(
                f"{what}: no space left on the server for its {size} bytes ({room} are free); nothing was changed",
                code="no-space",
                hint="make room there, or write elsewhere",
            )

    def _write_all(self, handle: bytes, stateid: bytes, offset: int, data: bytes, what: str, deadline: Deadline) -> int:
        done = 0
        while done < len(data):
            piece = data[done : done + CHUNK]
            done += self._compound([ops.use(handle), ops.write(stateid, offset + done, piece)], what, deadline)[-1]
        return offset + done

    def _client_id(self, what: str, deadline: Deadline) -> int:
        """A client id for one OPEN (RFC 7530 section 16.33); the server drops it when its lease runs out."""
        name = b"hipercow-slurm/" + os.urandom(16).hex().encode()
        client: int
        client, confirmation = self._compound([ops.set_client(os.urandom(8), name)], what, deadline)[-1]
        self._compound([ops.confirm_client(client, confirmation)], what, deadline)
        return client

    def _compound(
        self,
        operations: list[Op] | Callable[[], list[Op]],
        what: str,
        deadline: Deadline | None = None,
    ) -> list[Any]:
        """Run ``operations``; wait and repeat, up to the deadline, while the server says DELAY or GRACE."""
        deadline = deadline or Deadline(self._timeout_s)
        pause_s = 0.05
        while True:
            batch = operations() if callable(operations) else operations
            reply = self._context.call(ops.COMPOUND, ops.compound(batch), limit=CHUNK + 65536, deadline=deadline)
            status, values = ops.results(reply, batch)
            if status == 0:
                return values
            if status not in (ops.DELAY, ops.GRACE) or deadline.left(self._name) < pause_s:
                raise ops.error(status, what)
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 1.0)


def _walk(names: list[bytes]) -> list[Op]:
    return [ops.ROOT, *map(ops.lookup, names)]
