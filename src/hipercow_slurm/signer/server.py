"""The signer's unix socket: who may connect, how long a request may take and how big it may be.

Each connection carries one request. Decisions run in a few threads, as they block on files and name services;
the event loop only moves bytes, so a silent or slow peer holds up nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import stat
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from hipercow_slurm import log
from hipercow_slurm.errors import ConfigError, Error, InternalError, ProtocolError, UnavailableError
from hipercow_slurm.signer import messages
from hipercow_slurm.signer.service import Peer, Service, may_ask

THREADS = 4  # each signs some 500 tokens a second, unless the name service is slow
LINGER_S = 1.0
_UCRED = struct.Struct("3i")  # struct ucred: pid, uid, gid


class Server:
    """Serves ``service`` on ``path`` between ``async with`` and its end; what is under way then is finished."""

    def __init__(self, service: Service, path: Path, *, deadline_s: float, connections: int) -> None:
        self._service = service
        self._path = path
        self._deadline_s = deadline_s
        self._connections = connections
        self._open: set[asyncio.Task[None]] = set()
        self._threads = ThreadPoolExecutor(THREADS, "signer")
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        listening = listen(self._path)
        self._server = await asyncio.start_unix_server(self._connected, sock=listening, limit=messages.REQUEST_LIMIT)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        with contextlib.suppress(OSError):
            self._path.unlink()
        if self._open:
            await asyncio.wait(self._open, timeout=2 * self._deadline_s)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            await self._one(reader, writer)
            writer.close()
        except OSError as error:  # gone, or too slow to read its answer
            log.get().info("signer.peer-gone", why=str(error) or type(error).__name__)
        except Exception:
            log.get().exception("signer.bug")
        finally:
            self._open.discard(task)
            if not writer.is_closing():
                writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = peer_of(writer)
        try:
            may_ask(peer, self._service.allowed)
            if len(self._open) > self._connections:
                raise UnavailableError("the signer has too many connections", code="signer-busy")
            ap_req = await self._request(reader)
        except Error as error:
            await self._send(writer, self._service.refuse(error, peer))
            await self._linger(reader, writer)
            return
        try:
            reply = await self._decision(ap_req, peer)
        except Error as error:
            reply = self._service.refuse(error, peer)
        await self._send(writer, reply)

    async def _send(self, writer: asyncio.StreamWriter, reply: bytes) -> None:
        writer.write(reply)
        async with asyncio.timeout(self._deadline_s):
            await writer.drain()

    async def _linger(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Let the peer finish what it is sending: closed on at once, it would never see why it was refused."""
        writer.write_eof()
        left = messages.HEADER.size + messages.REQUEST_LIMIT
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(self._deadline_s, LINGER_S)):
                while left > 0 and (thrown_away := await reader.read(left)):
                    left -= len(thrown_away)

    async def _request(self, reader: asyncio.StreamReader) -> bytes:
        try:
            async with asyncio.timeout(self._deadline_s):
                header = await reader.readexactly(messages.HEADER.size)
                return await reader.readexactly(messages.length_of(header, messages.REQUEST_LIMIT))
        except TimeoutError:
            raise ProtocolError(f"no complete request within {self._deadline_s:g} s", code="wire-timeout") from None
        except asyncio.IncompleteReadError as error:
            raise ProtocolError(f"the request ended after {len(error.partial)} bytes") from None

    async def _decision(self, ap_req: bytes, peer: Peer) -> bytes:
        """The thread's audit line says how it ended, even when we do not wait for that."""
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._threads, self._service.answer, ap_req, peer)
        try:
            async with asyncio.timeout(self._deadline_s):
                return await asyncio.shield(work)
        except TimeoutError:
            raise UnavailableError("the signer's name service did not answer in time", code="signer-slow") from None


def listen(path: Path) -> socket.socket:
    """A listening socket at ``path``, in place of one that a killed signer left.

    Raises:
        ConfigError: its directory is missing or open to others, or something else lies there.
    """
    try:
        mode = stat.S_IMODE(path.parent.stat().st_mode)
        # The directory decides who reaches the socket: a socket's own group could be set by its members only.
        if mode & 0o007:
            raise ConfigError(
                f"the signer's socket directory {path.parent} has mode {mode:04o} and is open to others",
                code="socket-unsafe",
                hint="make it 0750, with the API's group",
            )
        if path.is_socket():
            _refuse_if_alive(path)
            path.unlink()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(str(path))
        path.chmod(0o666)
        sock.listen(128)
    except OSError as error:
        raise ConfigError(f"cannot listen on {path}: {error.strerror or error}", code="socket") from error
    sock.setblocking(False)
    return sock


def _refuse_if_alive(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        with contextlib.suppress(ConnectionRefusedError):
            probe.connect(str(path))
            raise ConfigError(f"another signer listens on {path}", code="socket")


def peer_of(writer: asyncio.StreamWriter) -> Peer:
    """Who is at the other end, from the kernel."""
    sock = writer.get_extra_info("socket")
    if sock is None:
        raise InternalError("a connection without a socket", code="bug")
    pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(pid, uid & 0xFFFFFFFF)
