"""Group commit: one thread makes whatever changes wait into one transaction.

Everybody is answered after the commit, which includes the fsync: under load one fsync serves many. If the
transaction fails, it fails for all of the group and nothing of it is stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hipercow_slurm.errors import UnavailableError

GROUP = 256  # changes per transaction at most

Work = Callable[[sqlite3.Connection], Any]
Settled = Callable[[Any], None]


class GroupWriter(threading.Thread):
    """Runs changes in groups, one transaction each.

    Args:
        db: a connection in autocommit mode that no other thread uses from now on.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        super().__init__(name="store-writer", daemon=True)
        self._db = db
        self._waiting: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
        self.start()

    async def submit(self, work: Work, settled: Settled | None = None) -> Any:
        """Have ``work(db)`` run inside a transaction; its result, after the commit.

        Args:
            settled: told the result, or None if it failed, before anybody else on this event loop and also if nobody
                waits for it any more.
        """
        loop = asyncio.get_running_loop()
        change = _Change(work, loop, loop.create_future(), settled)
        self._waiting.put(change)
        return await change.future

    def stop(self) -> None:
        """Finish what was submitted before, then end."""
        self._waiting.put(None)
        self.join()

    def run(self) -> None:
        more = True
        while more:
            group, more = self._next_group()
            if group:
                _answer(group, self._commit(group))

    def _next_group(self) -> tuple[list[_Change], bool]:
        """Wait for a change, then take those that wait behind it; False when told to stop."""
        group: list[_Change] = []
        change = self._waiting.get()
        while change is not None:
            group.append(change)
            if len(group) == GROUP:
                return group, True
            try:
                change = self._waiting.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _commit(self, group: list[_Change]) -> list[_Outcome]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            outcomes = [_attempt(change.work, self._db) for change in group]
            self._db.execute("COMMIT")
        except Exception as error:  # this thread must outlive everything, or nobody is ever answered again
            self._roll_back()
            return [_Outcome(error=unavailable(error)) for _ in group]
        return outcomes

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # the next BEGIN fails and says so
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")


@dataclass(frozen=True, slots=True)
class _Change:
    work: Work
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    settled: Settled | None


@dataclass(frozen=True, slots=True)
class _Outcome:
    value: Any = None
    error: Exception | None = None


def _attempt(work: Work, db: sqlite3.Connection) -> _Outcome:
    """One change. A rule's exception is its caller's business: each change writes last, so it has written nothing."""
    try:
        return _Outcome(work(db))
    except sqlite3.Error:
        raise
    except Exception as error:
        return _Outcome(error=error)


def _answer(group: list[_Change], outcomes: list[_Outcome]) -> None:
    """Wake each loop once for all its changes."""
    for loop in {change.loop for change in group}:
        mine = [(c, o) for c, o in zip(group, outcomes, strict=True) if c.loop is loop]
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, mine)


def _resolve(answers: list[tuple[_Change, _Outcome]]) -> None:
    for change, outcome in answers:
        if change.settled is not None:
            change.settled(None if outcome.error is not None else outcome.value)
        future = change.future
        if future.cancelled():
            continue
        if outcome.error is not None:
            future.set_exception(outcome.error)
        else:
            future.set_result(outcome.value)


def unavailable(error: Exception) -> UnavailableError:
    """What a caller is told when the database failed."""
    full = getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE)
    return UnavailableError(f"the store failed: {error}", code="store-full" if full else "store-failed")
