"""The API's tables in PostgreSQL, for API processes on several hosts (``database.Database``).

They live in the schema ``hipercow_api``; connections, patience and refusals are the store's (``store/pg_link.py``).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar

from hipercow_slurm import log
from hipercow_slurm.api.database import STEPS, Act, Row
from hipercow_slurm.errors import UnavailableError
from hipercow_slurm.store import pg_schema
from hipercow_slurm.store.pg_link import Link

T = TypeVar("T")
SCHEMA = "hipercow_api"
PATIENCE_S = 8.0  # a person waits for the answer
_GROUP = 64  # notes per commit
_NOTES = 10_000  # that wait at most; each is one nobody waits for
_ASYNC = "SET LOCAL synchronous_commit = off"


class _Transaction:
    """``database.Transaction`` on an asyncpg connection."""

    NOW = "floor(extract(epoch FROM clock_timestamp()))::bigint"
    ROOM = 16  # all of it goes into archives and to standbys

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def change(self, sql: str, *arguments: object) -> int:
        status: str = await self._connection.execute(sql, *arguments)
        return int(status.rpartition(" ")[2])  # "UPDATE 1", "INSERT 0 1"

    async def rows(self, sql: str, *arguments: object) -> list[Row]:
        return [tuple(row) for row in await self._connection.fetch(sql, *arguments)]


class PgDatabase:
    """Made by ``open``; belongs to the event loop it was opened in."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._notes: asyncio.Queue[tuple[Act[object], str]] = asyncio.Queue(_NOTES)
        self._writing = asyncio.create_task(self._write_notes())

    @classmethod
    async def open(cls, url: str) -> Self:
        """Connect, and make the tables or bring them up to date.

        Raises:
            ConfigError, UnavailableError: as ``Link.open``.
        """
        steps = tuple(_as_postgres(step) for step in STEPS)
        link = Link(
            url, PATIENCE_S, schema=SCHEMA, prepare=functools.partial(pg_schema.prepare, schema=SCHEMA, steps=steps)
        )
        await link.open()
        return cls(link)

    async def run(self, act: Act[T], *, durable: bool = True, small: bool = False) -> T:
        """As ``Database.run``."""

        async def work(connection: Any) -> T:
            async with connection.transaction():
                if not durable:
                    await connection.execute(_ASYNC)
                return await act(_Transaction(connection))

        return await self._tried(work)

    async def _tried(self, work: Callable[[Any], Awaitable[T]]) -> T:
        try:
            return await self._link.run(work)
        except UnavailableError as error:
            log.get().warning("database.failed", why=error.message)
            # Strangers read this, before they log in; where the database is, and whose, is not their business.
            why = "PostgreSQL cannot be reached" if error.code == "store-unreachable" else error.message
            raise UnavailableError(f"the session database failed: {why}", code="database-failed") from error

    async def look(self, act: Act[T]) -> T:
        """As ``Database.look``."""
        return await self._tried(lambda connection: act(_Transaction(connection)))

    def tell(self, act: Act[object], what: str) -> None:
        """As ``Database.tell``."""
        try:
            self._notes.put_nowait((act, what))
        except asyncio.QueueFull:
            log.get().error("database.lost", what=what, why="too many notes wait for PostgreSQL")

    async def close(self) -> None:
        """Give the notes that wait their time, then let go."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._notes.join()
        except TimeoutError:
            log.get().error("database.lost", what=f"{self._notes.qsize()} notes", why="PostgreSQL does not take them")
        self._writing.cancel()
        await self._link.close()

    async def _write_notes(self) -> None:
        while True:
            group = [await self._notes.get()]
            while len(group) < _GROUP and not self._notes.empty():
                group.append(self._notes.get_nowait())
            try:
                await self._written(group)
            except Exception as error:  # whatever it was, the next notes have their chance
                log.get().error("database.lost", what="; ".join(what for _, what in group), why=str(error))
            finally:
                for _ in group:
                    self._notes.task_done()

    async def _written(self, group: list[tuple[Act[object], str]]) -> None:
        """Write these notes, however long PostgreSQL is away."""
        while True:
            try:
                await self.run(lambda transaction: _all(transaction, group), durable=False)
                return
            except UnavailableError as error:
                if not isinstance(error.__cause__, UnavailableError) or error.__cause__.code != "store-unreachable":
                    raise
                log.get().warning("database.waits", notes=len(group) + self._notes.qsize(), why=error.message)


async def _all(transaction: Any, group: list[tuple[Act[object], str]]) -> None:
    for act, _ in group:
        await act(transaction)


def _as_postgres(step: str) -> str:
    """The tables' definition in PostgreSQL's words; the connections' search_path says in which schema they are made."""
    words = {" BLOB": " BYTEA", " INTEGER": " BIGINT", " REAL": " DOUBLE PRECISION", " STRICT": ""}
    for ours, theirs in words.items():
        step = step.replace(ours, theirs)
    return step
