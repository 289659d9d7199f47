"""KRB-CRED messages (RFC 4120 section 5.8) with their encrypted part in clear: parse, take apart, build.

This is the form in which AUKS carries credentials: enc-part has etype 0, no kvno, and its cipher octets are the DER
of EncKrbCredPart. Pure Python, no libkrb5: peers send these bytes, and krb5_rd_cred of MIT 1.20 crashes on some
that are well-formed (fewer infos than tickets; an info with a key only).

Rule 1: what ``parse`` accepts can be handed to everything else here, and to libkrb5 field by field.
Rule 2: times are unsigned 32-bit seconds; the signed type of libkrb5 ends in 2038, ours in 2106.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from hipercow_slurm.errors import ProtocolError
from hipercow_slurm.krb5 import der, fields
from hipercow_slurm.krb5.der import Reader
from hipercow_slurm.krb5.fields import MAX_TIME, read_body, read_integer
from hipercow_slurm.krb5.principal import Principal
from hipercow_slurm.values import KrbCred, TicketTimes

MAX_CRED = 32768

FORWARDABLE = 0x40000000
RENEWABLE = 0x00800000
INITIAL = 0x00400000


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """A ticket and what its holder must know to use it: one element of a KRB-CRED.

    Attributes:
        client, server: principal texts.
        keytype, key: encryption type (RFC 3961 number) and octets of the session key.
        flags: ticket flags as one number, bit 0 of RFC 4120 being the highest of 32.
        authtime, starttime, endtime, renew_till: unsigned 32-bit seconds; renew_till is 0 when not renewable.
        ticket_der: the Ticket itself, DER.
        addresses: (type, octets) the ticket is bound to; empty for an addressless one.
    """

    client: str
    server: str
    keytype: int
    key: bytes = field(repr=False)
    flags: int
    authtime: int
    starttime: int
    endtime: int
    renew_till: int
    ticket_der: bytes = field(repr=False)
    addresses: tuple[tuple[int, bytes], ...] = ()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Ticket is never pickled")


def parse(data: bytes) -> KrbCred:
    """Check every byte of a KRB-CRED and return it with its client and times.

    Stricter than RFC 4120 where nobody sends otherwise: etype 0; as many infos as tickets, at least one; client,
    server, key and times in each info; one client in all; each ticket issued for the server its info names; the
    first ticket is the client's own TGT (krbtgt/R@R), the others are krbtgt tickets too (cross-realm).

    Raises:
        ProtocolError: anything wrong, with what and where.
    """
    octets = bytes(data)  # a bytearray could still change under us
    return _summary(octets, _decode(octets))


def tickets(cred: KrbCred) -> list[Ticket]:
    """The tickets of a KRB-CRED, the client's own TGT first."""
    return _decode(cred.der)


def build(tickets: Sequence[Ticket]) -> KrbCred:
    """Make a KRB-CRED of tickets, the client's own TGT first; no timestamp, nonce or addresses of the message.

    Raises:
        ProtocolError: the tickets do not make a message that ``parse`` accepts.
    """
    return parse(_encode(tickets))


# Decoding


def _decode(data: bytes) -> list[Ticket]:
    der.check_message(data, 22, "KRB-CRED", limit=MAX_CRED)
    message = Reader(data, "KRB-CRED").enter(der.application(22)).enter(der.SEQUENCE)
    message.content(der.context(0))  # pvno and msg-type: check_message has seen them
    message.content(der.context(1))
    listed = read_body(message.enter(der.context(2), "KRB-CRED tickets"))
    encrypted = read_body(message.enter(der.context(3), "KRB-CRED enc-part"))
    message.finish()
    bodies = []
    while listed:
        bodies.append(listed.element(der.application(1)))
    infos = _infos(_clear_text(encrypted))
    if not bodies or len(bodies) != len(infos):
        raise ProtocolError(f"KRB-CRED: {len(bodies)} tickets and {len(infos)} infos")
    found = [_ticket(body, info) for body, info in zip(bodies, infos, strict=True)]
    _check_together(found)
    return found


def _clear_text(encrypted: Reader) -> bytes:
    """Octets of an EncryptedData that is not encrypted: etype 0, and no kvno [1], as there is no key."""
    if read_integer(encrypted.enter(der.context(0))) != 0:
        raise encrypted.error("it is encrypted; only etype 0 is taken")
    octets = fields.read_octets(encrypted.enter(der.context(2)))
    encrypted.finish()
    return octets


def _infos(data: bytes) -> list[Reader]:
    """Readers of the KrbCredInfo fields in an EncKrbCredPart; its other fields are checked and dropped."""
    outer = Reader(data, "EncKrbCredPart")
    body = read_body(outer.enter(der.application(29)))
    outer.finish()
    infos = list(read_body(body.enter(der.context(0), "KrbCredInfo")).items(der.SEQUENCE))
    if body.next_is(der.context(1)):  # nonce: UInt32, which some senders write as a negative number
        read_integer(body.enter(der.context(1)), -(2**31), MAX_TIME)
    if body.next_is(der.context(2)):
        fields.read_time(body.enter(der.context(2)))
    if body.next_is(der.context(3)):
        read_integer(body.enter(der.context(3)), 0, 999_999)
    for tag in (der.context(4), der.context(5)):
        if body.next_is(tag):
            fields.read_address(read_body(body.enter(tag)))
    body.finish()
    return infos


