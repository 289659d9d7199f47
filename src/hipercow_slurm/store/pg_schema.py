"""The tables in PostgreSQL, and how they come to be: numbered steps, each applied once, under an advisory lock.

Everything lives in a schema of its own, ``hipercow_auksd``; the database may hold other things.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hipercow_slurm.errors import ConfigError

# Any number nobody else takes: instances that start together change the tables one after the other.
MIGRATION_LOCK = 0x6869706572636F77

# Step n takes version n-1 to n. A step that was released is never changed; add another.
MIGRATIONS = (
    """
    CREATE TABLE hipercow_auksd.store_key (key_id text PRIMARY KEY);
    CREATE TABLE hipercow_auksd.retired_key (key_id text PRIMARY KEY);
    CREATE TABLE hipercow_auksd.credential (
        uid bigint PRIMARY KEY CHECK (uid BETWEEN 0 AND 4294967295),
        principal text NOT NULL,
        starttime bigint NOT NULL,
        endtime bigint NOT NULL,
        renew_till bigint NOT NULL,
        tickets integer NOT NULL,
        addressless boolean NOT NULL,
        -- The reference is the fence: nobody can store a record under a key that has been retired.
        key_id text NOT NULL REFERENCES hipercow_auksd.store_key,
        wrapped bytea NOT NULL,
        sealed bytea NOT NULL,
        version uuid NOT NULL,
        due double precision NOT NULL,
        failures integer NOT NULL DEFAULT 0,
        claimed_by uuid,
        claimed_until timestamptz NOT NULL DEFAULT '-infinity'
    );
    CREATE INDEX ON hipercow_auksd.credential (due);
    CREATE INDEX ON hipercow_auksd.credential (key_id);
    CREATE TABLE hipercow_auksd.instance (
        id uuid PRIMARY KEY,
        host text NOT NULL,
        key_id text NOT NULL,
        alive_until timestamptz NOT NULL
    );
    """,
)


async def prepare(
    connection: Any, where: str, *, schema: str = "hipercow_auksd", steps: Sequence[str] = MIGRATIONS
) -> None:
    """Make the tables, or bring them up to date.

    Raises:
        ConfigError: ``store-unusable``: they are from a later version of this program, or the server does not keep
            what it has acknowledged.
    """
    if await connection.fetchval("SHOW fsync") != "on":
        raise ConfigError(
            f"{where}: the server runs with fsync = off and would lose acknowledged tickets in a power cut",
            code="store-unusable",
            hint="set fsync = on in postgresql.conf",
        )
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
        await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        await connection.execute(f"CREATE TABLE IF NOT EXISTS {schema}.version (number integer NOT NULL)")
        found = await connection.fetchval(f"SELECT max(number) FROM {schema}.version") or 0  # noqa: S608
        if found > len(steps):
            raise ConfigError(f"{where} has schema {found}, this program knows {len(steps)}", code="store-unusable")
        for number, step in enumerate(steps[found:], start=found + 1):
            await connection.execute(step)
            await connection.execute(f"INSERT INTO {schema}.version VALUES ($1)", number)  # noqa: S608
