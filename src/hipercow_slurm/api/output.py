"""A job's output, read from the user's Kerberized share with the user's own ticket; there is no privileged reader.

A path is known to us only if one of ``[[files]]`` covers it; what the user may not read, the file server refuses.
"""

from __future__ import annotations

import asyncio
import posixpath
import re
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

from hipercow_slurm.api.config import Files
from hipercow_slurm.errors import RequestError, UnavailableError
from hipercow_slurm.files.as_user import read_file
from hipercow_slurm.files.nfs4_client import Server
from hipercow_slurm.slurm.model import Job
from hipercow_slurm.values import KrbCred

T = TypeVar("T")
Stream = Literal["stdout", "stderr"]
CHUNK = 4 * 1024 * 1024
_READERS = 8  # of each file server: one that hangs has only its own
_READ_S = 15.0
_DEADLINE_S = 30.0
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes ``start`` to ``end`` (exclusive) of a file of ``size`` bytes; ``whole`` if no range was asked for."""

    start: int
    end: int
    size: int
    whole: bool


class Outputs:
    """Reads job output as its owner."""

    def __init__(self, files: Sequence[Files]) -> None:
        # The longest prefix first: the most particular row decides.
        self._files = sorted(files, key=lambda row: len(row.prefix.rstrip("/")), reverse=True)
        self._threads: dict[Server, ThreadPoolExecutor] = {}
        for row in files:
            self._threads.setdefault(_server(row), ThreadPoolExecutor(_READERS, thread_name_prefix="files"))

    async def open(
        self, job: Job, stream: Stream, cred: KrbCred, range_header: str | None
    ) -> tuple[Piece, AsyncIterator[bytes]]:
        """The asked piece of the job's output, and its bytes.

        Raises:
            RequestError: ``no-output-yet`` (404), ``no-such-range`` (416), ``output-elsewhere`` (404).
            AccessError, CredentialError, UnavailableError: as the file server and the KDC say.
        """
        path = path_of(job, stream)
        if path is None:
            raise _not_yet(job)
        server, remote = self.locate(path)
        try:
            return await self.open_path(server, remote, cred, range_header)
        except RequestError as error:
            if error.code == "no-such-file":
                raise _not_yet(job) from error
            raise

    async def open_path(
        self, server: Server, remote: str, cred: KrbCred, range_header: str | None
    ) -> tuple[Piece, AsyncIterator[bytes]]:
        """The asked piece of a file, and its bytes.

        Raises:
            RequestError: ``no-such-file`` (404), ``no-such-range`` (416), ``is-a-directory``, ``is-a-symlink``.
            AccessError, CredentialError, UnavailableError: as the file server and the KDC say.
        """
        wanted = parse_range(range_header)
        first = 0 if wanted is None else wanted[0]
        if first is None:  # the last N bytes: the size must be known first
            _, size = await self._read(server, remote, cred, 0, 1)
        else:
            data, size = await self._read(server, remote, cred, first, CHUNK)
            # A server's idea of the size may lag behind what it gives to read (nfs-ganesha: up to a minute).
            size = max(size, first + len(data)) if data else size
        piece = resolve(wanted, size)
        if first is None:
            data, _ = await self._read(server, remote, cred, piece.start, CHUNK)
        return piece, self._bytes(server, remote, cred, piece, data)

    async def tail(self, job: Job, stream: Stream, cred: KrbCred, offset: int, limit: int) -> tuple[bytes, int | None]:
        """What the job's output has from ``offset`` on, at most ``limit`` bytes, and its size; None: there is none.

        Raises:
            RequestError: ``output-elsewhere`` (404), ``is-a-symlink``.
            AccessError, CredentialError, UnavailableError: as the file server and the KDC say.
        """
        path = path_of(job, stream)
        if path is None:
            return b"", None
        try:
            return await self._read(*self.locate(path), cred, offset, limit)
        except RequestError as error:
            if error.code == "no-such-file":
                return b"", None
            raise

    async def in_thread(self, act: Callable[[], T], server: Server, *, deadline_s: float = _DEADLINE_S) -> T:
        """Run a blocking piece of work on files of ``server``, in one of its threads.

        Raises:
            UnavailableError: ``file-server-timeout``.
        """
        work = asyncio.get_running_loop().run_in_executor(self._threads[server], act)
        try:
            async with asyncio.timeout(deadline_s):
                return await work
        except TimeoutError:
            raise UnavailableError(
                f"the file server {server.host} did not answer in time", code="file-server-timeout"
            ) from None

    def locate(self, path: str) -> tuple[Server, str]:
        """The file server that has ``path``, and the path there.

        Raises:
            RequestError: ``output-elsewhere``: no row of ``[[files]]`` covers it.
        """
        clean = "/" + posixpath.normpath(path).lstrip("/")
        for row in self._files:
            prefix = row.prefix.rstrip("/")
            if clean == prefix or clean.startswith(prefix + "/"):
                below = clean[len(prefix) :]
                return _server(row), row.export.rstrip("/") + below or "/"
        raise RequestError(
            f"{clean} is on none of the file servers this service can read",
            code="output-elsewhere",
            status=404,
            hint="write the job's output below your home directory",
        )

    def close(self) -> None:
        """Take no more reads."""
        for threads in self._threads.values():
            threads.shutdown(wait=False, cancel_futures=True)

    async def _bytes(
        self, server: Server, remote: str, cred: KrbCred, piece: Piece, data: bytes
    ) -> AsyncIterator[bytes]:
        """The piece in chunks.

        Raises:
            UnavailableError: ``file-changed``: it became shorter meanwhile; the answer, which has begun, breaks off.
        """
        at = piece.start
        while at < piece.end and data:
            data = data[: piece.end - at]
            yield data
            at += len(data)
            if at < piece.end:
                data, _ = await self._read(server, remote, cred, at, min(CHUNK, piece.end - at))
        if at < piece.end:
            raise UnavailableError(f"{remote} became shorter while it was read", code="file-changed")

    async def _read(self, server: Server, remote: str, cred: KrbCred, offset: int, limit: int) -> tuple[bytes, int]:
        return await self.in_thread(lambda: read_file(server, remote, cred, offset, limit, timeout_s=_READ_S), server)


def _server(row: Files) -> Server:
    return Server(row.server, row.port)


def path_of(job: Job, stream: Stream) -> str | None:
    """Where the job writes; None as long as a part of the name is not known.

    From the start on all of it is known: a ``%`` that is still there is part of a name.
    """
    path = job.output if stream == "stdout" else job.error
    return path if path and ("%" not in path or job.nodes) else None


def parse_range(header: str | None) -> tuple[int | None, int | None] | None:
    """``bytes=N-``, ``bytes=N-M`` or ``bytes=-N`` as (first, last); (None, N) for the last N bytes.

    None for no header, and for one that we do not take (several ranges, other units): RFC 9110 says to ignore it.
    """
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or not (match[1] or match[2]):
        return None
    first = int(match[1]) if match[1] else None
    last = int(match[2]) if match[2] else None
    if first is not None and last is not None and last < first:
        return None
    return first, last


def resolve(wanted: tuple[int | None, int | None] | None, size: int) -> Piece:
    """The piece of a file of ``size`` bytes.

    Raises:
        RequestError: ``no-such-range`` (416): it begins at or after the end.
    """
    if wanted is None:
        return Piece(0, size, size, whole=True)
    first, last = wanted
    if first is None:
        first, last = max(0, size - (last or 0)), None
    if first >= size:
        raise RangeError(size)
    end = size if last is None else min(size, last + 1)
    return Piece(first, end, size, whole=False)


class RangeError(RequestError):
    """416: the range begins at or after the end of the file (which may still grow)."""

    def __init__(self, size: int) -> None:
        super().__init__(
            f"the file has {size} bytes so far; the range begins after them", code="no-such-range", status=416
        )
        self.size = size


def _not_yet(job: Job) -> RequestError:
    what = "has ended without writing its output" if job.ended else "has not written any output yet"
    return RequestError(f"job {job.job_id} {what}", code="no-output-yet", status=404)
