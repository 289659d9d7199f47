"""What a client of the credential cache does, step by step, without doing any of it: failover, deadlines, errors.

``ask`` is a generator. It yields steps (connect, exchange bytes, call something that blocks, pause) and is sent their
results, or thrown their OSError or TimeoutError. ``auks.py`` performs the steps on asyncio, ``auks_blocking.py`` on
plain sockets; the order of things is written once, here.

Rule 1: every step has a deadline, and the total has one; a cache that accepts and stays silent costs one deadline.
Rule 2: every verb may be repeated without harm, so any failure goes on to the next server (the original stops after
the handshake, and hangs for ever on a server that is stopped). Source: protocol notes, section 12.
Rule 3: a service ticket is remembered under a digest of the whole TGT it came from, never under a name: a forged
credential that merely says "alice" must not find hers.
"""

from __future__ import annotations

import hashlib
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from hipercow_slurm.errors import AccessError, CredentialError, Error, ProtocolError, UnavailableError
from hipercow_slurm.krb5 import krberror
from hipercow_slurm.krb5.auth import Initiator, ServiceTicket, service_ticket
from hipercow_slurm.values import KrbCred
from hipercow_slurm.wire import messages, records
from hipercow_slurm.wire.frames import MAX_FRAME
from hipercow_slurm.wire.messages import Reply, Request
from hipercow_slurm.wire.sendauth import HandshakeError
from hipercow_slurm.wire.session import Authenticated, ClientSession, Ended

DEFAULT_PORT = 12345
MAX_DUMP = 2**31 - 1
EARLY_S = 30  # a service ticket is replaced this long before it ends
REMEMBERED_TICKETS = 1000


@dataclass(frozen=True, slots=True)
class Server:
    """One cache: where it is and who it must prove to be. ``nat``: it runs in AUKS' NAT mode."""

    host: str
    principal: str
    port: int = DEFAULT_PORT
    nat: bool = False

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Limits:
    """Deadlines in seconds, and how often all servers are tried.

    Attributes:
        connect_s: one connection, also name resolution.
        read_s: silence of a connected server.
        kdc_s: getting a service ticket.
        total_s: everything together.
        rounds, delay_s: tries of the whole list, and the pause between them.
    """

    connect_s: float = 3.0
    read_s: float = 10.0
    kdc_s: float = 15.0
    total_s: float = 30.0
    rounds: int = 3
    delay_s: float = 1.0


# Steps: what the generator yields, with the result it wants to be sent


@dataclass(frozen=True, slots=True)
class Block:
    """Call ``function``, which blocks, within ``timeout_s``; wants its result."""

    function: Callable[[], Any]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Connect:
    """Connect to an IPv4 address; wants the socket."""

    address: tuple[str, int]
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Exchange:
    """Send ``data`` (perhaps none), then receive something; wants the bytes, ``b""`` at the end of the stream."""

    sock: socket.socket
    data: bytes
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait; wants None."""

    seconds: float


Step = Block | Connect | Exchange | Pause
Steps = Generator[Step, Any, Reply]


class Tickets:
    """Service tickets to use again, so that many connections ask the KDC once."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[bytes, str], ServiceTicket] = OrderedDict()

    def known(self, cred: KrbCred, service: str) -> ServiceTicket | None:
        """One that is good for a while yet."""
        found = self._known.get(self._key(cred, service))
        return found if found is not None and found.endtime > time.time() + EARLY_S else None

    def remember(self, cred: KrbCred, service: str, ticket: ServiceTicket) -> None:
        """Keep one; the oldest is forgotten when there are many."""
        self._known[self._key(cred, service)] = ticket
        while len(self._known) > REMEMBERED_TICKETS:
            self._known.popitem(last=False)

    def forget(self, cred: KrbCred, service: str) -> None:
        """Drop one a server did not like: its key may have changed."""
        self._known.pop(self._key(cred, service), None)

    def _key(self, cred: KrbCred, service: str) -> tuple[bytes, str]:
        return hashlib.sha256(cred.der).digest(), service


class _ClosedSilentlyError(UnavailableError):
    """The server closed after the handshake without a reply: no rule for us, or it just went down."""


def ask(servers: Sequence[Server], limits: Limits, tickets: Tickets, auth: KrbCred, request: Request) -> Steps:
    """Ask the first server that answers.

    Args:
        auth: TGT to authenticate with.

    Raises:
        UnavailableError: ``cache-unreachable``: none answered in time.
        AccessError: ``no-role``: the cache has no rule for us.
        Error: what the KDC or the handshake said, when trying again cannot help.
    """
    end = time.monotonic() + limits.total_s
    failures: list[str] = []
    for number in range(limits.rounds):
        if number:
            yield Pause(min(limits.delay_s, _left(end, failures)))
        hopeless: Error | None = None
        retry = False
        for server in servers:
            try:
                return (yield from _ask_one(server, limits, tickets, auth, request, end, failures))
            except (UnavailableError, OSError) as error:
                retry = True
                failures.append(f"{server}: {str(error) or 'no answer in time'}")
            except Error as error:
                hopeless = error
                failures.append(f"{server}: {error}")
        if hopeless is not None and not retry:
            raise hopeless
    raise _unreachable(failures)


