"""Failed logins cost tokens: of the user, of the user at one address, of the address; shared by all processes.

Rule 1: the token is taken before the password is checked and given back when the check did not fail, so parallel
guesses cannot overrun the bucket. Rule 2: who finds it empty while verdicts of others are due waits for them: many
correct logins of one user at once all pass, some at a time, and of many guesses no more are judged than the bucket
holds. Rule 3: a user's failures stay below the count at which the KDC locks the account, and are forgotten as the KDC
forgets them: after a pause. Rule 4: no one address can use up all of a user's, and the last one is kept for places
from which this user has logged in before, so whoever burns alice's locks alice out neither elsewhere nor at home.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass

from hipercow_slurm.api import throttle_db
from hipercow_slurm.api.config import Limits
from hipercow_slurm.api.database import Database
from hipercow_slurm.api.problems import ThrottledError
from hipercow_slurm.api.throttle_db import Outcome, Rule

_WAIT_S = 20.0  # for others' verdicts
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.25


@dataclass(frozen=True, slots=True)
class Charge:
    """One try's tokens; ``LoginThrottle.settle`` ends it."""

    rules: tuple[Rule, ...]
    principal: str | None
    network: str


class LoginThrottle:
    """Decides whether a login may be tried now."""

    def __init__(self, limits: Limits, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._limits = limits
        self._database = database
        self._clock = clock
        self._waiting = 0

    async def charge(self, principal: str | None, address: str, shown: str | None = None) -> Charge:
        """Take a token of the address, and of the user where it is known who that is.

        ``shown``: what stands in the table for a name that may be none (``naming``).

        Raises:
            ThrottledError: ``too-many-failures``: one bucket is empty, nothing was taken; ``too-many-logins``: too many
                wait already. UnavailableError: ``database-failed``.
        """
        network = network_of(address)
        rules = [Rule(f"net {network}", self._limits.failures_per_address, self._limits.failure_address_refill_s)]
        if principal is not None:
            known = await self._database.run(throttle_db.is_known(principal, network), durable=False)
            rules += users_rules(self._limits, shown or principal, network, known=known)
        await self._take(rules)
        return Charge(tuple(rules), principal, network)

    async def settle(self, charge: Charge, outcome: Outcome) -> None:
        """The verdict: the password was wrong, or right, or it was not judged (KDC down, say)."""
        now = self._clock()
        fill = charge.rules[1:]  # the user's; a right password says nothing of the other names the address has tried
        await self._database.run(throttle_db.settle(charge.rules, outcome, now, fill=fill), durable=False)
        if charge.principal is not None and outcome == "succeeded":
            self._database.tell(
                throttle_db.know(charge.principal, charge.network, now), "a place a user logged in from"
            )

    async def _take(self, rules: list[Rule]) -> None:
        end, pause = time.monotonic() + _WAIT_S, _FIRST_PAUSE_S
        while True:
            taken = await self._database.run(throttle_db.take(rules, self._clock()), durable=False)
            if not taken.wait_s:
                return
            if not taken.undecided or time.monotonic() > end:
                raise ThrottledError(
                    "too many failed logins",
                    code="too-many-failures",
                    retry_after_s=taken.wait_s,
                    hint="wait, then try again",
                )
            if self._waiting >= self._limits.login_queue:
                raise ThrottledError("too many logins at this moment", code="too-many-logins", retry_after_s=2)
            self._waiting += 1
            try:
                await asyncio.sleep(pause)
            finally:
                self._waiting -= 1
            pause = min(1.5 * pause, _LONGEST_PAUSE_S)


def users_rules(limits: Limits, user: str, network: str, *, known: bool) -> list[Rule]:
    """The buckets of one user for a try from one address; ``known``: a place where this user has logged in before.

    Of n failures in all, a known place may use n - 1, so that another known one has a try, and a strange one n - 2; all
    strange ones together n - 1.
    """
    most, window_s = limits.failures_per_user, limits.failure_user_window_s
    here = max(1, most - (1 if known else 2))
    everywhere = Rule(f"user {user}", most, window_s, quiet=True, spare=0 if known or most == 1 else 1)
    return [everywhere, Rule(f"user {user} at {network}", here, window_s, quiet=True)]


def full_after_s(limits: Limits) -> float:
    """A bucket that nobody touched for this long is full."""
    return max(limits.failure_user_window_s, limits.failures_per_address * limits.failure_address_refill_s)


def network_of(address: str) -> str:
    """What counts as one address: an IPv4 address, or an IPv6 /64 (one customer has 2**64 of those)."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
