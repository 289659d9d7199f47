"""Whether slurmctld answers, as all who ask it share it.

slurmrestd waits for a slurmctld that hangs or is gone for 9 to 20 s, each time anew (measured; README.md), and a person
waits with it. Rule 1: who has waited for a while makes us ask once, for all, whether slurmctld is there at all; if it
does not say so in a moment, waiting is over. One that is there and busy is waited for as before. Rule 2: while it is
known to be silent, nothing is sent to it but that one question; whoever comes waits for its answer for a moment at
most, and in the first seconds, when slurmctld may just be restarting, until those are over. Rule 3: the question has a
connection of its own: the others may all be waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

W = TypeVar("W")

PING_S = 7.0  # for so long the answer is waited for by those who have waited already
RESTART_S = 12.0  # a slurmctld that is silent for no longer may be restarting, and is waited for
AGAIN_S = 1.0  # and by those who come while slurmctld is known to be silent
_BETWEEN_S = 0.3  # questions to one that may be restarting
_LOOKS = 10  # within the time after which there is doubt


class Silence(Generic[W]):
    """What is known; ``ping`` asks slurmctld as somebody and says whether it is there.

    Attributes:
        since: when (``time.monotonic``) slurmctld did not answer the last call; None: it did.
        waiting: the calls under way, the oldest first. timer: when they are looked at; None: there were none.
    """

    def __init__(self, ping: Callable[[W], Awaitable[bool]], after_s: float) -> None:
        self._ping = ping
        self._after_s = after_s
        self._asking: asyncio.Task[bool] | None = None
        self._asked_at = 0.0
        self._begun = 0.0  # when it became silent
        self.waiting: dict[Doubt[W], None] = {}
        self.timer: asyncio.TimerHandle | None = None
        self.since: float | None = None

    def close(self) -> None:
        """Ask nothing more."""
        if self.timer is not None:
            self.timer.cancel()
        if self._asking is not None:
            self._asking.cancel()

    def heard(self) -> None:
        """slurmctld has answered somebody."""
        self.since = None

    def met(self) -> None:
        """It did not."""
        if self.since is None:
            self._begun = time.monotonic()
        self.since = time.monotonic()

    async def is_over(self, who: W) -> bool:
        """May slurmctld be asked something now? If it is known to be silent, only after it has answered ``who``."""
        if self.since is None:
            return True
        while True:
            asking = self._ask(who)
            # From when the question began: who comes behind somebody who has waited in vain need not wait as well.
            until = max(self._asked_at + AGAIN_S, self._begun + RESTART_S)
            if await self._answered(asking, until - time.monotonic()):
                return True
            if time.monotonic() >= self._begun + RESTART_S:
                return False
            await asyncio.sleep(_BETWEEN_S)

    def doubt(self, who: W, limit: asyncio.Timeout | None) -> Doubt[W]:
        """Around a call: after a while, and if slurmctld is not there, ``limit`` ends (None: it is only found out)."""
        return Doubt(self, who, limit)

    def arm(self) -> None:
        """Look in a while who has waited for long."""
        self.timer = asyncio.get_running_loop().call_later(self._after_s / _LOOKS, self._look)

    def _look(self) -> None:
        self.timer = None
        late = time.monotonic() - self._after_s
        for doubt in self.waiting:  # the oldest first
            if doubt.begun > late:
                break
            if doubt.finding is None:
                doubt.finding = asyncio.get_running_loop().create_task(self._find_out_for(doubt))
        if self.waiting:
            self.arm()

    async def _find_out_for(self, doubt: Doubt[W]) -> None:
        if not await self.find_out(doubt.who) and doubt.limit is not None:
            with contextlib.suppress(RuntimeError):  # it has just ended by itself
                doubt.limit.reschedule(asyncio.get_running_loop().time())

    async def find_out(self, who: W) -> bool:
        """Ask, and wait for a moment; True if it is there."""
        there = await self._answered(self._ask(who), PING_S)
        if not there:
            self.met()
        return there

    def _ask(self, who: W) -> asyncio.Task[bool]:
        if self._asking is None or self._asking.done():
            self._asked_at = time.monotonic()
            self._asking = asyncio.get_running_loop().create_task(self._asked(who))
        return self._asking

    async def _asked(self, who: W) -> bool:
        there = await self._ping(who)
        if there:
            self.heard()
        else:
            self.met()
        return there

    @staticmethod
    async def _answered(asking: asyncio.Task[bool], within_s: float) -> bool:
        done, _ = await asyncio.wait({asking}, timeout=max(0.0, within_s))
        return bool(done) and not asking.cancelled() and asking.result()


class Doubt(Generic[W]):
    """One call that may wait in vain. All share one timer: each submission pays for this, and a timer costs 5 us."""

    __slots__ = ("begun", "finding", "limit", "waiting", "who")

    def __init__(self, silence: Silence[W], who: W, limit: asyncio.Timeout | None) -> None:
        self.who = who
        self.limit = limit
        self.finding: asyncio.Task[None] | None = None
        self.waiting = silence.waiting
        if silence.timer is None:
            silence.arm()

    def __enter__(self) -> None:
        self.begun = time.monotonic()
        self.waiting[self] = None

    def __exit__(self, *_: object) -> None:
        del self.waiting[self]
        if self.finding is not None:
            self.finding.cancel()
