"""A TGT renewed at the KDC, and the cross-realm tickets beside it. Blocks; callers use threads.

One call of libkrb5 (``glue.py``) does it, from KRB-CRED to KRB-CRED, so that a thread needs the interpreter only
before and after. Rule 1: that call reads with krb5_rd_cred, which crashes on some messages. What goes in is a
``KrbCred``: ``krbcred.parse`` has checked every byte of it, or this module has had it made. Rule 2: what comes out was
not read from a peer but written by libkrb5, of values that the KDC has sealed for us; what ``krbcred.parse`` would
refuse of such values is refused here, by the values.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from hipercow_slurm.errors import AccessError, CredentialError, Error, ProtocolError
from hipercow_slurm.krb5 import calls, codes, krbcred, line
from hipercow_slurm.krb5.creds import ticket_for
from hipercow_slurm.krb5.krbcred import RENEWABLE, Ticket
from hipercow_slurm.krb5.lib import NULL, context, error_of, ffi
from hipercow_slurm.values import KrbCred, TicketTimes

UINT32 = 0xFFFFFFFF  # libkrb5's times are signed, ours are not


def renew(cred: KrbCred, *, often: bool = False) -> KrbCred:
    """Renew a TGT at the KDC, and get cross-realm tickets beside it anew where they would end before it.

    A cross-realm ticket that the KDC does not give any more is kept while it is valid.

    Args:
        often: this thread does that all the time, and keeps a line to the KDC (``line.py``).

    Raises:
        CredentialError: ``not-renewable``, ``renew-exhausted`` (renew_till has passed), ``expired``, ``clock-skew``,
            ``account-locked``.
        UnavailableError: ``kdc-unreachable``.
        AccessError: ``kdc-refused``.
        ProtocolError: the KDC gave what ``krbcred.parse`` would not take.
    """
    if cred.times.renew_till <= time.time() and (why := _hopeless(cred)):
        raise why
    own = calls.own.scratch
    asking = context()
    kept = line.ready(cred.client) if often else NULL
    code = calls.renew(asking, kept, cred.der, len(cred.der), own.out, calls.OUT, own.made, own.told)
    if code:
        raise refused(cred, code)
    made = own.made[0]
    octets = bytes(ffi.buffer(own.out, min(made, calls.OUT)))
    ffi.memmove(own.out, bytes(len(octets)), len(octets))  # where it does not stay: there is a key in it
    renewed = taken(cred.client, octets, ffi.unpack(own.told, calls.TOLD))
    if cred.tickets == 1:
        return renewed
    (tgt,) = krbcred.tickets(renewed)
    return krbcred.build([tgt, *_as_long(krbcred.tickets(cred)[1:], tgt)])


def refused(cred: KrbCred, code: int) -> Error:
    """Our error for what libkrb5 said in this thread just now."""
    return _hopeless(cred) or error_of(code, f"renew the TGT of {cred.client}", codes.TGS)


def taken(client: str, der: bytes, told: Sequence[int]) -> KrbCred:
    """The credential that ``calls.renew`` made, if it is one.

    Args:
        told: see ``glue.py``.

    Raises:
        ProtocolError: see ``renew``.
    """
    if len(der) > krbcred.MAX_CRED:
        raise ProtocolError(f"the KDC gave a ticket of {len(der)} bytes, where at most {krbcred.MAX_CRED} are taken")
    authtime, starttime, endtime, renew_till, keytype, key_length, bound = told
    starttime = (starttime or authtime) & UINT32  # RFC 4120: no starttime means authtime
    times = TicketTimes(starttime, endtime & UINT32, renew_till & UINT32)
    krbcred.check_key(keytype, key_length)
    if not starttime:
        raise ProtocolError("the KDC gave a ticket without times")
    krbcred.check_order(starttime, times.endtime)
    return KrbCred(der, client, times, addressless=not bound)


def _hopeless(cred: KrbCred) -> Error | None:
    """Why no KDC would renew this, if its own clear part says so."""
    tgt = krbcred.tickets(cred)[0]
    doing = f"renew the TGT of {tgt.client}"
    if not tgt.flags & RENEWABLE or not tgt.renew_till:
        return CredentialError(f"cannot {doing}: it is not renewable", code="not-renewable", hint=codes.EXPIRED.hint)
    if tgt.renew_till <= time.time():
        return CredentialError(
            f"cannot {doing}: its renewable time has passed", code="renew-exhausted", hint=codes.EXPIRED.hint
        )
    return None


def _as_long(others: list[Ticket], tgt: Ticket) -> Iterator[Ticket]:
    """Cross-realm tickets that last as long as the TGT, got anew where needed; the old one if the KDC refuses."""
    for one in others:
        new = one
        if one.endtime < tgt.endtime:
            # A KDC that is down is an error, so that the caller tries again; one that refuses would go on doing so.
            with contextlib.suppress(AccessError, CredentialError):
                new = ticket_for([tgt], one.server)
        if new.endtime > time.time():
            yield new
