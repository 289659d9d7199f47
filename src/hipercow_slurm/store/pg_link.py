"""Connections to PostgreSQL that survive its restarts: each piece of work is tried until its deadline.

Rule 1: work may run more than once (the connection can break before or after the server has done it), so each piece
finds out from the database whether it is done already.
Rule 2: past the deadline the caller gets UnavailableError; nobody waits for a server that is down longer than that.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

from hipercow_slurm.errors import ConfigError, UnavailableError
from hipercow_slurm.store import pg_schema

T = TypeVar("T")
Prepare = Callable[[Any, str], Awaitable[None]]

POOL = 10
CONNECT_S = 3.0
PAUSE_S = 0.1
SCHEMA = "hipercow_auksd"
# What a restart, a crash or a broken network looks like from here.
BROKEN = (
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.OperatorInterventionError,  # shutting down, crashing, starting up, terminated by an admin
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a statement met the server's good-bye
    asyncpg.exceptions.TooManyConnectionsError,
    OSError,
    TimeoutError,
)
# Lowering what the site has set (remote_apply) is not ours; an ack without a sync is not theirs.
_DURABLE = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """One that keeps its settings: the pool's RESET ALL took ``_DURABLE`` back, and cost every use a round trip.

    None of our work leaves anything behind: no session lock, cursor or LISTEN; an open transaction is still ended.
    """

    def get_reset_query(self) -> str:
        return ""


class Link:
    """A pool of connections; belongs to the event loop it was opened in.

    Args:
        url: ``postgresql://...`` as libpq has it.
        patience_s: how long a piece of work is tried.
        schema: where the tables are; its name tells the program's connections apart, too.
        prepare: makes the tables: ``prepare(connection, name)``.
    """

    def __init__(
        self, url: str, patience_s: float, *, schema: str = SCHEMA, prepare: Prepare = pg_schema.prepare
    ) -> None:
        self._url = url
        self._patience_s = patience_s
        self._settings = {"search_path": schema, "application_name": schema.replace("hipercow_", "hipercow-slurm ")}
        self._prepare = prepare
        self._pool: asyncpg.Pool[Any] | None = None
        self.name = without_password(url)

    async def open(self) -> None:
        """Connect and prepare the tables.

        Raises:
            ConfigError: ``store-unusable``: the URL is none, the server refuses us, or see ``pg_schema.prepare``.
            UnavailableError: ``store-unreachable``.
        """
        try:
            self._pool = asyncpg.create_pool(
                self._url,
                min_size=0,
                max_size=POOL,
                timeout=CONNECT_S,
                command_timeout=self._patience_s,
                server_settings=self._settings,
                init=_init,
                connection_class=_Connection,
            )
            await self._pool
            await self.run(lambda connection: self._prepare(connection, self.name))
        except (ValueError, asyncpg.exceptions.ClientConfigurationError) as error:
            raise ConfigError(f"{self.name} is not a PostgreSQL URL: {error}", code="store-unusable") from error

    async def close(self) -> None:
        """Close all connections; those in use at once."""
        if self._pool is not None:
            self._pool.terminate()

    async def run(self, work: Callable[[Any], Awaitable[T]], *, patience_s: float | None = None) -> T:
        """What ``work(connection)`` returns; see rule 1.

        Raises:
            UnavailableError: ``store-unreachable``, ``store-full`` or ``store-failed``.
        """
        assert self._pool is not None, "open() comes first"
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._patience_s if patience_s is None else patience_s)
        while True:
            try:
                async with asyncio.timeout_at(deadline), self._pool.acquire() as connection:
                    try:
                        return await work(connection)
                    except BROKEN:
                        connection.terminate()  # whatever state it is in, nobody shall get it from the pool
                        raise
            except BROKEN as error:
                if loop.time() + PAUSE_S >= deadline:
                    raise _unreachable(self.name, error) from error
                await asyncio.sleep(PAUSE_S)
            except asyncpg.PostgresError as error:
                raise refused(self.name, error) from error

    @contextlib.asynccontextmanager
    async def apart(self) -> AsyncIterator[Any]:
        """A connection of its own, for what takes long."""
        try:
            connection = await asyncpg.connect(self._url, timeout=CONNECT_S, server_settings=self._settings)
        except BROKEN as error:
            raise _unreachable(self.name, error) from error
        try:
            yield connection
        except BROKEN as error:
            raise _unreachable(self.name, error) from error
        except asyncpg.PostgresError as error:
            raise refused(self.name, error) from error
        finally:
            connection.terminate()


async def _init(connection: Any) -> None:
    await connection.execute(_DURABLE)


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    return re.sub(r"(://[^:@/]*):[^@/]*@|((?:^|[?&])password=)[^&]*", _hide, url)


def _hide(match: re.Match[str]) -> str:
    return f"{match[1]}:***@" if match[1] is not None else f"{match[2]}***"


def refused(where: str, error: asyncpg.PostgresError) -> UnavailableError | ConfigError:
    """What a caller is told when the server said no."""
    if isinstance(
        error,
        asyncpg.InvalidCatalogNameError
        | asyncpg.exceptions.InvalidAuthorizationSpecificationError
        | asyncpg.InsufficientPrivilegeError,
    ):
        return ConfigError(f"{where}: {error}", code="store-unusable")
    full = isinstance(error, asyncpg.DiskFullError)
    # The server's detail would quote the row; its first line does not.
    return UnavailableError(f"the store failed: {error.args[0]}", code="store-full" if full else "store-failed")


def _unreachable(where: str, error: BaseException) -> UnavailableError:
    why = str(error) or type(error).__name__
    return UnavailableError(
        f"the store {where} cannot be reached: {why}",
        code="store-unreachable",
        hint="is PostgreSQL running? What was being stored may or may not be there",
    )
