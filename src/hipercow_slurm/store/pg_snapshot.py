"""All records as they are at one moment, out of PostgreSQL, for a thread that reads at its own pace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

from hipercow_slurm.store import pg_sql
from hipercow_slurm.store.base import Sealed
from hipercow_slurm.store.pg_link import Link

ROWS = 200  # in memory at a time


class PgSnapshot:
    """See ``base.Snapshot``: a cursor in one transaction, on a connection of its own.

    Args:
        loop: what the connection belongs to; never the calling thread's.
        sealed: a row as what the caller is given.
    """

    def __init__(self, link: Link, loop: asyncio.AbstractEventLoop, sealed: Callable[[Any], Sealed]) -> None:
        self._steps = _steps(link)
        self._loop = loop
        self._sealed = sealed

    def __iter__(self) -> Iterator[Sealed]:
        while rows := asyncio.run_coroutine_threadsafe(_next(self._steps), self._loop).result():
            for row in rows:
                yield self._sealed(row)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._steps.aclose(), self._loop).result()


async def _steps(link: Link) -> AsyncGenerator[list[Any], None]:
    """Rows, none at the end of all, and then all once more."""
    async with link.apart() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        while True:
            cursor = await connection.cursor(pg_sql.EVERY)
            while rows := await cursor.fetch(ROWS):
                yield rows
            yield []


async def _next(steps: AsyncGenerator[list[Any], None]) -> list[Any]:
    return await anext(steps)
