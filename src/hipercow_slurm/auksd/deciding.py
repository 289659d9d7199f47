"""What the cache decides: who may do what, what is taken, what replaces what. Pure: time is an argument.

Source: protocol notes, sections 7, 8 and 10.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hipercow_slurm.auksd.acl import Role
from hipercow_slurm.errors import AccessError, CredentialError, RequestError
from hipercow_slurm.store.base import Entry
from hipercow_slurm.values import KrbCred
from hipercow_slurm.wire.records import MAX_PRINCIPAL


class Reach(Enum):
    """Whose credentials a role may touch with a verb."""

    NONE = 0
    OWN = 1
    ANY = 2
    ON_NODE = 3


# verb -> role -> reach, NONE where the role is missing; verbs that are not here need any role at all
MAY: dict[str, dict[Role, Reach]] = {
    "add": {Role.GUEST: Reach.OWN, Role.USER: Reach.OWN, Role.ADMIN: Reach.ANY},
    "get": {Role.USER: Reach.OWN, Role.ADMIN: Reach.ANY, Role.NODE: Reach.ON_NODE},
    "remove": {Role.USER: Reach.OWN, Role.ADMIN: Reach.ANY},
    "dump": {Role.ADMIN: Reach.ANY},
}


@dataclass(frozen=True, slots=True)
class Requester:
    """A proven principal, its role and the address it comes from."""

    principal: str
    role: Role
    peer: str


def check_may(who: Requester, verb: str, owner: str | None) -> None:
    """Refuse ``verb`` on a credential of ``owner`` (None: of everybody).

    Whether a node has a job of the owner is not asked here: see ``Service._get``.

    Raises:
        AccessError: ``role-denied`` or ``principal-mismatch``.
    """
    reach = MAY[verb].get(who.role, Reach.NONE)
    if reach is Reach.NONE:
        raise AccessError(f"role {who.role.value} may not {verb}", code="role-denied")
    if reach is Reach.OWN and owner != who.principal:
        raise AccessError(f"{who.principal} may not {verb} a credential of {owner}", code="principal-mismatch")


def check_cred(cred: KrbCred, now: float) -> None:
    """Refuse a credential no node could use.

    Raises:
        CredentialError: ``addressful`` or ``expired``.
        RequestError: its principal does not fit a record.
    """
    if len(cred.client.encode()) > MAX_PRINCIPAL:
        raise RequestError(f"the principal is longer than {MAX_PRINCIPAL} bytes", code="principal-too-long")
    if not cred.addressless:
        raise CredentialError(
            f"the ticket of {cred.client} is bound to addresses",
            code="addressful",
            hint="get one without: noaddresses = true in krb5.conf",
        )
    if cred.times.endtime <= now:
        raise CredentialError(f"the ticket of {cred.client} has expired", code="expired")


def replaces(old: Entry | None, new: Entry, now: float) -> bool:
    """True if ``new`` takes the place of ``old``.

    The later renew_till wins, then the later endtime. An expired one never keeps its place: the original would have
    cleaned it away by then.
    """
    if old is None or old.times.endtime <= now:
        return True
    if new.times.renew_till != old.times.renew_till:
        return new.times.renew_till > old.times.renew_till
    return new.times.endtime >= old.times.endtime
