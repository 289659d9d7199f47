"""The queue of what is due, under the rate cap: handed out in turns, one each or a few, never faster than allowed."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

TOGETHER = 32
TOGETHER_S = 0.01  # and not more than may begin in this time: what is begun shall be spread
SHORTEST_SLEEP_S = 0.001


class Pacing:
    """Uids in the order they came.

    Args:
        takers: how many take turns at once; none shall have nothing to do because another one has it all.
        rate_per_s: how many may begin per second.

    Attributes:
        together: how many a turn is at most.
    """

    def __init__(self, takers: int, rate_per_s: float) -> None:
        self.together = max(1, min(TOGETHER, int(rate_per_s * TOGETHER_S)))
        self._takers = takers
        self._interval_s = 1 / rate_per_s
        self._next_at = 0.0
        self._waiting: deque[int] = deque()
        self._some = asyncio.Event()

    def put(self, uid: int) -> None:
        """Queue one."""
        self._waiting.append(uid)
        self._some.set()

    def put_back(self, uids: Sequence[int]) -> None:
        """These were taken and not begun: they come first again."""
        self._waiting.extendleft(reversed(uids))
        if self._waiting:
            self._some.set()

    async def turn(self) -> list[int]:
        """Wait until the next may begin; those that may begin together."""
        while not self._waiting:
            self._some.clear()
            await self._some.wait()
        count = min(self.together, len(self._waiting), 1 + len(self._waiting) // self._takers)
        taken = [self._waiting.popleft() for _ in range(count)]
        now = time.monotonic()
        at = max(self._next_at, now)
        self._next_at = at + count * self._interval_s
        if at - now > SHORTEST_SLEEP_S:
            await asyncio.sleep(at - now)
        return taken
