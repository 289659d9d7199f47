"""ONC RPC (RFC 5531) over TCP: one call, one reply, each with a deadline and a limit.

The transport knows records and nothing else; what is in them is the business of ``rpcsec_gss`` and ``nfs4_ops``.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time

from hipercow_slurm.errors import ProtocolError, UnavailableError

LAST_FRAGMENT = 0x8000_0000
# A server may cut a record as it likes, but a thousand fragments for one reply is an attack, not a style.
MAX_FRAGMENTS = 1000


class Deadline:
    """A moment after which waiting stops; made once for an operation and handed down through its steps."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s

    def left(self, waiting_for: str) -> float:
        """Seconds left, always positive; UnavailableError "file-server-timeout" when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise timed_out(waiting_for, self.timeout_s)
        return left


def timed_out(waiting_for: str, timeout_s: float) -> UnavailableError:
    """The error for a deadline that has passed."""
    return UnavailableError(
        f"no answer from {waiting_for} within {timeout_s:g} s",
        code="file-server-timeout",
        hint="try again; if it stays like this, tell the administrators of the file server",
    )


class Transport:
    """A TCP connection that carries RPC records (RFC 5531 section 11)."""

    def __init__(self, host: str, port: int, *, deadline: Deadline, name: str) -> None:
        self.name = name
        try:
            self._socket = socket.create_connection((host, port), timeout=deadline.left(name))
        except TimeoutError as error:
            raise timed_out(name, deadline.timeout_s) from error
        except OSError as error:
            raise self._lost(error.strerror or str(error)) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def exchange(self, record: bytes, *, limit: int, deadline: Deadline) -> bytes:
        """Send one record, return the next one, of at most ``limit`` bytes.

        Raises:
            UnavailableError: the server is gone or too slow. ProtocolError: the reply is too long. After any of
            them the connection is closed: a late reply must not be taken for the next one.
        """
        try:
            return self._exchange(record, limit, deadline)
        except BaseException:
            self.close()
            raise

    def _exchange(self, record: bytes, limit: int, deadline: Deadline) -> bytes:
        if self._socket.fileno() < 0:
            raise self._lost("the connection was given up after an error")
        try:
            self._socket.settimeout(deadline.left(self.name))
            self._socket.sendall(struct.pack(">I", LAST_FRAGMENT | len(record)) + record)
            return self._receive(limit, deadline)
        except TimeoutError as error:
            raise timed_out(self.name, deadline.timeout_s) from error
        except OSError as error:
            raise self._lost(error.strerror or str(error)) from error

    def _receive(self, limit: int, deadline: Deadline) -> bytes:
        record = bytearray()
        for _ in range(MAX_FRAGMENTS):
            mark: int = struct.unpack(">I", self._exactly(4, deadline))[0]
            size = mark & ~LAST_FRAGMENT
            if len(record) + size > limit:
                raise ProtocolError(f"{self.name} sent a reply of {len(record) + size} bytes; the limit is {limit}")
            record += self._exactly(size, deadline)
            if mark & LAST_FRAGMENT:
                return bytes(record)
        raise ProtocolError(f"{self.name} sent one reply in more than {MAX_FRAGMENTS} fragments")

    def _exactly(self, count: int, deadline: Deadline) -> bytes:
        data = bytearray(count)
        view, have = memoryview(data), 0
        while have < count:
            self._socket.settimeout(deadline.left(self.name))
            got = self._socket.recv_into(view[have:])
            if not got:
                raise self._lost("it closed the connection")
            have += got
        return bytes(data)

    def _lost(self, why: str) -> UnavailableError:
        return UnavailableError(
            f"cannot reach {self.name}: {why}",
            code="file-server-unreachable",
            hint="check the server's name, and that it is up and offers NFSv4",
        )

    def close(self) -> None:
        """Close the connection; never raises."""
        with contextlib.suppress(OSError):
            self._socket.close()
