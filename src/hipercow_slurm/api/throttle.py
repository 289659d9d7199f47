"""Failed logins cost tokens: of the user, of the user at one address, of the address; shared by all processes.

Rule 1: the token is taken before the password is checked and given back when the check did not fail, so parallel
guesses cannot overrun the bucket. Rule 2: who finds it empty while verdicts of others are due waits for them: many
correct logins of one user at once all pass, some at a time, and of many guesses no more are judged than the bucket
holds. They wait in line, one line per user and address, and newcomers overtake nobody. Rule 3: a user's failures stay
below the count at which the KDC locks the account, and are forgotten as the KDC forgets them: after a pause. Rule 4: no
one address can use up all of a user's, and the last one is kept for places from which this user has logged in before,
so whoever burns alice's locks alice out neither elsewhere nor at home. Rule 5: many can be behind one address. Those
who have logged in from there before have tokens of their own there: whoever burns the address's keeps out strangers.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

from hipercow_slurm.api import throttle_db
from hipercow_slurm.api.addresses import network_of
from hipercow_slurm.api.config import Limits
from hipercow_slurm.api.database import Database
from hipercow_slurm.api.problems import ThrottledError
from hipercow_slurm.api.throttle_db import Outcome, Rule

_WAIT_S = 20.0  # for others' verdicts
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.25  # between two looks; a verdict of this process is looked for at once


@dataclass(frozen=True, slots=True)
class Charge:
    """One try's tokens; ``LoginThrottle.settle`` ends it."""

    rules: tuple[Rule, ...]
    principal: str | None
    network: str


@dataclass(slots=True, weakref_slot=True)
class Line:
    """Those who wait for the verdicts of others at one bucket; whose turn it is holds ``turn``."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0
    verdict: asyncio.Event = field(default_factory=asyncio.Event)


class LoginThrottle:
    """Decides whether a login may be tried now."""

    def __init__(self, limits: Limits, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._limits = limits
        self._database = database
        self._clock = clock
        self._waiting = 0  # in all lines
        # By the last bucket, the user's at this address: nobody waits behind another address.
        self._lines: WeakValueDictionary[str, Line] = WeakValueDictionary()

    async def charge(self, principal: str | None, address: str, shown: str | None = None) -> Charge:
        """Take a token of the address, and of the user where it is known who that is.

        ``shown``: what stands in the table for a name that may be none (``naming``).

        Raises:
            ThrottledError: ``too-many-failures``: one bucket is empty, nothing was taken; ``too-many-logins``: too many
                wait already. UnavailableError: ``database-failed``.
        """
        network = network_of(address)
        if principal is None:
            rules = [address_rule(self._limits, network, None)]
        else:
            known = await self._database.run(throttle_db.is_known(principal, network), durable=False)
            user = shown or principal
            rules = [address_rule(self._limits, network, user if known else None)]
            rules += users_rules(self._limits, user, network, known=known)
        await self._take(rules)
        return Charge(tuple(rules), principal, network)

    async def settle(self, charge: Charge, outcome: Outcome) -> None:
        """The verdict: the password was wrong, or right, or it was not judged (KDC down, say)."""
        now = self._clock()
        fill = charge.rules[1:]  # the user's; a right password says nothing of the other names the address has tried
        await self._database.run(throttle_db.settle(charge.rules, outcome, now, fill=fill), durable=False)
        if (line := self._lines.get(charge.rules[-1].name)) is not None:
            line.verdict.set()
        if charge.principal is not None and outcome == "succeeded":
            self._database.tell(
                throttle_db.know(charge.principal, charge.network, now), "a place a user logged in from"
            )

    async def _take(self, rules: list[Rule]) -> None:
        """Take the tokens now, or in turn."""
        end = time.monotonic() + _WAIT_S
        line = self._lines.setdefault(rules[-1].name, Line())
        if not line.waiting and await self._taken(rules, end):
            return
        with self._place_in(line):
            async with line.turn:
                pause = _FIRST_PAUSE_S
                line.verdict.clear()
                while not await self._taken(rules, end):
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(pause):
                            await line.verdict.wait()
                    line.verdict.clear()  # before looking: what comes while we look is for the next time
                    pause = min(1.5 * pause, _LONGEST_PAUSE_S)

    async def _taken(self, rules: list[Rule], end: float) -> bool:
        """True if the tokens were there; False if verdicts that are due before ``end`` may bring some."""
        taken = await self._database.run(throttle_db.take(rules, self._clock()), durable=False)
        if not taken.wait_s:
            return True
        if not taken.undecided or time.monotonic() > end:
            raise ThrottledError(
                "too many failed logins",
                code="too-many-failures",
                retry_after_s=taken.wait_s,
                hint="wait, then try again",
            )
        return False

    @contextlib.contextmanager
    def _place_in(self, line: Line) -> Iterator[None]:
        """A place for one who waits, kept until the tokens are taken: the limit is of those who wait."""
        if self._waiting >= self._limits.login_queue:
            raise ThrottledError("too many logins at this moment", code="too-many-logins", retry_after_s=2)
        self._waiting += 1
        line.waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            line.waiting -= 1


def address_rule(limits: Limits, network: str, known: str | None) -> Rule:
    """The bucket of an address; of ``known`` alone, a user who has logged in from there before, a small one.

    Not even a right password fills it: who has an account there could else go on for ever, by being right now and then.
    """
    most, refill_s = limits.failures_per_address, limits.failure_address_refill_s
    if known is None:
        return Rule(f"net {network}", most, refill_s)
    return Rule(f"net {network} of {known}", max(most // 4, limits.failures_per_user), refill_s)


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
    most = max(limits.failures_per_address, limits.failures_per_user)
    return max(limits.failure_user_window_s, most * limits.failure_address_refill_s)
