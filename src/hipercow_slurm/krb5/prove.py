"""Does a TGT that somebody sent work, and whose is it? Blocking: the KDC is asked."""

from __future__ import annotations

from hipercow_slurm.errors import AccessError, CredentialError, ProtocolError
from hipercow_slurm.krb5.auth import Acceptor, Initiator, service_ticket
from hipercow_slurm.values import KrbCred


def prove(cred: KrbCred, *, keytab: str, service: str) -> str:
    """Use the TGT as its owner would, towards ourselves; the principal that the KDC says it belongs to.

    With the session key that came with it, a ticket for our own service is asked for, and opened with our own key.
    So the KDC knows the ticket now, it is the genuine KDC, the sender has the session key, and the name is the one
    that stands inside of the ticket, where nobody but the KDC can write.

    Raises:
        CredentialError: ``expired``, ``clock-skew``, ``ticket-refused``: the KDC does not take it.
        AccessError: ``kdc-not-genuine``: the ticket for us was not made with our key.
        UnavailableError: ``kdc-unreachable``. ConfigError: ``keytab``.
    """
    try:
        ticket = service_ticket(cred, service)
    except (AccessError, ProtocolError) as error:
        raise CredentialError(
            "the KDC does not take this ticket", code="ticket-refused", hint="get a new ticket: kinit"
        ) from error
    try:
        with (
            Initiator(None, service, local=None, remote=None, service_ticket=ticket) as user,
            Acceptor(keytab, service, local=None, remote=None) as ours,
        ):
            user.ap_rep(ours.ap_req(user.ap_req()))
            owner = ours.client
    except (CredentialError, ProtocolError) as error:
        raise AccessError("the KDC that knows this ticket does not know our key", code="kdc-not-genuine") from error
    if owner != cred.client:
        raise CredentialError(f"the ticket is not {cred.client}'s", code="ticket-refused")
    return owner
