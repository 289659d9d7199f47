"""principal -> local account -> uid, without ever blocking the event loop.

``auth_to_local`` and NSS decide; NSS may mean LDAP, so lookups run in threads, with a deadline, are shared by
those who ask for the same principal at once, and are remembered for a short time.
"""

from __future__ import annotations

import asyncio
import pwd
import time
from collections.abc import Callable

from hipercow_slurm.auksd.workers import Workers
from hipercow_slurm.errors import AccessError, Error, UnavailableError
from hipercow_slurm.krb5 import names

KNOWN_S = 30.0
UNKNOWN_S = 5.0  # a new account should work soon after it was made
DEADLINE_S = 10.0
_REMEMBER = 100_000

Lookup = Callable[[str], int]


def lookup_uid(principal: str) -> int:
    """The uid of a principal's local account; blocks.

    Raises:
        AccessError: ``no-localname`` (auth_to_local has no rule for it) or ``no-such-user``.
    """
    name = names.localname(principal)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError as error:
        raise AccessError(
            f"principal {principal} maps to local account {name!r}, which does not exist",
            code="no-such-user",
            hint="create the account on the cache's host, or mend auth_to_local in krb5.conf",
        ) from error


class Accounts:
    """Remembers ``lookup`` for a while.

    Args:
        workers: threads to look up in.
        lookup: principal to uid; blocking.
        clock: seconds, monotonic.
    """

    def __init__(
        self, workers: Workers, lookup: Lookup = lookup_uid, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._workers = workers
        self._lookup = lookup
        self._clock = clock
        self._known: dict[str, tuple[float, int | Error]] = {}
        self._asking: dict[str, asyncio.Task[int]] = {}

    async def uid(self, principal: str) -> int:
        """The uid of a principal.

        Raises:
            AccessError: as ``lookup_uid``.
            UnavailableError: ``accounts-slow``: no answer in 10 s.
        """
        until, answer = self._known.get(principal, (0.0, 0))
        if self._clock() < until:
            if isinstance(answer, Error):
                raise answer
            return answer
        task = self._asking.get(principal)
        if task is None:
            task = self._asking[principal] = asyncio.create_task(self._ask(principal))
        try:
            return await asyncio.wait_for(asyncio.shield(task), DEADLINE_S)
        except TimeoutError as error:
            raise UnavailableError(
                f"the account of {principal} was not found in {DEADLINE_S:.0f} s", code="accounts-slow"
            ) from error

    async def _ask(self, principal: str) -> int:
        try:
            uid = await self._workers.run(self._lookup, principal)
        except AccessError as error:
            self._remember(principal, UNKNOWN_S, error)
            raise
        finally:
            del self._asking[principal]
        self._remember(principal, KNOWN_S, uid)
        return uid

    def _remember(self, principal: str, seconds: float, answer: int | Error) -> None:
        if len(self._known) >= _REMEMBER:
            self._known.clear()
        self._known[principal] = (self._clock() + seconds, answer)
