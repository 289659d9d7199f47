"""One SQLite file, one thread that touches it, one fsync for all work that waits (group commit).

Rule 1: a call that returned is on disk (WAL, synchronous=FULL). Rule 2: each piece of work is all or nothing
(savepoint); its failure does not touch the others of its group. Rule 3: the file is 0600 from its first byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from hipercow_slurm.errors import ConfigError, UnavailableError

T = TypeVar("T")
_GROUP = 64  # pieces of work per commit

SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE session (
    session_id TEXT PRIMARY KEY,
    token_hash BLOB NOT NULL UNIQUE,
    principal TEXT NOT NULL,
    localname TEXT NOT NULL,
    uid INTEGER NOT NULL,
    address TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    sealed BLOB NOT NULL
) STRICT;
CREATE INDEX session_principal ON session (principal);
CREATE INDEX session_expires ON session (expires_at);
CREATE TABLE submission (
    marker TEXT PRIMARY KEY,
    principal TEXT NOT NULL,
    idempotency_key TEXT,
    digest BLOB NOT NULL,
    attempted_at INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    working_directory TEXT NOT NULL,
    output TEXT NOT NULL,
    error TEXT NOT NULL,
    job_id INTEGER,
    asked BLOB,
    seen BLOB,
    UNIQUE (principal, idempotency_key)
) STRICT;
CREATE INDEX submission_job ON submission (job_id);
CREATE INDEX submission_principal ON submission (principal, job_id);
"""
# From each version to the next.
MIGRATIONS = {
    1: """
ALTER TABLE submission ADD COLUMN asked BLOB;
ALTER TABLE submission ADD COLUMN seen BLOB;
CREATE INDEX submission_principal ON submission (principal, job_id);
""",
}


@dataclass(slots=True)
class _Work:
    act: Callable[[sqlite3.Connection], Any]
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class Database:
    """The API's SQLite file; ``await run(act)`` runs ``act(connection)`` durably in the database's own thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = _open(path)
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="database", daemon=True)
        self._thread.start()

    async def run(self, act: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``act`` in a transaction; its result is returned after the commit.

        Raises:
            UnavailableError: code ``database-failed``: disk full, file damaged, locked for too long.
        """
        loop = asyncio.get_running_loop()
        work = _Work(act, loop.create_future(), loop)
        self._queue.put(work)
        try:
            result: T = await work.future
        except sqlite3.Error as error:
            raise UnavailableError(f"the session database failed: {error}", code="database-failed") from error
        return result

    def close(self) -> None:
        """Finish the work that waits, then close the file."""
        self._queue.put(None)
        self._thread.join()
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
        results: list[tuple[_Work, Any, BaseException | None]] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for work in group:
                results.append((work, *_one(self._connection, work.act)))
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            results = [(work, None, error) for work in group]
        for work, result, failure in results:
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                work.loop.call_soon_threadsafe(_deliver, work.future, result, failure)


def _one(connection: sqlite3.Connection, act: Callable[[sqlite3.Connection], Any]) -> tuple[Any, BaseException | None]:
    """One piece of work in its savepoint: its result, or its failure with nothing of it left."""
    connection.execute("SAVEPOINT work")
    try:
        result = act(connection)
    except Exception as error:
        connection.execute("ROLLBACK TO work")
        connection.execute("RELEASE work")
        return None, error
    connection.execute("RELEASE work")
    return result, None


def _deliver(future: asyncio.Future[Any], result: Any, failure: BaseException | None) -> None:
    if future.cancelled():
        return
    if failure is not None:
        future.set_exception(failure)
    else:
        future.set_result(result)


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
        steps = [SCHEMA] if version == 0 else [MIGRATIONS[at] for at in range(version, SCHEMA_VERSION)]
        if version > SCHEMA_VERSION:
            raise ConfigError(f"the database has schema {version}, this program knows {SCHEMA_VERSION}")
        for statement in ";".join(steps).split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
