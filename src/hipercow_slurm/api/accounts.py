"""From a principal to the local account that runs its jobs; refuses accounts that must not be logged in to.

Name services block (LDAP, SSSD), so look-ups run in threads and are remembered for a minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import pwd
import time
from collections.abc import Sequence
from dataclasses import dataclass

from hipercow_slurm.errors import AccessError, Error
from hipercow_slurm.krb5 import names

_REMEMBERED_S = 60.0
_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Account:
    """One row of the passwd database."""

    localname: str
    uid: int
    gid: int
    home: str
    shell: str


class Accounts:
    """Looks up and judges local accounts."""

    def __init__(self, *, minimum_uid: int, deny: Sequence[str] = ()) -> None:
        self._minimum_uid = minimum_uid
        self._deny = frozenset(deny)
        self._known: dict[str, tuple[float, Account]] = {}

    async def of(self, principal: str) -> Account:
        """The account of a principal.

        Raises:
            AccessError: codes ``no-localname``, ``no-such-account``, ``uid-too-low``, ``account-denied``.
        """
        found = self._known.get(principal)
        if found and found[0] > time.monotonic():
            return found[1]
        account = await asyncio.to_thread(self._look_up, principal)
        if len(self._known) >= _KEPT:
            self._known.clear()
        self._known[principal] = (time.monotonic() + _REMEMBERED_S, account)
        return account

    async def exists(self, principal: str) -> bool:
        """Has it an account here, whichever? False also where the name service does not answer."""
        return await asyncio.to_thread(_exists, principal)

    def _look_up(self, principal: str) -> Account:
        localname = names.localname(principal)
        try:
            row = pwd.getpwnam(localname)
        except (KeyError, ValueError) as error:
            raise AccessError(
                f"{principal} has no account on this cluster",
                code="no-such-account",
                hint="ask the cluster's administrators for an account",
            ) from error
        if row.pw_uid < self._minimum_uid or row.pw_uid == 0 or row.pw_name != localname:
            raise AccessError(
                f"the account of {principal} is a system account; those cannot log in here",
                code="uid-too-low",
                hint="log in with a personal account",
            )
        if row.pw_name in self._deny or row.pw_uid in self._denied_uids():
            raise AccessError(
                f"nobody logs in as the account of {principal} here",
                code="account-denied",
                hint="log in with a personal account",
            )
        return Account(row.pw_name, row.pw_uid, row.pw_gid, row.pw_dir, row.pw_shell or "/bin/sh")

    def _denied_uids(self) -> set[int]:
        """By number as well: two names can share one."""
        found = set()
        for name in self._deny:
            with contextlib.suppress(KeyError):
                found.add(pwd.getpwnam(name).pw_uid)
        return found


def _exists(principal: str) -> bool:
    try:
        pwd.getpwnam(names.localname(principal))
    except (KeyError, ValueError, OSError, Error):
        return False
    return True
