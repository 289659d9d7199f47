"""One SQLite file, one thread that touches it, another that waits for the disk, each for all work there is.

Rule 1: a durable call that returned is on disk. SQLite leaves commits to the kernel (WAL, synchronous=NORMAL), which
a killed process does not lose; for durable work the -wal file is fsynced afterwards, outside of SQLite's lock, so
that processes do not wait for each other's disk. (A checkpoint syncs by itself, so a frame is safe in one file or
the other.) Rule 2: each piece of work is all or nothing; its failure does not touch the others of its group, which is
done anew with savepoints then. So a piece may run twice, as it may with PostgreSQL. Rule 3: the file is 0600 from its
first byte.
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hipercow_slurm import log
from hipercow_slurm.api.database import STEPS, Act, Row
from hipercow_slurm.errors import ConfigError, UnavailableError

T = TypeVar("T")
_GROUP = 64  # pieces of work per commit
_NOTE_S = 0.02  # work that nobody waits for is done with the next that somebody does wait for, or after this time


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

    NOW = "CAST(strftime('%s', 'now') AS INTEGER)"

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
        self._path = path
        self._transaction = _Transaction(self._connection)
        # In WAL mode a reader waits for nobody, and one row by its key costs less than waking a thread.
        self._reader = _reader(path)
        self._queue: queue.SimpleQueue[list[_Work] | None] = queue.SimpleQueue()
        self._notes: list[_Work] = []
        self._unsynced: queue.SimpleQueue[list[_Result] | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._serve, "database"), (self._sync, "database-sync"))
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, act: Act[T], *, durable: bool = True) -> T:
        """As ``Database.run``; ``act`` runs in the database's own thread."""
        self._loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = self._loop.create_future()
        self._hand_over(_Work(act, durable, future))
        try:
            return await future
        except sqlite3.Error as error:
            raise _failed(error) from error

    async def look(self, act: Act[T]) -> T:
        """As ``Database.look``; ``act`` runs here and now."""
        try:
            result: T = _driven(act(_Transaction(self._reader)))
        except sqlite3.Error as error:
            raise _failed(error) from error
        return result

    def tell(self, act: Act[object], what: str) -> None:
        """As ``Database.tell``."""
        if not self._notes:  # else the timer runs
            asyncio.get_running_loop().call_later(_NOTE_S, self._hand_over)
        self._notes.append(_Work(act, durable=False, what=what))

    def _hand_over(self, *work: _Work) -> None:
        """Give the thread its work, and the notes before it: waking it costs as much as a small piece of work."""
        if given := [*self._notes, *work]:
            self._notes = []
            self._queue.put(given)

    async def close(self) -> None:
        """Finish the work that waits, then close the file."""
        self._hand_over()
        self._queue.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        self._reader.close()
        self._connection.close()

    def _serve(self) -> None:
        for given in _groups(self._queue, _GROUP):
            self._commit([work for some in given for work in some])
        self._unsynced.put(None)

    def _commit(self, group: list[_Work]) -> None:
        try:
            results = self._committed(group, self._plainly)
        except Exception as error:
            locked = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY  # waited for long enough
            results = [(work, None, error) for work in group] if locked else self._apart(group)
        if durable := [result for result in results if result[0].durable]:
            self._unsynced.put(durable)
        self._deliver([result for result in results if not result[0].durable])

    def _sync(self) -> None:
        """One fsync for all that were committed while the one before it ran."""
        for groups in _groups(self._unsynced, _GROUP):
            results = [result for group in groups for result in group]
            try:
                _fsync(f"{self._path}-wal", os.fdatasync)  # with as much about the file as is needed to read it
            except OSError as error:
                failure = sqlite3.OperationalError(f"fsync: {error.strerror}")
                results = [(work, None, failed or failure) for work, _, failed in results]
            self._deliver(results)

    def _deliver(self, results: list[_Result]) -> None:
        if results and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                self._loop.call_soon_threadsafe(_deliver, results)

    def _committed(
        self, group: list[_Work], do: Callable[[Act[Any]], tuple[Any, BaseException | None]]
    ) -> list[_Result]:
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

    def _apart(self, group: list[_Work]) -> list[_Result]:
        """The group again, after one of it failed: who did is found, and what it did undone."""
        try:
            return self._committed(group, self._one)
        except sqlite3.Error as error:
            return [(work, None, error) for work in group]

    def _plainly(self, act: Act[Any]) -> tuple[Any, None]:
        """One piece of work, without what would undo it alone: half the statements of most groups."""
        return _driven(act(self._transaction)), None

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


def _groups(waiting: queue.SimpleQueue[T | None], most: int) -> Iterator[list[T]]:
    """All that waits, at most so many at a time, until None comes."""
    while (first := waiting.get()) is not None:
        group, last = [first], False
        with contextlib.suppress(queue.Empty):
            while len(group) < most and not last:
                more = waiting.get_nowait()
                if more is None:
                    last = True
                else:
                    group.append(more)
        yield group
        if last:
            return


def _fsync(path: str | Path, sync: Callable[[int], None] = os.fsync) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sync(handle)
    finally:
        os.close(handle)


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


def _failed(error: sqlite3.Error) -> UnavailableError:
    return UnavailableError(f"the session database failed: {error}", code="database-failed")


def _reader(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
    connection.execute("PRAGMA query_only=ON")
    return connection


def _open(path: Path) -> sqlite3.Connection:
    try:
        # SQLite gives its -wal and -shm files the mode of the database, so the database is made before SQLite does.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA secure_delete=ON")
        _migrate(connection)
        connection.execute("PRAGMA wal_checkpoint")  # the tables, and the files' names, are on disk from the start
        _fsync(path.parent)
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
