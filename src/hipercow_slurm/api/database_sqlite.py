"""One SQLite file, one thread that touches it, one fsync for all work that waits (group commit).

Rule 1: a durable call that returned is on disk (WAL, synchronous=FULL); a group without durable work is left to the
kernel (synchronous=NORMAL), which a killed process does not lose. Rule 2: each piece of work is all or nothing
(savepoint); its failure does not touch the others of its group. Rule 3: the file is 0600 from its first byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import queue
import re
import sqlite3
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hipercow_slurm import log
from hipercow_slurm.api.database import STEPS, Act, Row
from hipercow_slurm.errors import ConfigError, UnavailableError

T = TypeVar("T")
_GROUP = 64  # pieces of work per commit


@dataclass(slots=True)
class _Work:
    """One piece of work; ``future`` is None where nobody waits, ``what`` names it then."""

    act: Act[Any]
    durable: bool
    future: asyncio.Future[Any] | None = None
    what: str = ""


_Result = tuple[_Work, Any, BaseException | None]


class _Transaction:
    """``database.Transaction`` on SQLite; nothing in it ever waits for the event loop."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def change(self, sql: str, *arguments: object) -> int:
        return self._connection.execute(_numbered(sql), arguments).rowcount

    async def rows(self, sql: str, *arguments: object) -> list[Row]:
        return self._connection.execute(_numbered(sql), arguments).fetchall()


class SqliteDatabase:
    """The API's SQLite file (``database.Database``); belongs to the event loop that uses it."""

    def __init__(self, path: Path) -> None:
        self._connection = _open(path)
        self._transaction = _Transaction(self._connection)
        self._durable = True  # how the connection is set now
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._serve, name="database", daemon=True)
        self._thread.start()

    async def run(self, act: Act[T], *, durable: bool = True) -> T:
        """As ``Database.run``; ``act`` runs in the database's own thread."""
        self._loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Work(act, durable, future))
        try:
            return await future
        except sqlite3.Error as error:
            raise UnavailableError(f"the session database failed: {error}", code="database-failed") from error

    def tell(self, act: Act[object], what: str) -> None:
        """As ``Database.tell``."""
        self._queue.put(_Work(act, durable=False, what=what))

    async def close(self) -> None:
        """Finish the work that waits, then close the file."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)
        self._connection.close()

    def _serve(self) -> None:
        while (first := self._queue.get()) is not None:
            group: list[_Work | None] = [first]
            with contextlib.suppress(queue.Empty):
                while len(group) < _GROUP and group[-1] is not None:
                    group.append(self._queue.get_nowait())
            self._commit([work for work in group if work is not None])
            if group[-1] is None:
                return

    def _commit(self, group: list[_Work]) -> None:
        results: list[_Result] = []
        try:
            self._set_durable(any(work.durable for work in group))
            self._connection.execute("BEGIN IMMEDIATE")
            for work in group:
                results.append((work, *self._one(work.act)))
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            results = [(work, None, error) for work in group]
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                self._loop.call_soon_threadsafe(_deliver, results)

    def _set_durable(self, durable: bool) -> None:
        if durable != self._durable:
            self._connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._durable = durable

    def _one(self, act: Act[Any]) -> tuple[Any, BaseException | None]:
        """One piece of work in its savepoint: its result, or its failure with nothing of it left."""
        self._connection.execute("SAVEPOINT work")
        try:
            result = _driven(act(self._transaction))
        except Exception as error:
            self._connection.execute("ROLLBACK TO work")
            self._connection.execute("RELEASE work")
            return None, error
        self._connection.execute("RELEASE work")
        return result, None


def _driven(work: Any) -> Any:
    """The result of a coroutine that never waits."""
    coroutine = work.__await__()
    try:
        next(coroutine)
    except StopIteration as done:
        return done.value
    raise RuntimeError("a piece of database work waited for something else")


@functools.cache
def _numbered(sql: str) -> str:
    """SQLite's spelling of PostgreSQL's ``$1``."""
    return re.sub(r"\$(\d+)", r"?\1", sql)


def _deliver(results: list[_Result]) -> None:
    """In the event loop: wake those who wait."""
    for work, result, failure in results:
        if work.future is None:
            if failure is not None:
                log.get().error("database.lost", what=work.what, why=str(failure))
        elif work.future.cancelled():
            continue
        elif failure is not None:
            work.future.set_exception(failure)
        else:
            work.future.set_result(result)


def _open(path: Path) -> sqlite3.Connection:
    try:
        # SQLite gives its -wal and -shm files the mode of the database, so the database is made before SQLite does.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=ON")
        _migrate(connection)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"cannot open the database {path}: {error}") from error
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to our schema; of several processes that start together, one does it and the others wait."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(STEPS):
            raise ConfigError(f"the database has schema {version}, this program knows {len(STEPS)}")
        for statement in ";".join(STEPS[version:]).split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={len(STEPS)}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
