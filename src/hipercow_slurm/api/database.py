"""What the API keeps: pieces of work on sessions, submissions and the throttle, each all or nothing.

A piece of work is ``async def act(transaction)``; its SQL is what SQLite and PostgreSQL both take, with ``$1`` for
arguments. ``database_sqlite.py`` and ``database_pg.py`` run it; ``tests/api_database_contract.py`` holds both to
the same promises. Rule: a piece of work may run more than once (PostgreSQL's connection can break after it was
done), so each finds out from the rows what is done already.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Row = tuple[Any, ...]


class Transaction(Protocol):
    """What a piece of work sees.

    Attributes:
        NOW: SQL for the time in whole epoch seconds, of one clock for all processes and hosts.
        ROOM: a row of so many bytes is refused before a login or a submission would be, when the disk gets full.
    """

    NOW: str
    ROOM: int

    async def change(self, sql: str, *arguments: object) -> int:
        """Run a statement; how many rows it touched."""
        ...

    async def rows(self, sql: str, *arguments: object) -> list[Row]:
        """The rows of a query."""
        ...


Act = Callable[[Transaction], Awaitable[T]]


class Database(Protocol):
    """Where the API keeps what must outlive a process, and what several processes share."""

    async def run(self, act: Act[T], *, durable: bool = True, small: bool = False) -> T:
        """What ``act`` returns, after its commit.

        Args:
            durable: survive a power cut; False: a killed process only, which costs no wait for the disk.
            small: a few rows by their keys, which is done where it costs least.

        Raises:
            UnavailableError: code ``database-failed``: disk full, file damaged, server away, locked for too long.
        """
        ...

    async def look(self, act: Act[T]) -> T:
        """What ``act`` returns, which only reads: as of now, whoever wrote it; without a transaction, so one query.

        Raises:
            UnavailableError: as ``run``.
        """
        ...

    def tell(self, act: Act[object], what: str) -> None:
        """Do ``act``, which is small, soon, with nobody waiting; ``what`` it was is for the log, if it fails."""
        ...

    async def close(self) -> None:
        """Finish what waits, then let go."""
        ...


@contextlib.asynccontextmanager
async def opened(where: str) -> AsyncIterator[Database]:
    """The database at a path, or at a ``postgresql://`` URL, for the length of the block.

    Raises:
        ConfigError: it cannot be used. UnavailableError: the server does not answer.
    """
    database: Database
    if where.startswith(("postgresql://", "postgres://")):
        from hipercow_slurm.api.database_pg import PgDatabase

        database = await PgDatabase.open(where)
    else:
        from pathlib import Path

        from hipercow_slurm.api.database_sqlite import SqliteDatabase

        database = SqliteDatabase(Path(where))
    try:
        yield database
    finally:
        await database.close()


# Version n of the tables is made of the steps 1 to n. A released step is never changed; add another.
STEPS = (
    """
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
    UNIQUE (principal, idempotency_key)
) STRICT;
CREATE INDEX submission_job ON submission (job_id)
""",
    """
ALTER TABLE submission ADD COLUMN asked BLOB;
ALTER TABLE submission ADD COLUMN seen BLOB;
CREATE INDEX submission_principal ON submission (principal, job_id)
""",
    """
CREATE TABLE bucket (
    name TEXT PRIMARY KEY,
    level REAL NOT NULL,
    at REAL NOT NULL,
    pending INTEGER NOT NULL,
    pending_at REAL NOT NULL
) STRICT;
CREATE INDEX bucket_at ON bucket (at);
CREATE TABLE known_place (
    principal TEXT NOT NULL,
    network TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (principal, network)
) STRICT;
CREATE INDEX known_place_at ON known_place (at);
CREATE TABLE conversation (
    id_hash BLOB PRIMARY KEY,
    tries INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    sealed BLOB NOT NULL
) STRICT;
CREATE INDEX conversation_expires ON conversation (expires_at)
""",
    """
ALTER TABLE session ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE session ADD COLUMN claimed_until INTEGER NOT NULL DEFAULT 0
""",
    """
CREATE TABLE last_view (
    one INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    seen BLOB NOT NULL
) STRICT
""",
    # Each index that a submission does not touch is a page less to write and to sync.
    """
DROP INDEX submission_job;
DROP INDEX submission_principal;
CREATE INDEX submission_made ON submission (principal, job_id) WHERE job_id IS NOT NULL
""",
)
