"""One AUKS connection as a state machine, both roles: bytes in, events out; messages in, bytes out.

    handshake --Authenticated--> open --CLOSE or end of stream--> ended
        any ProtocolError (or a refusal by the crypto object) --> ended

Rule 1: nothing here blocks, waits, logs or knows the time; the crypto object is given.
Rule 2: after ``Ended`` or an exception the session is finished: ``next_event`` gives ``Ended`` for ever.
Rule 3: a sealed frame that opens but makes no sense is a ``Malformed`` event, answered with ERROR, and the connection
goes on, as with the original; a frame that does not open ends it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from hipercow_slurm.errors import InternalError, ProtocolError
from hipercow_slurm.wire import messages
from hipercow_slurm.wire.frames import MAX_FRAME, FrameBuffer, frame, frame_head
from hipercow_slurm.wire.messages import Close, DumpOut, Reply, Request
from hipercow_slurm.wire.sendauth import (
    GREETING,
    Acceptor,
    ClientHandshake,
    HandshakeError,
    Initiator,
    ServerHandshake,
)


@dataclass(frozen=True, slots=True)
class Authenticated:
    """The handshake is over; ``client`` is the proven principal (empty on the client's own side)."""

    client: str


@dataclass(frozen=True, slots=True)
class Malformed:
    """A properly sealed message that is not a legal request."""

    why: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The peer said CLOSE (``clean``) or its stream ended."""

    clean: bool


# One for each client that is about, and not one for each connection.
_authenticated = lru_cache(maxsize=1024)(Authenticated)
_BYE = Ended(clean=True)

ServerEvent = Authenticated | Request | Malformed | Ended
ClientEvent = Authenticated | Reply | Ended


class ServerSession:
    """The server's end. Feed it with ``receive``, ask ``next_event`` until None, and send ``outgoing()``.

    Args:
        acceptor: does the cryptography.
        limit_bytes: longest frame accepted, before and after authentication.
    """

    __slots__ = ("_acceptor", "_ended", "_frames", "_handshake", "_open", "_out")

    def __init__(self, acceptor: Acceptor, *, limit_bytes: int = MAX_FRAME) -> None:
        self._acceptor = acceptor
        self._handshake = ServerHandshake(acceptor)
        self._frames = FrameBuffer(limit_bytes)
        self._out = b""
        self._open = self._ended = False

    @property
    def buffered(self) -> int:
        """Bytes received and not yet consumed."""
        return len(self._frames)

    @property
    def exhausted(self) -> bool:
        """True if ``next_event`` has nothing to say before more comes from the peer."""
        frames = self._frames
        return not (self._ended or frames.stored or frames.eof)

    @property
    def authenticated(self) -> bool:
        """True after the handshake."""
        return self._handshake.done

    def receive(self, data: bytes) -> None:
        """Bytes from the peer; ``b""`` is the end of its stream."""
        self._frames.receive(data)

    def take(self, data: bytes) -> ServerEvent | None:
        """``receive``, then ``next_event``, at less cost for what comes in one piece, as most does."""
        frames = self._frames
        if data == GREETING and not frames.stored and (out := self._handshake.greet()):
            self._out += out
            return None
        body = None if self._ended else frames.whole(data)
        if body is None:
            frames.receive(data)
            return self.next_event()
        return self._event(body)

    def outgoing(self) -> bytes:
        """Handshake bytes to send now; also after an exception, before closing."""
        out, self._out = self._out, b""
        return out

    def next_event(self) -> ServerEvent | None:
        """The next thing that happened, or None until more bytes come.

        Raises:
            ProtocolError: the connection is finished; send ``outgoing()`` and close.
        """
        if self._ended:
            return Ended(clean=False)
        frames = self._frames
        try:
            while (body := frames.frame()) is not None:
                if (event := self._event(body)) is not None:
                    return event
        except ProtocolError:
            self._ended = True
            raise
        return self._none()

    def _event(self, body: bytes) -> ServerEvent | None:
        """What a frame means; None for one of the handshake that is not its last."""
        try:
            if not self._open:
                return self._greeted(body)
            plain = self._acceptor.unseal(body)
        except HandshakeError as refusal:
            self._ended = True
            self._out += refusal.answer
            raise
        except Exception:
            self._ended = True
            raise
        try:
            request = messages.decode_request(plain)
        except ProtocolError as error:
            return Malformed(error.message)
        if type(request) is Close:
            self._ended = True
            return _BYE
        return request

    def _greeted(self, body: bytes) -> Authenticated | None:
        handshake = self._handshake
        self._out += handshake.feed(body)
        if not handshake.done:
            return None
        self._open = True
        return _authenticated(self._acceptor.client)

    def _none(self) -> ServerEvent | None:
        """There is no whole frame."""
        if self._frames.ended:
            self._ended = True
            return Ended(clean=False)
        return None

    def send(self, reply: Reply) -> bytes:
        """The bytes that carry ``reply``."""
        return self.send_encoded(messages.encode(reply))

    def send_encoded(self, reply: bytes) -> bytes:
        """The bytes that carry a reply which was encoded elsewhere."""
        if not self._open:
            raise InternalError("reply before the end of the handshake")
        return frame(self._acceptor.seal(reply))

    def send_dump(self, dump: DumpOut) -> Iterator[bytes | bytearray]:
        """The bytes that carry a dump, in pieces; send all of them before anything else."""
        return self.send_in_pieces(dump.length, dump.content())

    def send_in_pieces(self, length: int, content: Iterable[bytes]) -> Iterator[bytes | bytearray]:
        """As ``send_encoded``, for a reply of ``length`` octets that comes in pieces; see ``send_dump``."""
        if not self._open:
            raise InternalError("reply before the end of the handshake")
        whole, pieces = self._acceptor.seal_in_pieces(length, content)
        return chain((frame_head(whole),), pieces)


class ClientSession:
    """The client's end. Send ``start()``, feed ``receive``, ask ``next_event``.

    Args:
        initiator: does the cryptography.
        limit_bytes: longest frame accepted; dumps need more than the default.
    """

    def __init__(self, initiator: Initiator, *, limit_bytes: int = MAX_FRAME) -> None:
        self._initiator = initiator
        self._handshake = ClientHandshake(initiator)
        self._frames = FrameBuffer(limit_bytes)
        self._ended = False

    @property
    def authenticated(self) -> bool:
        """True after the handshake."""
        return self._handshake.done

    def start(self) -> bytes:
        """The client's whole handshake."""
        return self._handshake.start()

    def receive(self, data: bytes) -> None:
        """Bytes from the peer; ``b""`` is the end of its stream."""
        self._frames.receive(data)

    def next_event(self) -> ClientEvent | None:
        """The next thing that happened, or None until more bytes come.

        Raises:
            HandshakeError: the server refused the handshake.
            ProtocolError: it broke the protocol.
            Error: the crypto object refused what it sent.
        """
        if self._ended:
            return Ended(clean=False)
        try:
            return self._next()
        except Exception:
            self._ended = True
            raise

    def _next(self) -> ClientEvent | None:
        while not self._handshake.done:
            if not self._handshake.feed(self._frames):
                return self._end_or_wait()
            if self._handshake.done:
                return Authenticated("")
        body = self._frames.frame()
        if body is None:
            return self._end_or_wait()
        return messages.decode_reply(self._initiator.unseal(body))

    def _end_or_wait(self) -> Ended | None:
        if not self._frames.ended:
            return None
        self._ended = True
        return Ended(clean=False)

    def send(self, request: Request) -> bytes:
        """The bytes that carry ``request``."""
        if not self._handshake.done:
            raise InternalError("request before the end of the handshake")
        return frame(self._initiator.seal(messages.encode(request)))
