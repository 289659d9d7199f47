"""Asks the KDC for renewals: in threads of this process, a few credentials one after the other in each.

A thread that is handed one credential at a time waits for the event loop between two, and the loop wakes up for each:
together that costs as much as asking. So when many are due a thread gets several, and the loop is woken once for all
answers of some time. Rule 1: at most ``threads`` are asked for at once. Rule 2: nobody waits behind a KDC that hangs:
after ``SLOW_S`` what a thread has not come to is given back for others, and what it has done is an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from hipercow_slurm.auksd.workers import Workers
from hipercow_slurm.errors import Error
from hipercow_slurm.krb5 import krbcred, renewal
from hipercow_slurm.krb5.together import Finished, Together, able
from hipercow_slurm.store.base import Sealed
from hipercow_slurm.values import KrbCred

SLOW_S = 0.5
GATHER_S = 0.02

T = TypeVar("T")
Outcome = KrbCred | Exception


class Group(Protocol):
    """Credentials to be renewed one after the other by one thread, which calls ``run``; the rest is any thread's."""

    def run(self) -> None:
        """Renew them; blocks, perhaps long, and raises nothing."""

    def finished(self) -> list[Finished]:
        """What came of those that are done, each once."""

    def end(self) -> int:
        """No further one begins; how many have."""


Renew = Callable[[Sequence[KrbCred]], Group]


class OneByOne:
    """A ``Group`` by a call for each."""

    def __init__(self, creds: Sequence[KrbCred], renew: Callable[[KrbCred], KrbCred]) -> None:
        self._count = len(creds)
        self._renew = renew
        self._rest = deque(enumerate(creds))
        self._found: deque[Finished] = deque()

    def run(self) -> None:
        """See ``Group``."""
        with contextlib.suppress(IndexError):  # no more, or not any more
            while True:
                number, cred = self._rest.popleft()
                began = time.monotonic()
                try:
                    outcome: Outcome = self._renew(cred)
                except Exception as error:  # whoever takes the answer decides
                    outcome = error
                self._found.append(Finished(number, outcome, time.monotonic() - began))

    def finished(self) -> list[Finished]:
        """See ``Group``."""
        return _taken_out(self._found)

    def end(self) -> int:
        """See ``Group``."""
        return self._count - len(_taken_out(self._rest))


class Asking:
    """The threads, and what came of what they were given.

    Args:
        renew: makes a group of credentials.
        threads: how many such groups are at work at once.
        asked: told how long each took, and the error if it was one.
    """

    def __init__(
        self, renew: Renew, threads: int, asked: Callable[[float, Error | None], None] = lambda seconds, error: None
    ) -> None:
        self._renew = renew
        self._asked = asked
        self._workers = Workers(threads, "renew", waiting=True)
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
        loop, turn = asyncio.get_running_loop(), _Turn(due, self._renew)

        def slow() -> None:
            give_back(turn.end())
            self._tell(turn, loop)

        timer = loop.call_later(SLOW_S, slow)
        self._asking += 1
        try:
            await self._workers.run(self._in_turn, turn, loop)
        finally:
            self._asking -= 1
            timer.cancel()
            turn.end()  # if this was cancelled: a thread that is at it shall find no more

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

    def _in_turn(self, turn: _Turn, loop: asyncio.AbstractEventLoop) -> None:
        turn.run()
        self._tell(turn, loop)

    def _tell(self, turn: _Turn, loop: asyncio.AbstractEventLoop) -> None:
        """Pass on what a turn has finished; from any thread."""
        found = turn.finished()
        self._answers.extend([(sealed, outcome) for sealed, outcome, _ in found])
        if found and not self._woken:
            self._woken = True
            with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
                loop.call_soon_threadsafe(self._come.set)
        for _, outcome, seconds in found:
            if seconds is not None and isinstance(outcome, KrbCred | Error):
                self._asked(seconds, None if isinstance(outcome, KrbCred) else outcome)


class _Turn:
    """What a thread was given: opened by it, then a ``Group``."""

    def __init__(self, due: Sequence[Sealed], renew: Renew) -> None:
        self._due = list(due)
        self._renew = renew
        self._group: Group | None = None
        self._ended = False
        self._broken: list[tuple[Sealed, Outcome, float | None]] = []
        self._lock = threading.Lock()

    def run(self) -> None:
        """Renew what can be opened; blocks."""
        with self._lock:
            if self._ended:
                return
            group = self._group = self._opened()
        group.run()

    def finished(self) -> list[tuple[Sealed, Outcome, float | None]]:
        """What came of those that are done, each once, and how many seconds the KDC took."""
        with self._lock:
            found, self._broken = self._broken, []
            if self._group is not None:
                done = self._group.finished()
                found.extend([(self._due[number], outcome, seconds) for number, outcome, seconds in done])
            return found

    def end(self) -> list[Sealed]:
        """Those that have not begun, and now never do."""
        with self._lock:
            self._ended = True
            return self._due if self._group is None else self._due[self._group.end() :]

    def _opened(self) -> Group:
        creds, those = [], []
        for one in self._due:
            try:
                creds.append(one.open())
                those.append(one)
            except Exception as error:  # whoever takes the answer decides
                self._broken.append((one, error, None))
        self._due = those
        return self._renew(creds)


def _taken_out(waiting: deque[T]) -> list[T]:
    """All that waits, taken out; a thread may be putting in or taking out too."""
    found = []
    with contextlib.suppress(IndexError):
        while True:
            found.append(waiting.popleft())
    return found


def renew_at_kdc(creds: Sequence[KrbCred]) -> Group:
    """Renewals at the KDC; each ends in what ``krb5.renewal.renew`` gives or raises."""
    return Together(creds) if able(creds) else OneByOne(creds, _renewed)


def _renewed(cred: KrbCred) -> KrbCred:
    """A cross-realm ticket that would keep the whole from lasting longer is left out: a record ends with its first
    ticket to end."""
    new = renewal.renew(cred, often=True)
    if new.tickets > 1 and new.times.endtime <= cred.times.endtime:
        return krbcred.build(krbcred.tickets(new)[:1])
    return new
