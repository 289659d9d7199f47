"""Asks the KDC for renewals: in threads of this process, a few credentials one after the other in each.

A thread that is handed one credential at a time waits for the event loop between two, and the loop wakes up for each:
together that costs as much as asking. So when many are due a thread gets several, and the loop is woken once for all
answers of some time. Rule 1: at most ``threads`` are asked for at once. Rule 2: nobody waits behind a KDC that hangs:
what a thread has not come to after ``SLOW_S`` is given back for others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from hipercow_slurm.auksd.workers import Workers
from hipercow_slurm.krb5 import krbcred, renewal
from hipercow_slurm.store.base import Sealed
from hipercow_slurm.values import KrbCred

SLOW_S = 0.5
GATHER_S = 0.02

T = TypeVar("T")
Renew = Callable[[KrbCred], KrbCred]
Outcome = KrbCred | Exception


class Asking:
    """The threads, and what came of what they were given.

    Args:
        renew: asks the KDC; blocks, perhaps long.
        threads: how many such calls at once.
    """

    def __init__(self, renew: Renew, threads: int) -> None:
        self._renew = renew
        self._workers = Workers(threads, "renew")
        self._answers: deque[tuple[Sealed, Outcome]] = deque()
        self._come, self._woken = asyncio.Event(), False
        self._asking = 0

    @property
    def untaken(self) -> int:
        """How many answers nobody has taken yet."""
        return len(self._answers)

    async def ask(self, due: Sequence[Sealed], give_back: Callable[[list[Sealed]], None]) -> None:
        """Ask for one after the other; returns when that is done, and ``answers`` has what came of it.

        Args:
            give_back: told of those it did not come to in time.
        """
        loop, rest = asyncio.get_running_loop(), deque(due)
        timer = loop.call_later(SLOW_S, lambda: give_back(_taken_out(rest)))
        self._asking += 1
        try:
            await self._workers.run(self._in_turn, rest, loop)
        finally:
            self._asking -= 1
            timer.cancel()
            rest.clear()  # if this was cancelled: a thread that is at it shall find no more

    async def answers(self) -> list[tuple[Sealed, Outcome]]:
        """Wait for what came of what was asked for; while more is being asked for, a little longer."""
        await self._come.wait()
        if self._asking:
            await asyncio.sleep(GATHER_S)
        self._come.clear()
        self._woken = False  # before looking: whoever answers after that wakes us again
        return _taken_out(self._answers)

    def stop(self) -> None:
        """Let the threads end; waits for none that hangs in a KDC."""
        self._workers.stop()

    def _in_turn(self, rest: deque[Sealed], loop: asyncio.AbstractEventLoop) -> None:
        with contextlib.suppress(IndexError):  # no more, or not any more
            while True:
                one = rest.popleft()
                try:
                    outcome: Outcome = self._renew(one.open())
                except Exception as error:  # whoever takes the answer decides
                    outcome = error
                self._answer(one, outcome, loop)

    def _answer(self, one: Sealed, outcome: Outcome, loop: asyncio.AbstractEventLoop) -> None:
        """From any thread."""
        self._answers.append((one, outcome))
        if not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
                loop.call_soon_threadsafe(self._come.set)


def _taken_out(waiting: deque[T]) -> list[T]:
    """All that waits, taken out; a thread may be putting in or taking out too."""
    found = []
    with contextlib.suppress(IndexError):
        while True:
            found.append(waiting.popleft())
    return found


def renew_at_kdc(cred: KrbCred) -> KrbCred:
    """Renew a credential at the KDC; blocks, raises what ``krb5.renewal.renew`` raises.

    A cross-realm ticket that would keep the whole from lasting longer is left out: a record ends with its first
    ticket to end.
    """
    new = renewal.renew(cred, often=True)
    if new.tickets > 1 and new.times.endtime <= cred.times.endtime:
        return krbcred.build(krbcred.tickets(new)[:1])
    return new
