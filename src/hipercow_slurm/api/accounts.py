"""From a principal to the local account that runs its jobs; refuses accounts that must not be logged in to.

Name services block (LDAP, SSSD), so look-ups run in threads of their own, for each name in one at a time, and are
remembered for a minute. Nobody waits for one that hangs.
"""

from __future__ import annotations

import asyncio
import contextlib
import pwd
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from hipercow_slurm.errors import AccessError, Error, UnavailableError
from hipercow_slurm.krb5 import names

T = TypeVar("T")
_REMEMBERED_S = 60.0
_KEPT = 10_000
_THREADS = 8
_PATIENCE_S = 5.0


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
        self._threads = ThreadPoolExecutor(_THREADS, "accounts")
        self._looking: dict[tuple[object, str], asyncio.Future[Any]] = {}

    async def of(self, principal: str) -> Account:
        """The account of a principal.

        Raises:
            AccessError: codes ``no-localname``, ``no-such-account``, ``uid-too-low``, ``account-denied``.
            UnavailableError: ``name-service-timeout``.
        """
        found = self._known.get(principal)
        if found and found[0] > time.monotonic():
            return found[1]
        account = await self._in_time(self._look_up, principal)
        if len(self._known) >= _KEPT:
            self._known.clear()
        self._known[principal] = (time.monotonic() + _REMEMBERED_S, account)
        return account

    async def exists(self, principal: str) -> bool:
        """Has it an account here, whichever? False also where the name service does not answer."""
        try:
            return await self._in_time(_exists, principal)
        except UnavailableError:
            return False

    def close(self) -> None:
        """Look up nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_time(self, act: Callable[[str], T], principal: str) -> T:
        """What ``act`` finds of ``principal``; all who ask meanwhile share one thread.

        Raises:
            UnavailableError: ``name-service-timeout``. Error: as ``act``.
        """
        key = (act, principal)
        looking = self._looking.get(key)
        if looking is None:
            looking = asyncio.get_running_loop().run_in_executor(self._threads, act, principal)
            self._looking[key] = looking
            looking.add_done_callback(lambda done: self._found(key, done))
        try:
            async with asyncio.timeout(_PATIENCE_S):
                found: T = await asyncio.shield(looking)
                return found
        except TimeoutError:
            raise UnavailableError(
                f"the name service did not say within {_PATIENCE_S:g} s which account {principal} has",
                code="name-service-timeout",
                hint="try again; an administrator should look at what getent passwd asks",
            ) from None

    def _found(self, key: tuple[object, str], done: asyncio.Future[Any]) -> None:
        del self._looking[key]
        if not done.cancelled():
            done.exception()  # nobody may be waiting any more

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