def _ticket(body: bytes, info: Reader) -> Ticket:
    """One ticket with its KrbCredInfo; fields that RFC 4120 makes optional and we need are required."""
    keytype, octets = fields.read_key(info.enter(der.context(0)))
    realm = fields.read_text(info.enter(der.context(1)))
    client = fields.read_principal(info.enter(der.context(2)), realm)
    flags = fields.read_flags(info.enter(der.context(3))) if info.next_is(der.context(3)) else 0
    times = {
        tag: fields.read_time(info.enter(der.context(tag))) for tag in (4, 5, 6, 7) if info.next_is(der.context(tag))
    }
    realm = fields.read_text(info.enter(der.context(8)))
    server = fields.read_principal(info.enter(der.context(9)), realm)
    addresses: tuple[tuple[int, bytes], ...] = ()
    if info.next_is(der.context(10)):
        listed = read_body(info.enter(der.context(10)))
        addresses = tuple(fields.read_address(one) for one in listed.items(der.SEQUENCE))
    info.finish()

    starttime = times.get(5, times.get(4))  # RFC 4120: no starttime means authtime
    if starttime is None or 6 not in times:
        raise info.error("times are missing")
    if times[6] < starttime:
        raise info.error("endtime is before starttime")
    if _server_of(body) != server:
        raise info.error("the ticket is for another server")
    return Ticket(
        client=str(client),
        server=str(server),
        keytype=keytype,
        key=octets,
        flags=flags,
        authtime=times.get(4, starttime),
        starttime=starttime,
        endtime=times[6],
        renew_till=times.get(7, 0),
        ticket_der=body,
        addresses=addresses,
    )


def _server_of(body: bytes) -> Principal:
    """Check the shape of a Ticket (RFC 4120 section 5.3); the server it was issued for."""
    ticket = read_body(Reader(body, "Ticket").enter(der.application(1)))
    read_integer(ticket.enter(der.context(0)), 5, 5)
    realm = fields.read_text(ticket.enter(der.context(1)))
    server = fields.read_principal(ticket.enter(der.context(2)), realm)
    encrypted = read_body(ticket.enter(der.context(3)))
    ticket.finish()
    read_integer(encrypted.enter(der.context(0)))
    if encrypted.next_is(der.context(1)):  # kvno: an RODC's has the high bit set, and Windows writes it signed
        read_integer(encrypted.enter(der.context(1)), -(2**31), MAX_TIME)
    if not fields.read_octets(encrypted.enter(der.context(2))):
        raise encrypted.error("an empty ticket")
    encrypted.finish()
    return server


def _check_together(found: list[Ticket]) -> None:
    """What must hold between the tickets of one message."""
    if any(one.client != found[0].client for one in found):
        raise ProtocolError("KRB-CRED: tickets of different clients")
    servers = [Principal.parse(one.server) for one in found]
    realm = Principal.parse(found[0].client).realm
    if not servers[0].is_local_tgs or servers[0].realm != realm:
        raise ProtocolError(f"KRB-CRED: the first ticket is for {servers[0]}, not a TGT of {realm}")
    if not all(server.is_tgs for server in servers):
        raise ProtocolError("KRB-CRED: a further ticket is not a cross-realm TGT")


def _summary(data: bytes, found: list[Ticket]) -> KrbCred:
    times = TicketTimes(
        starttime=min(one.starttime for one in found),
        endtime=min(one.endtime for one in found),
        renew_till=max(one.renew_till for one in found),
    )
    return KrbCred(
        der=data,
        client=found[0].client,
        times=times,
        tickets=len(found),
        addressless=not found[0].addresses,
    )


# Encoding


def _encode(found: Sequence[Ticket]) -> bytes:
    infos = der.sequence(der.sequence_of([_encode_info(one) for one in found]))
    encrypted = der.sequence(der.integer(0), None, fields.octets(der.value(der.application(29), infos)))
    listed = der.sequence_of([one.ticket_der for one in found])
    return der.value(der.application(22), der.sequence(der.integer(5), der.integer(22), listed, encrypted))


def _encode_info(one: Ticket) -> bytes:
    client, server = Principal.parse(one.client), Principal.parse(one.server)
    return der.sequence(
        fields.key(one.keytype, one.key),
        fields.text(client.realm),
        fields.principal(client),
        fields.flags(one.flags),
        fields.time(one.authtime),
        fields.time(one.starttime),
        fields.time(one.endtime),
        fields.time(one.renew_till) if one.renew_till else None,
        fields.text(server.realm),
        fields.principal(server),
        fields.addresses(one.addresses) if one.addresses else None,
    )
