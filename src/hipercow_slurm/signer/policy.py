"""Whom the signer signs for: one pure function, no I/O, no clock.

Whoever holds a Slurm token for root or the Slurm user owns the cluster, and Slurm itself hardly looks (measured,
22.05.8): it takes ``sun="0"`` for root, and runs a job of an unknown user as nobody. So everything is checked here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hipercow_slurm.errors import AccessError
from hipercow_slurm.signer.config import MAX_LIFETIME_S

# Never numeric: Slurm reads "0" as uid 0. fullmatch, because $ would let a newline through.
LOCALNAME = re.compile(r"[a-z_][a-z0-9_-]*")

# root; nobody and its 16-bit form; what chown and setuid take for "no change".
NEVER_UIDS = frozenset({0, 65534, 65535, 0xFFFFFFFE, 0xFFFFFFFF})
NEVER_NAMES = frozenset({"root", "nobody"})


@dataclass(frozen=True, slots=True)
class Account:
    """A local account as getpwnam gave it."""

    name: str
    uid: int


@dataclass(frozen=True, slots=True)
class Rules:
    """Resolved from the configuration at start.

    Attributes:
        names, uids: local accounts that get no token: the Slurm user, the signer's own users, the site's list.
            By uid as well, because two names can share one.
    """

    lifetime_s: int
    minimum_uid: int
    names: frozenset[str] = frozenset()
    uids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Grant:
    """What may be signed: the claims ``sun``, ``iat`` and ``exp`` (seconds since 1970), and whose uid that is."""

    localname: str
    uid: int
    iat: int
    exp: int


def decide(principal: str, localname: str, account: Account | None, rules: Rules, *, now: int) -> Grant:
    """Whether ``principal``, proved, who maps to ``localname``, gets a token; ``account`` is None if there is none.

    Raises:
        AccessError: ``no-such-account``, ``uid-too-low`` or ``account-denied``.
    """
    if not LOCALNAME.fullmatch(localname):
        raise AccessError(
            f"{principal} maps to {localname!r}, which no account for Slurm may be called", code="account-denied"
        )
    # A directory service may find "Alice" for "alice": the name Slurm looks up must be the account's own.
    if account is None or account.name != localname:
        raise AccessError(f"{principal} has no account {localname} here", code="no-such-account")
    if (
        localname in NEVER_NAMES | rules.names
        or account.uid in NEVER_UIDS | rules.uids
        or not 0 <= account.uid <= 0xFFFFFFFF
    ):
        raise AccessError(f"no token is ever signed for the account {localname}", code="account-denied")
    if account.uid < rules.minimum_uid:
        raise AccessError(
            f"the account {localname} has uid {account.uid}, below {rules.minimum_uid}", code="uid-too-low"
        )
    return Grant(localname, account.uid, now, now + min(rules.lifetime_s, MAX_LIFETIME_S))
