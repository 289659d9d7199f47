"""Which store a configuration means: a PostgreSQL URL, or the path of an SQLite file."""

from __future__ import annotations

from pathlib import Path

from hipercow_slurm.errors import ConfigError
from hipercow_slurm.store.base import Store
from hipercow_slurm.store.envelope import Keys, read_key_file
from hipercow_slurm.store.sqlite import SqliteStore

SCHEMES = ("postgresql://", "postgres://")


def is_postgres(where: str) -> bool:
    """True for a PostgreSQL URL."""
    return where.startswith(SCHEMES)


async def open_store(where: str, keys: Keys, *, key_file: Path | None = None) -> Store:
    """Open the store.

    Args:
        key_file: where keys that another instance already uses are looked up.

    Raises:
        ConfigError: ``store-unusable``, ``store-key``; ``store-extra``: PostgreSQL support is not installed.
        UnavailableError: ``store-unreachable``.
    """
    if not is_postgres(where):
        return SqliteStore(Path(where), keys)
    try:
        from hipercow_slurm.store.postgres import PostgresStore
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"PostgreSQL support is not installed: {error}",
            code="store-extra",
            hint="pip install 'hipercow-slurm[postgres]'",
        ) from error
    store = await PostgresStore.open(where, keys)
    if key_file is not None:
        store.reload = lambda: read_key_file(key_file)
    return store
