"""Frozen values that cross module borders. Pure data: no I/O, no clock, no libkrb5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True, slots=True)
class TicketTimes:
    """Times of a credential as in krb5_ticket_times; all in seconds since 1970, unsigned 32 bit.

    ``renew_till`` is 0 for a ticket that cannot be renewed.
    """

    starttime: int
    endtime: int
    renew_till: int


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class KrbCred:
    """A KRB-CRED message (RFC 4120 section 5.8) whose encrypted part is in clear (etype 0).

    It holds session keys: it never prints, never pickles, never compares by accident.
    Whoever makes one has parsed and checked ``der`` (see ``krb5.krbcred``), or had libkrb5 write it (``krb5.renewal``).

    Attributes:
        der: the DER bytes, at most 32768.
        client: full principal text of the first ticket, ``alice@REALM``.
        times: starttime and endtime are the minimum, renew_till the maximum over the tickets.
        tickets: number of tickets inside (more than one: cross-realm).
        addressless: False if the first ticket is bound to addresses.
    """

    der: bytes
    client: str
    times: TicketTimes
    tickets: int = 1
    addressless: bool = True

    def __repr__(self) -> str:
        return f"<KrbCred {self.client} {len(self.der)} bytes endtime={self.times.endtime}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a KrbCred is never pickled")
