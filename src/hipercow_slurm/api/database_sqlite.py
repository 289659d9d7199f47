"""One SQLite file: small work is done in the event loop, other work in a thread; another one waits for the disk.

Rule 1: a durable call that returned is on disk. SQLite leaves commits to the kernel (WAL, synchronous=NORMAL), which
a killed process does not lose; for durable work the -wal file is fsynced afterwards, outside of SQLite's lock, so
that processes do not wait for each other's disk. (A checkpoint syncs by itself, so a frame is safe in one file or
the other.) Rule 2: the event loop waits for no lock and no disk: if another process writes just now, small work goes to
the thread, too, and checkpoints are the thread's. Rule 3: the file is 0600 from its first byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from hipercow_slurm import log
from hipercow_slurm.api.database import STEPS, Act
from hipercow_slurm.api.sqlite_groups import Committer, Result, SqliteTransaction, Work, driven, is_busy
from hipercow_slurm.errors import ConfigError, UnavailableError
from hipercow_slurm.store.disk import sync_directory

T = TypeVar("T")
_GROUP = 64  # pieces of work per commit
_HERE = 16  # in the event loop, which has others to serve
_NOTE_S = 0.02  # work that nobody waits for is done with the next that somebody does wait for, or after this time
_BUSY_S = 5.0  # for another process that writes
_CHECKPOINT = 200  # pieces of work until the thread moves what was written to its place: about 1000 pages


class SqliteDatabase:
    """The API's SQLite file (``database.Database``); belongs to the event loop that uses it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connections = [_open(path), _eager(path), _reader(path)]
        patient, eager, reader = self._connections
        self._patient, self._eager = Committer(patient), Committer(eager)
        # In WAL mode a reader waits for nobody, and one row by its key costs less than waking a thread.
        self._reader = SqliteTransaction(reader)
        self._small: list[Work] = []  # for the next turn of the event loop
        self._notes: list[Work] = []
        self._since_checkpoint = 0
        self._queue: queue.SimpleQueue[list[Work] | None] = queue.SimpleQueue()  # an empty list: a checkpoint
        self._unsynced: queue.SimpleQueue[list[Result] | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for target, name in ((self._serve, "database"), (self._sync, "database-sync"))
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, act: Act[T], *, durable: bool = True, small: bool = False) -> T:
        """As ``Database.run``; ``act`` runs in the database's own thread, or at this loop's next turn if ``small``."""
        self._loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = self._loop.create_future()
        work = Work(act, durable, future)
        if small:
            if not self._small:
                self._loop.call_soon(self._commit_here)
            self._small.append(work)
        else:
            self._queue.put([*self._notes, work])
            self._notes = []
        try:
            return await future
        except sqlite3.Error as error:
            raise _failed(error) from error

    async def look(self, act: Act[T]) -> T:
        """As ``Database.look``; ``act`` runs here and now."""
        try:
            result: T = driven(act(self._reader))
        except sqlite3.Error as error:
            raise _failed(error) from error
        return result

    def tell(self, act: Act[object], what: str) -> None:
        """As ``Database.tell``."""
        if not self._notes:  # else the timer runs
            asyncio.get_running_loop().call_later(_NOTE_S, self._commit_here)
        self._notes.append(Work(act, durable=False, what=what))

    async def close(self) -> None:
        """Finish the work that waits, then close the file."""
        while self._small or self._notes:
            self._commit_here()
        self._queue.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        for connection in self._connections:
            connection.close()

    def _commit_here(self) -> None:
        """In the event loop: the small work there is, and the notes."""
        waiting = [*self._notes, *self._small]
        group, self._notes, self._small = waiting[:_HERE], [], waiting[_HERE:]
        if self._small:
            asyncio.get_running_loop().call_soon(self._commit_here)
        if not group:
            return
        try:
            results = self._eager.commit(group)
        except sqlite3.OperationalError:  # somebody else writes just now
            self._queue.put(group)
            return
        durable = [result for result in results if result[0].durable]
        if durable:
            self._unsynced.put(durable)
        _deliver([result for result in results if not result[0].durable])
        self._since_checkpoint += len(group)
        if self._since_checkpoint >= _CHECKPOINT:
            self._since_checkpoint = 0
            self._queue.put([])

    def _serve(self) -> None:
        """The thread's work."""
        for given in _groups(self._queue, _GROUP):
            if group := [work for some in given for work in some]:
                self._commit(group)
            if not all(given):
                self._checkpoint()
        self._unsynced.put(None)

    def _checkpoint(self) -> None:
        """Move what was written to its place, so that SQLite begins the -wal file anew.

        Nobody can write meanwhile (the event loop's work comes here then): beside somebody who always does it would
        never be done, and the file would grow.
        """
        with contextlib.suppress(sqlite3.Error):  # another process does it
            self._connections[0].execute("PRAGMA wal_checkpoint(FULL)")

    def _commit(self, group: list[Work]) -> None:
        try:
            results = self._patient.commit(group)
        except sqlite3.OperationalError as error:  # waited for long enough
            results = [(work, None, error) for work in group]
        if durable := [result for result in results if result[0].durable]:
            self._unsynced.put(durable)
        self._hand_back([result for result in results if not result[0].durable])

    def _sync(self) -> None:
        """One fsync for all that were committed while the one before it ran."""
        wal = os.open(f"{self._path}-wal", os.O_RDONLY | os.O_CLOEXEC)  # it is there as long as we have the database
        for groups in _groups(self._unsynced, _GROUP):
            results = [result for group in groups for result in group]
            try:
                os.fdatasync(wal)  # with as much about the file as is needed to read it
            except OSError as error:
                failure = sqlite3.OperationalError(f"fsync: {error.strerror}")
                results = [(work, None, failed or failure) for work, _, failed in results]
            self._hand_back(results)
        os.close(wal)

    def _hand_back(self, results: list[Result]) -> None:
        """From a thread: the event loop wakes those who wait."""
        told = [result for result in results if result[0].future is not None or result[2] is not None]
        if told and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                self._loop.call_soon_threadsafe(_deliver, told)


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


def _deliver(results: list[Result]) -> None:
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


def _eager(path: Path) -> sqlite3.Connection:
    """One that waits for nobody once it is open, and leaves checkpoints, which wait for the disk, to others."""
    connection = _writer(path)
    connection.execute("PRAGMA wal_autocheckpoint=0")
    connection.execute("PRAGMA busy_timeout=0")
    return connection


def _writer(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_S)
    _use_wal(connection)
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA secure_delete=ON")
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """SQLite does not wait by itself for another process that changes the mode of a new file at the same time."""
    end = time.monotonic() + _BUSY_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > end:
                raise
            time.sleep(0.01)


def _reader(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
    connection.execute("PRAGMA query_only=ON")
    return connection


def _open(path: Path) -> sqlite3.Connection:
    try:
        # SQLite gives its -wal and -shm files the mode of the database, so the database is made before SQLite does.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        path.chmod(0o600)
        connection = _writer(path)
        _migrate(connection)
        connection.execute("PRAGMA wal_checkpoint")  # the tables, and the files' names, are on disk from the start
        sync_directory(path.parent)
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
