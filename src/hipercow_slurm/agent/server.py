"""The agent's unix socket: who may ask what, and how long a connection may do nothing.

Peer credentials decide: only root (slurmd, slurmstepd) may start, look up and end; everybody may ask for the status of
their own jobs. A silent client costs a descriptor for ``LINE_S`` and nothing else; users share a bounded number of
connections, root's are never refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from pathlib import Path

from hipercow_slurm import log
from hipercow_slurm.agent import protocol
from hipercow_slurm.agent.holding import Holder
from hipercow_slurm.agent.keeper import Keeper
from hipercow_slurm.agent.status import Status
from hipercow_slurm.errors import AccessError, ConfigError, Error

LINE_S = 10.0
USERS = 64  # connections of users other than root, all together
BACKLOG = 1024  # a launch storm: one connection per step

_UCRED = struct.Struct("=iII")  # struct ucred: pid, uid, gid


class Server:
    """Answers on ``listener`` until cancelled."""

    def __init__(self, keeper: Keeper, status: Status, holder: Holder) -> None:
        self._keeper = keeper
        self._holder = holder
        self._status = status
        self._users = 0

    async def run(self, listener: socket.socket) -> None:
        server = await asyncio.start_unix_server(
            self._connection, sock=listener, limit=protocol.REQUEST_LIMIT, backlog=BACKLOG
        )
        async with server:
            await server.serve_forever()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = _peer_uid(writer.get_extra_info("socket"))
        self._users += uid != 0
        try:
            if uid == 0 or self._users <= USERS:
                await self._converse(reader, writer, uid)
        except (ConnectionError, TimeoutError):
            pass  # it went away, or had nothing to say
        finally:
            self._users -= uid != 0
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, uid: int) -> None:
        """One request a line, one line back each, until the peer is done or breaks the rules."""
        while True:
            async with asyncio.timeout(LINE_S):
                line = await _line(reader)
            if not line:
                return
            reply = await self._reply(line, uid)
            async with asyncio.timeout(LINE_S):
                writer.write(reply)
                await writer.drain()
            if reply.startswith(b"error "):
                return

    async def _reply(self, line: bytes, uid: int) -> bytes:
        try:
            return await self._dispatch(protocol.parse(line), uid)
        except Error as error:
            if uid == 0:  # no user can fill the log
                log.get().warning("agent.refused", code=error.code, why=error.message)
            return protocol.refused(error.code, error.message)

    async def _dispatch(self, request: protocol.Request, peer: int) -> bytes:
        if isinstance(request, protocol.Status):
            return self._status.line(None if peer == 0 else peer)
        if peer != 0:
            raise AccessError("only root may start, look up or end a job's ticket", code="not-allowed")
        if isinstance(request, protocol.End):
            await self._keeper.end(request.job_id, request.uid)
            return protocol.ok()
        config = self._keeper.config
        if request.uid < config.minimum_uid:
            why = f"uid {request.uid} is below minimum_uid {config.minimum_uid}: no ticket is kept for it"
            return protocol.none("allow", None, why)
        if isinstance(request, protocol.Start):
            job, problem = await self._keeper.start(request.job_id, request.uid, request.gid)
            if problem is not None and config.policy == "require":
                await self._holder.put_back(request.job_id, problem.sentence)
        else:
            await self._holder.settled(request.job_id)  # its step is not to fail before slurmctld has it back
            job, problem = await self._keeper.ccache(request.job_id, request.uid, request.gid)
        if problem is None:
            return protocol.ok(job.ccache)
        return protocol.none(config.policy, job.ccache, problem.sentence)


async def _line(reader: asyncio.StreamReader) -> bytes:
    """One line with its newline; the rest before EOF; over-long input without a newline, which parse refuses."""
    try:
        return await reader.readline()
    except ValueError:
        return b"x" * (protocol.REQUEST_LIMIT + 1) + b"\n"


def _peer_uid(peer: socket.socket) -> int:
    _, uid, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)


def listen(path: Path) -> socket.socket:
    """A listening socket at ``path``, for everybody to connect; replaces one that a dead agent left behind.

    Bound aside and renamed: at no instant is there a name without a listener behind it.

    Raises:
        ConfigError: the folder cannot be used.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    aside = path.with_name(f"{path.name}.new")
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
            path.parent.chmod(0o755)  # whatever the umask
        aside.unlink(missing_ok=True)
        listener.bind(str(aside))
        aside.chmod(0o666)  # peer credentials decide, not the file's mode
        listener.listen(BACKLOG)
        aside.rename(path)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on agent.socket {path}: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener
