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
from typing import NamedTuple, NoReturn

from hipercow_slurm.errors import ProtocolError
from hipercow_slurm.krb5 import asn1
from hipercow_slurm.krb5.der import refusing
from hipercow_slurm.krb5.principal import Principal
from hipercow_slurm.values import KrbCred, TicketTimes

TICKET, KRB_CRED, ENC_KRB_CRED_PART = 1, 22, 29
MAX_CRED = 32768
MAX_KEY = 64

# Key lengths of the encryption types in use (RFC 3961, 3962, 4757, 6803, 8009): libkrb5 trusts the length it is told.
KEY_LENGTH = {16: 24, 17: 16, 18: 32, 19: 16, 20: 32, 23: 16, 25: 16, 26: 32}

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
    with refusing("KRB-CRED"):
        data = _encode(tickets)
    return _summary(data, _decode(data))


def check_key(keytype: int, length: int) -> None:
    """Refuse a session key (ProtocolError) whose length does not fit its type."""
    if keytype == 0 or not 0 < length <= MAX_KEY:
        raise ProtocolError("KrbCredInfo: a session key of type 0 or of an impossible length")
    if KEY_LENGTH.get(keytype, length) != length:
        raise ProtocolError("KrbCredInfo: a session key whose length does not fit its type")


def check_order(starttime: int, endtime: int) -> None:
    """Refuse a ticket (ProtocolError) that ends before it starts."""
    if endtime < starttime:
        raise ProtocolError("KrbCredInfo: endtime is before starttime")


# Decoding


class _Named(NamedTuple):
    """A ticket with the names in it, so that they are parsed once."""

    ticket: Ticket
    client: Principal
    server: Principal


def _decode(data: bytes) -> list[Ticket]:
    """The tickets of a message, which is checked to the last byte."""
    if len(data) > MAX_CRED:
        raise ProtocolError(f"KRB-CRED: {len(data)} bytes where at most {MAX_CRED} are taken")
    message = asn1.load(asn1.KrbCred, data, "KRB-CRED", application=KRB_CRED)
    encrypted = message.enc_part
    if encrypted.etype != 0 or encrypted.kvno is not None:
        raise ProtocolError("KRB-CRED: it is encrypted; only etype 0 without kvno is taken")
    part = asn1.load(asn1.EncKrbCredPart, encrypted.cipher, "EncKrbCredPart", application=ENC_KRB_CRED_PART)
    bodies, infos = message.tickets, part.ticket_info
    if not bodies or len(bodies) != len(infos):
        raise ProtocolError(f"KRB-CRED: {len(bodies)} tickets and {len(infos)} infos")
    found = [_ticket(asn1.encoded(body), info) for body, info in zip(bodies, infos, strict=True)]
    _check_together(found)
    return [one.ticket for one in found]


def _ticket(der: bytes, info: asn1.KrbCredInfo) -> _Named:
    """One ticket with its KrbCredInfo."""
    body = asn1.load(asn1.Ticket, der, "Ticket", application=TICKET)
    client = asn1.name_of(info.pname, info.prealm, "KrbCredInfo")
    server = asn1.name_of(info.sname, info.srealm, "KrbCredInfo")
    if asn1.name_of(body.sname, body.realm, "Ticket") != server:
        raise ProtocolError("KrbCredInfo: the ticket is for another server")
    if not body.enc_part.cipher:
        raise ProtocolError("Ticket: an empty ticket")
    keytype, octets = _key(info.key)
    with refusing("KrbCredInfo"):
        flags = asn1.flags_of(info.flags)
        endtime = asn1.seconds(info.endtime)
        renew_till = asn1.seconds(info.renew_till) if info.renew_till else 0
        authtime = asn1.seconds(info.authtime) if info.authtime else None
        # RFC 4120: no starttime means authtime
        starttime = asn1.seconds(info.starttime) if info.starttime else authtime
    if starttime is None:
        raise ProtocolError("KrbCredInfo: times are missing")
    check_order(starttime, endtime)
    ticket = Ticket(
        client=str(client),
        server=str(server),
        keytype=keytype,
        key=octets,
        flags=flags,
        authtime=starttime if authtime is None else authtime,
        starttime=starttime,
        endtime=endtime,
        renew_till=renew_till,
        ticket_der=der,
        addresses=tuple((one.kind, one.octets) for one in info.caddr or ()),
    )
    return _Named(ticket, client, server)


def _key(value: asn1.TypedOctets) -> tuple[int, bytes]:
    """Type and octets of a session key, whose length must fit its type."""
    keytype, octets = value.kind, value.octets
    check_key(keytype, len(octets))
    return keytype, octets


def _check_together(found: list[_Named]) -> None:
    """What must hold between the tickets of one message."""
    _, client, first = found[0]
    if any(one.client != client for one in found):
        raise ProtocolError("KRB-CRED: tickets of different clients")
    if not first.is_local_tgs or first.realm != client.realm:
        raise ProtocolError(f"KRB-CRED: the first ticket is for {first}, not a TGT of {client.realm}")
    if not all(one.server.is_tgs for one in found):
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
    part = asn1.EncKrbCredPart(
        ticket_info=[_info(one) for one in found], nonce=None, timestamp=None, usec=None, s_address=None, r_address=None
    )
    message = asn1.KrbCred(
        pvno=5,
        msg_type=KRB_CRED,
        tickets=[asn1.value_of(one.ticket_der) for one in found],
        enc_part=asn1.EncryptedData(etype=0, kvno=None, cipher=asn1.dump(part, application=ENC_KRB_CRED_PART)),
    )
    return asn1.dump(message, application=KRB_CRED)


def _info(one: Ticket) -> asn1.KrbCredInfo:
    """The KrbCredInfo of a ticket."""
    client, server = Principal.parse(one.client), Principal.parse(one.server)
    return asn1.KrbCredInfo(
        key=asn1.TypedOctets(kind=one.keytype, octets=one.key),
        prealm=asn1.string(client.realm),
        pname=asn1.name(client),
        flags=asn1.flags(one.flags),
        authtime=asn1.time(one.authtime),
        starttime=asn1.time(one.starttime),
        endtime=asn1.time(one.endtime),
        renew_till=asn1.time(one.renew_till) if one.renew_till else None,
        srealm=asn1.string(server.realm),
        sname=asn1.name(server),
        caddr=[asn1.TypedOctets(kind=kind, octets=octets) for kind, octets in one.addresses] or None,
    )