def _ask_one(
    server: Server,
    limits: Limits,
    tickets: Tickets,
    auth: KrbCred,
    request: Request,
    end: float,
    failures: list[str],
) -> Steps:
    """Ask one server, with a second try where a first failure has a harmless explanation."""
    had_ticket = tickets.known(auth, server.principal) is not None
    try:
        return (yield from _once(server, limits, tickets, auth, request, end, failures))
    except _ClosedSilentlyError:
        pass
    except (CredentialError, ProtocolError):
        tickets.forget(auth, server.principal)
        if not had_ticket:
            raise
    try:
        return (yield from _once(server, limits, tickets, auth, request, end, failures))
    except _ClosedSilentlyError as error:
        raise AccessError(
            f"the cache {server} has no rule for {auth.client} (it closes right after the handshake)",
            code="no-role",
            hint="an administrator must add a rule to its ACL; with NAT configured on one side only it looks the same",
        ) from error


def _once(
    server: Server,
    limits: Limits,
    tickets: Tickets,
    auth: KrbCred,
    request: Request,
    end: float,
    failures: list[str],
) -> Steps:
    # First the ticket: the server's own handshake deadline should not run while the KDC thinks.
    ticket = tickets.known(auth, server.principal)
    if ticket is None:
        allowed = min(limits.kdc_s, _left(end, failures))
        ticket = yield Block(lambda: service_ticket(auth, server.principal), allowed)
        assert ticket is not None
        tickets.remember(auth, server.principal, ticket)
    sock: socket.socket = yield from _connect(server, limits, end, failures)
    local, remote = sock.getsockname()[0], sock.getpeername()[0]
    with (
        sock,
        Initiator(
            None,
            server.principal,
            local=socket.inet_aton(local),
            remote=socket.inet_aton(remote),
            service_ticket=ticket,
            nat=server.nat,
        ) as initiator,
    ):
        session = ClientSession(initiator, limit_bytes=MAX_DUMP if isinstance(request, messages.Dump) else MAX_FRAME)
        try:
            return (yield from _converse(session, sock, request, lambda: min(limits.read_s, _left(end, failures))))
        except HandshakeError as error:
            if error.answer:
                raise krberror.meaning(error.answer, server.principal) from error
            raise


def _connect(server: Server, limits: Limits, end: float, failures: list[str]) -> Generator[Step, Any, socket.socket]:
    """Every IPv4 address of the name in turn; AUKS has no IPv6."""
    found = yield Block(
        lambda: socket.getaddrinfo(server.host, server.port, socket.AF_INET, socket.SOCK_STREAM),
        min(limits.connect_s, _left(end, failures)),
    )
    for number, (*_, address) in enumerate(found, start=1):
        try:
            sock: socket.socket = yield Connect(address, min(limits.connect_s, _left(end, failures)))
            return sock
        except OSError:
            if number == len(found):
                raise
    raise OSError(f"{server.host} has no IPv4 address")


def _converse(session: ClientSession, sock: socket.socket, request: Request, timeout: Callable[[], float]) -> Steps:
    """Handshake, request, reply, CLOSE: the client closes first and so keeps TIME_WAIT on its side."""
    out = session.start()
    while (event := session.next_event()) is None:
        session.receive((yield Exchange(sock, out, timeout())))
        out = b""
    if isinstance(event, Ended):
        raise UnavailableError("the connection was closed in the handshake", code="cache-closed")
    assert isinstance(event, Authenticated)
    out = session.send(request)
    while (event := session.next_event()) is None:
        try:
            session.receive((yield Exchange(sock, out, timeout())))
        except ConnectionError:  # the server closed before our request came: a reset instead of an end
            session.receive(b"")
        out = b""
    if isinstance(event, Ended):
        raise _ClosedSilentlyError("the connection was closed without a reply", code="cache-closed")
    assert not isinstance(event, Authenticated)
    close = session.send(messages.Close())
    try:
        sock.send(close, socket.MSG_DONTWAIT)  # a hundred bytes into an empty buffer, and nobody waits for them
    except OSError:
        pass
    return event


def _left(end: float, failures: list[str]) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise _unreachable([*failures, "the time is over"])
    return left


def _unreachable(failures: list[str]) -> UnavailableError:
    told = list(dict.fromkeys(failures))
    return UnavailableError(
        f"no credential cache answered: {'; '.join(told) or 'none is configured'}",
        code="cache-unreachable",
        hint="is auksd running, and reachable from here?",
    )


# What the replies mean


def expect(reply: Reply, kind: type[Reply], verb: str, auth: KrbCred) -> None:
    """Raise what an ERROR reply means for a verb that had to succeed.

    Raises:
        AccessError: ``cache-refused``.
        ProtocolError: ``wire-unexpected``: a reply to another question.
    """
    if isinstance(reply, kind):
        return
    if isinstance(reply, messages.ErrorReply):
        raise AccessError(
            f"the credential cache refused to {verb} for {auth.client}",
            code="cache-refused",
            hint="AUKS carries no reasons; it stands in auksd's log, event auksd.request",
        )
    raise ProtocolError(f"{type(reply).__name__} in answer to {verb}", code="wire-unexpected")


def is_error(reply: Reply) -> bool:
    """True for the ERROR reply, which for GET and REMOVE means "not there, or not yours"."""
    return isinstance(reply, messages.ErrorReply)


def check_record(record: records.Record, uid: int, cred: KrbCred) -> KrbCred:
    """The credential of a GET reply, if the record is about it and about ``uid``.

    Raises:
        ProtocolError: ``wire-unexpected``.
    """
    if record.uid != uid or record.principal != cred.client:
        raise ProtocolError(
            f"asked for uid {uid}, got uid {record.uid}, {record.principal}, with a ticket of {cred.client}",
            code="wire-unexpected",
        )
    return cred
