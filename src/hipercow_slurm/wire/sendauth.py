"""The handshake of MIT's krb5_sendauth and krb5_recvauth, both roles, without a socket.

    client                                   server
    frame "KRB5_SENDAUTH_V1.0\\0"   ------>
    frame "0.1\\0"                  ------>
                                   <------   one octet: 0 go on, 1 or 2: that frame was wrong (and close)
    frame AP-REQ                   ------>
                                   <------   empty frame, or a KRB-ERROR (and close)
                                   <------   frame AP-REP

Our client sends its three frames at once: the order of the bytes is the same and one round trip is saved. Our server
puts its last two frames into one write: as two, Nagle's algorithm and the peer's delayed ACK cost 44 ms each time.
Source: notes on the AUKS protocol, section 2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum, auto
from typing import Protocol

from hipercow_slurm.errors import Error, InternalError, ProtocolError
from hipercow_slurm.wire.frames import FrameBuffer, frame

SENDAUTH_VERSION = b"KRB5_SENDAUTH_V1.0\0"
APPLICATION_VERSION = b"0.1\0"

# What every client begins with, both frames in one piece as a rule.
GREETING = frame(SENDAUTH_VERSION) + frame(APPLICATION_VERSION)

ACCEPTED, BAD_VERSION, BAD_APPLICATION = b"\x00", b"\x01", b"\x02"


class Acceptor(Protocol):
    """The server's half of the AP exchange; ``krb5.auth.Acceptor`` in real life."""

    @property
    def client(self) -> str:
        """Full principal text of the peer, after ``ap_req``."""

    def ap_req(self, data: bytes) -> bytes:
        """Check an AP-REQ, return the AP-REP; raises one of our errors."""

    def krb_error(self, error: Exception) -> bytes:
        """The KRB-ERROR that tells the peer about ``error``."""

    def seal(self, data: bytes) -> bytes:
        """KRB-PRIV of ``data``."""

    def seal_in_pieces(self, length: int, content: Iterable[bytes]) -> tuple[int, Iterator[bytes | bytearray]]:
        """Length and pieces of a KRB-PRIV of ``content``, whose ``length`` octets come in pieces too."""

    def unseal(self, data: bytes) -> bytes:
        """Contents of a KRB-PRIV; raises one of our errors."""

    def close(self) -> None:
        """Free what it holds; nothing else is called afterwards."""


class Initiator(Protocol):
    """The client's half; ``krb5.auth.Initiator`` in real life."""

    def ap_req(self) -> bytes:
        """The AP-REQ to send."""

    def ap_rep(self, data: bytes) -> None:
        """Check the server's AP-REP; raises one of our errors."""

    def seal(self, data: bytes) -> bytes:
        """KRB-PRIV of ``data``."""

    def unseal(self, data: bytes) -> bytes:
        """Contents of a KRB-PRIV; raises one of our errors."""

    def close(self) -> None:
        """Free what it holds; nothing else is called afterwards."""


class HandshakeError(ProtocolError):
    """The handshake failed.

    Attributes:
        answer: on the server, the bytes the peer must still get; on the client, the server's KRB-ERROR or ``b""``.
    """

    def __init__(self, message: str, answer: bytes) -> None:
        super().__init__(message, code="auth-failed")
        self.answer = answer


class _Step(Enum):
    VERSION = auto()
    APPLICATION = auto()
    AP_REQ = auto()
    OCTET = auto()
    STATUS = auto()
    AP_REP = auto()
    DONE = auto()


_VERSION, _APPLICATION, _AP_REQ, _DONE = _Step.VERSION, _Step.APPLICATION, _Step.AP_REQ, _Step.DONE
_EMPTY = frame(b"")


class ServerHandshake:
    """Takes the client's frames and gives back what to send.

    Attributes:
        done: the AP-REP is among the bytes that were returned.
    """

    __slots__ = ("_acceptor", "_step", "_version_ok", "done")

    def __init__(self, acceptor: Acceptor) -> None:
        self._acceptor = acceptor
        self._step = _VERSION
        self.done = False
        self._version_ok = False

    def greet(self) -> bytes:
        """As ``feed`` with both frames of ``GREETING`` at the beginning; nothing if this is not the beginning."""
        if self._step is not _VERSION:
            return b""
        self._step = _AP_REQ
        return ACCEPTED

    def feed(self, body: bytes) -> bytes:
        """One frame from the client; returns bytes to send (perhaps none).

        Raises:
            HandshakeError: send its ``answer``, then close.
        """
        if self._step is _AP_REQ:
            return self._authenticate(body)
        if self._step is _VERSION:
            self._version_ok = body == SENDAUTH_VERSION
            self._step = _APPLICATION
            return b""
        if self._step is _APPLICATION:
            # Only now: closing with the second frame unread would reset the connection and lose the octet.
            if not self._version_ok:
                raise HandshakeError("the peer does not speak KRB5_SENDAUTH_V1.0", BAD_VERSION)
            if body != APPLICATION_VERSION:
                raise HandshakeError("the peer does not speak AUKS 0.1", BAD_APPLICATION)
            self._step = _AP_REQ
            return ACCEPTED
        raise InternalError("handshake fed after its end")

    def _authenticate(self, body: bytes) -> bytes:
        try:
            answer = self._acceptor.ap_req(body)
        except Error as error:
            raise HandshakeError(error.message, frame(self._acceptor.krb_error(error))) from error
        self._step, self.done = _DONE, True
        return _EMPTY + frame(answer)


class ClientHandshake:
    """Gives the client's frames and checks the server's answers."""

    def __init__(self, initiator: Initiator) -> None:
        self._initiator = initiator
        self._step = _Step.OCTET

    @property
    def done(self) -> bool:
        """True once the server's AP-REP was checked."""
        return self._step is _Step.DONE

    def start(self) -> bytes:
        """All the client ever sends in the handshake."""
        return GREETING + frame(self._initiator.ap_req())

    def feed(self, buffer: FrameBuffer) -> bool:
        """Consume one answer from ``buffer``; False when it is not complete yet.

        Raises:
            HandshakeError: the server said no; ``answer`` is its KRB-ERROR, if any.
            Error: whatever checking the AP-REP raises (a server that is not the one we wanted).
        """
        if self._step is _Step.OCTET:
            return self._octet(buffer.octet())
        body = buffer.frame()
        if body is None:
            return False
        if self._step is _Step.STATUS:
            if body:
                raise HandshakeError("the server refused our AP-REQ", body)
            self._step = _Step.AP_REP
        elif self._step is _Step.AP_REP:
            self._initiator.ap_rep(body)
            self._step = _Step.DONE
        else:
            raise InternalError("handshake fed after its end")
        return True

    def _octet(self, value: int | None) -> bool:
        if value is None:
            return False
        if value != ACCEPTED[0]:
            wanted = {BAD_VERSION[0]: "KRB5_SENDAUTH_V1.0", BAD_APPLICATION[0]: "AUKS 0.1"}.get(value, "AUKS")
            raise HandshakeError(f"the server does not speak {wanted} (it answered {value:#04x})", b"")
        self._step = _Step.STATUS
        return True
