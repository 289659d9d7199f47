"""Work on a SQLite file, a group of pieces in one transaction.

Rule: each piece is all or nothing; its failure does not touch the others of its group, which is done anew with
savepoints then. So a piece may run twice, as it may with PostgreSQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import sqlite3
from collections.abc import Callable
from typing import Any

import msgspec

from hipercow_slurm.api.database import Act, Row


class Work(msgspec.Struct, eq=False):
    """One piece of work; ``future`` is None where nobody waits, ``what`` names it then."""

    act: Act[Any]
    durable: bool
    future: asyncio.Future[Any] | None = None
    what: str = ""


Result = tuple[Work, Any, BaseException | None]


class SqliteTransaction:
    """``database.Transaction`` on SQLite; nothing in it ever waits for the event loop."""

    NOW = "CAST(strftime('%s', 'now') AS INTEGER)"
    ROOM = 64 * 1024  # the -wal file has some to spare, and begins anew in the same place

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def change(self, sql: str, *arguments: object) -> int:
        return self._connection.execute(_numbered(sql), arguments).rowcount

    async def rows(self, sql: str, *arguments: object) -> list[Row]:
        return self._connection.execute(_numbered(sql), arguments).fetchall()


class Committer:
    """Does groups of work on one connection, which no other thread may use meanwhile."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._transaction = SqliteTransaction(connection)

    def commit(self, group: list[Work]) -> list[Result]:
        """What came of each piece.

        Raises:
            sqlite3.OperationalError: another connection writes, for longer than this one waits; nothing was done.
        """
        try:
            return self._committed(group, self._plainly)
        except Exception as error:
            if is_busy(error):
                raise
        try:  # who failed is found, and what it did undone
            return self._committed(group, self._one)
        except sqlite3.Error as error:
            if is_busy(error):  # somebody wrote in between
                raise
            return [(work, None, error) for work in group]

    def _committed(self, group: list[Work], do: Callable[[Act[Any]], tuple[Any, BaseException | None]]) -> list[Result]:
        """All of the group in one transaction.

        Raises:
            sqlite3.Error, and what ``do`` raises: nothing of it was done.
        """
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            results = [(work, *do(work.act)) for work in group]
            self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise
        return results

    def _plainly(self, act: Act[Any]) -> tuple[Any, None]:
        """One piece of work, without what would undo it alone: half the statements of most groups."""
        return driven(act(self._transaction)), None

    def _one(self, act: Act[Any]) -> tuple[Any, BaseException | None]:
        """One piece of work in its savepoint: its result, or its failure with nothing of it left."""
        self._connection.execute("SAVEPOINT work")
        try:
            result = driven(act(self._transaction))
        except Exception as error:
            self._connection.execute("ROLLBACK TO work")
            self._connection.execute("RELEASE work")
            return None, error
        self._connection.execute("RELEASE work")
        return result, None


def driven(work: Any) -> Any:
    """The result of a coroutine that never waits."""
    coroutine = work.__await__()
    try:
        next(coroutine)
    except StopIteration as done:
        return done.value
    raise RuntimeError("a piece of database work waited for something else")


def is_busy(error: Exception) -> bool:
    """Another connection has the lock that this one wants."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY


@functools.cache
def _numbered(sql: str) -> str:
    """SQLite's spelling of PostgreSQL's ``$1``."""
    return re.sub(r"\$(\d+)", r"?\1", sql)
