"""Reading the bytes of a FILE credential cache, format version 4, without libkrb5.

For files that other programs left behind and that must not be trusted: every length is checked before anything is
copied, and no byte may be left over. Format: MIT "Credential cache file format", all numbers big-endian.
"""

from __future__ import annotations

import struct

from hipercow_slurm.errors import CredentialError, ProtocolError, RequestError
from hipercow_slurm.krb5 import krbcred
from hipercow_slurm.krb5.krbcred import Ticket
from hipercow_slurm.krb5.principal import Principal
from hipercow_slurm.values import KrbCred

MAX_FILE = 1024 * 1024
CONF_REALM = b"X-CACHECONF:"  # MIT keeps settings as credentials of this realm

_TIMES = struct.Struct(">IIII")


def parse(data: bytes) -> tuple[str, list[Ticket]]:
    """The owner of a cache and its tickets in order; MIT's settings and user-to-user tickets are passed over.

    Raises:
        ProtocolError: ``ccache-malformed``: with what and where.
    """
    if len(data) > MAX_FILE:
        raise _bad(f"{len(data)} bytes are no credential cache")
    reader = _Reader(data)
    if reader.take(2) != b"\x05\x04":
        raise _bad("it does not begin with 05 04, version 4")
    reader.take(reader.u16())  # header fields: a clock offset, which says nothing about the tickets
    owner = reader.principal()
    if owner is None:
        raise _bad("it has no owner")
    found = []
    while not reader.at_end():
        one = _ticket(reader)
        if one is not None:
            found.append(one)
    return owner, found


def read_tgt(data: bytes) -> KrbCred:
    """The owner's TGT, and one cross-realm TGT if there is any; of several, the last to end.

    Raises:
        ProtocolError: as ``parse``, and as ``krbcred.parse`` for what is in the tickets.
        CredentialError: ``no-tgt``.
    """
    owner, found = parse(data)
    return select_tgt(owner, found, "it")


def select_tgt(owner: str, found: list[Ticket], cache: str) -> KrbCred:
    """What AUKS takes of a cache (``cache`` is its name, for the error); see ``read_tgt``."""
    realm = Principal.parse(owner).realm
    latest = sorted((one for one in found if one.client == owner), key=lambda one: one.endtime, reverse=True)
    servers = [(Principal.parse(one.server), one) for one in latest]
    local = [one for server, one in servers if server == Principal(("krbtgt", realm), realm)]
    cross = [one for server, one in servers if server.is_tgs and not server.is_local_tgs]
    if not local:
        raise CredentialError(f"{cache} holds no TGT of {owner}", code="no-tgt", hint="get a ticket: kinit")
    return krbcred.build([local[0], *cross[:1]])


def _ticket(reader: _Reader) -> Ticket | None:
    """One credential; None for a setting, and for a user-to-user ticket, which is good for one other session only."""
    client, server = reader.principal(), reader.principal()
    keytype, key = reader.u16(), reader.data()
    authtime, starttime, endtime, renew_till = _TIMES.unpack(reader.take(_TIMES.size))
    user_to_user = reader.take(1) != b"\0"
    flags = reader.u32()
    addresses = tuple((reader.u16(), reader.data()) for _ in range(reader.count()))
    for _ in range(reader.count()):  # authorization data beside the ticket: nobody writes it
        reader.u16()
        reader.data()
    ticket = reader.data()
    second_ticket = reader.data()
    if client is None or server is None or user_to_user or second_ticket:
        return None
    return Ticket(
        client=client,
        server=server,
        keytype=keytype - 0x10000 if keytype >= 0x8000 else keytype,
        key=key,
        flags=flags,
        authtime=authtime,
        starttime=starttime or authtime,
        endtime=endtime,
        renew_till=renew_till,
        ticket_der=ticket,
        addresses=addresses,
    )


class _Reader:
    """Takes the file apart; every method refuses to read past the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def at_end(self) -> bool:
        return self._at == len(self._data)

    def take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            raise _bad(f"it ends at byte {len(self._data)}, {count} bytes were to come at {self._at}")
        self._at += count
        return self._data[self._at - count : self._at]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def data(self) -> bytes:
        return self.take(self.u32())

    def count(self) -> int:
        """A number of items, each of which takes at least 6 bytes."""
        number = self.u32()
        if number > (len(self._data) - self._at) // 6:
            raise _bad(f"{number} items do not fit at byte {self._at}")
        return number

    def principal(self) -> str | None:
        """A principal's text; None for the name of a setting."""
        at = self._at
        self.u32()  # name type: says nothing
        number = self.u32()
        if number > 16:
            raise _bad(f"a principal of {number} parts at byte {at}")
        realm, *parts = [self.data() for _ in range(number + 1)]
        if realm == CONF_REALM:
            return None
        try:
            return str(Principal.of([part.decode() for part in parts], realm.decode()))
        except (UnicodeDecodeError, RequestError) as error:
            raise _bad(f"a bad principal at byte {at}: {error}") from error


def _bad(why: str) -> ProtocolError:
    return ProtocolError(f"not a good credential cache: {why}", code="ccache-malformed")
