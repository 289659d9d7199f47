"""Between our values and libkrb5's structs: principals and credentials, field by field.

Credentials never pass through krb5_rd_cred or any other decoder of libkrb5: the struct is filled from what
``krbcred`` has checked.
"""

from __future__ import annotations

from typing import Any

from hipercow_slurm.krb5 import codes
from hipercow_slurm.krb5.krbcred import Ticket
from hipercow_slurm.krb5.lib import NULL, check, context, ffi, lib, own
from hipercow_slurm.krb5.principal import Principal


def principal(text: str) -> Any:
    """An owned krb5_principal of a checked principal text."""
    holder = ffi.new("krb5_principal *")
    code = lib.krb5_parse_name(context(), text.encode("utf-8"), holder)
    check(code, f"parse the principal {text!r}", codes.NAME)
    return own(holder[0], lib.krb5_free_principal)


def principal_text(pointer: Any) -> str:
    """Text of a krb5_principal.

    Raises:
        RequestError: code ``bad-principal``: a name we would not take from anyone.
    """
    components, realm = octets_of(pointer)
    return str(Principal.of([text(one) for one in components], text(realm)))


def octets_of(pointer: Any) -> tuple[tuple[bytes, ...], bytes]:
    """Components and realm of a krb5_principal, as they are."""
    parts = pointer.data
    return tuple([_octets(parts[number]) for number in range(pointer.length)]), _octets(pointer.realm)


def text(octets: bytes) -> str:
    """A part of a name; one that is not UTF-8 becomes one with U+FFFD, which no rule or account matches."""
    return octets.decode("utf-8", "replace")


def creds(one: Ticket) -> tuple[Any, list[Any]]:
    """A krb5_creds filled from a ticket, and what must be kept alive while it is used; nothing in it is libkrb5's."""
    client, server = principal(one.client), principal(one.server)
    key, body = ffi.new("unsigned char[]", one.key), ffi.from_buffer(one.ticket_der)
    addresses, keep = _addresses(one.addresses)
    result = ffi.new("krb5_creds *")
    result.client, result.server = client, server
    result.keyblock.enctype, result.keyblock.length, result.keyblock.contents = one.keytype, len(one.key), key
    times = result.times
    times.authtime, times.starttime = _signed(one.authtime), _signed(one.starttime)
    times.endtime, times.renew_till = _signed(one.endtime), _signed(one.renew_till)
    result.ticket_flags = _signed(one.flags)
    result.addresses = addresses
    result.ticket.length, result.ticket.data = len(one.ticket_der), ffi.cast("char *", body)
    return result, [client, server, key, body, addresses, *keep]


def ticket(found: Any) -> Ticket:
    """A ticket out of a krb5_creds."""
    times = found.times
    addresses = []
    if found.addresses != NULL:
        number = 0
        while found.addresses[number] != NULL:
            address = found.addresses[number]
            addresses.append((address.addrtype, bytes(ffi.buffer(address.contents, address.length))))
            number += 1
    return Ticket(
        client=principal_text(found.client),
        server=principal_text(found.server),
        keytype=found.keyblock.enctype,
        key=bytes(ffi.buffer(found.keyblock.contents, found.keyblock.length)),
        flags=_unsigned(found.ticket_flags),
        authtime=_unsigned(times.authtime),
        starttime=_unsigned(times.starttime or times.authtime),
        endtime=_unsigned(times.endtime),
        renew_till=_unsigned(times.renew_till),
        ticket_der=bytes(ffi.buffer(found.ticket.data, found.ticket.length)),
        addresses=tuple(addresses),
    )


def address(kind: int, octets: bytes) -> tuple[Any, Any]:
    """A krb5_address, and the buffer it points to."""
    contents = ffi.new("unsigned char[]", octets)
    result = ffi.new("krb5_address *")
    result.addrtype, result.length, result.contents = kind, len(octets), contents
    return result, contents


def _addresses(values: tuple[tuple[int, bytes], ...]) -> tuple[Any, list[Any]]:
    """A NULL-ended array of addresses (NULL itself for none), and what it points to."""
    if not values:
        return NULL, []
    made = [address(kind, octets) for kind, octets in values]
    return ffi.new("krb5_address *[]", [one for one, _ in made] + [NULL]), [part for one in made for part in one]


def _octets(data: Any) -> bytes:
    length = data.length
    return bytes(ffi.unpack(data.data, length)) if length else b""


def _signed(value: int) -> int:
    """32 unsigned bits as libkrb5's signed types hold them: its times wrap in 2038, ours in 2106."""
    return value - 2**32 if value >= 2**31 else value


def _unsigned(value: int) -> int:
    return int(value) & 0xFFFFFFFF
