"""How many requests of one user's are worked on at a time; the others wait, in their order, before anything is read.

A user is logged in and means well, mostly: a script that sends a thousand requests at once is served, some at a time.
What each of them may cost (a body of megabytes, a thousand jobs) is then bounded, and another user waits behind a few
of them only (towards Slurm behind none: ``slurm/link.py`` lets users take turns there). Requests that take minutes (of
many jobs) have turns of their own: a user who sends many can still look at one job.
"""

from __future__ import annotations

import asyncio
from collections import deque

from hipercow_slurm.api.problems import ThrottledError

_WAIT_S = 20.0
_AGAIN_S = 5.0


class Turns:
    """At most ``most`` turns of one user's at a time."""

    def __init__(self, most: int, *, wait_s: float = _WAIT_S) -> None:
        self._most = most
        self._wait_s = wait_s
        self._busy: dict[str, int] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def take_now(self, user: str) -> bool:
        """Take a turn if one is free and nobody of theirs waits for it."""
        busy = self._busy.get(user, 0)
        if busy >= self._most:  # who waits gets what becomes free, so below it nobody waits
            return False
        self._busy[user] = busy + 1
        return True

    async def take(self, user: str) -> None:
        """Take a turn, in its time; ``leave`` ends it.

        Raises:
            ThrottledError: ``too-many-requests``: it did not come in time.
        """
        if self.take_now(user):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append(turn)
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.leave(user)  # it came just when we went
            elif user in self._waiting:
                self._forget(user, turn)
            if isinstance(error, TimeoutError):
                raise ThrottledError(
                    f"you have {self._most} requests under way, and many that wait",
                    code="too-many-requests",
                    retry_after_s=_AGAIN_S,
                    hint="send fewer at a time",
                ) from None
            raise

    def leave(self, user: str) -> None:
        """The turn is over: the next of theirs has it."""
        waiting = self._waiting.get(user)
        while waiting:
            turn = waiting.popleft()
            if not waiting:
                del self._waiting[user]
            if not turn.done():
                turn.set_result(None)
                return
        busy = self._busy[user] - 1
        if busy:
            self._busy[user] = busy
        else:
            del self._busy[user]

    def _forget(self, user: str, turn: asyncio.Future[None]) -> None:
        waiting = self._waiting[user]
        if turn in waiting:
            waiting.remove(turn)
        if not waiting:
            del self._waiting[user]
