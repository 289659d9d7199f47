"""The SQLite file of a store: its lock, its tables, connections to it, and the keys its records are sealed with."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from hipercow_slurm.errors import ConfigError
from hipercow_slurm.store.base import KeyUse
from hipercow_slurm.store.disk import sync_directory
from hipercow_slurm.store.writer import unavailable

SCHEMA_VERSION = 2  # 2: with the tables of keys
BUSY_TIMEOUT_S = 10.0  # somebody's sqlite3 shell on the file

_SCHEMA = """
CREATE TABLE IF NOT EXISTS credential (
    uid INTEGER PRIMARY KEY,
    principal TEXT NOT NULL,
    starttime INTEGER NOT NULL,
    endtime INTEGER NOT NULL,
    renew_till INTEGER NOT NULL,
    tickets INTEGER NOT NULL,
    addressless INTEGER NOT NULL,
    key_id TEXT NOT NULL,
    wrapped BLOB NOT NULL,
    sealed BLOB NOT NULL
) STRICT
"""
# Keys that seal or have sealed; a key that only waits in the key file for its turn is in neither.
_USED = "CREATE TABLE IF NOT EXISTS store_key (key_id TEXT PRIMARY KEY) STRICT"
_RETIRED = "CREATE TABLE IF NOT EXISTS retired_key (key_id TEXT PRIMARY KEY) STRICT"
_RECORDS = "SELECT key_id, count(*) FROM credential GROUP BY key_id"


def key_use(path: Path) -> KeyUse:
    """What ``SqliteStore.key_use`` says, for another process than the one that has the store; ``sealing`` is empty.

    Raises:
        UnavailableError: ``store-failed``: there is no such database.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)) as db:
            return keys_of(db)
    except sqlite3.Error as error:
        raise unavailable(error) from error


def keys_of(db: sqlite3.Connection) -> KeyUse:
    """Which keys the records of this connection's database are sealed with; ``sealing`` is empty."""
    retired = frozenset(row[0] for row in db.execute("SELECT key_id FROM retired_key"))
    used = frozenset(row[0] for row in db.execute("SELECT key_id FROM store_key"))
    records = dict(db.execute(_RECORDS).fetchall())
    return KeyUse(records, retired, frozenset(), used | frozenset(records))


def lock(path: Path) -> int:
    """Lock ``path``.lock until the descriptor that is returned is closed.

    Raises:
        ConfigError: ``store-unusable``: another process has it, or it cannot be made.
    """
    try:
        handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot use the store {path}: {error}", code="store-unusable") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise ConfigError(f"the store {path} is in use by another process", code="store-unusable") from error
    return handle


def opened(path: Path) -> sqlite3.Connection:
    """The writer's connection; makes file and tables when missing.

    Raises:
        ConfigError: ``store-unusable``: the file cannot be used, or is not of a schema we know.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = connect(path)
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if not 0 <= version <= SCHEMA_VERSION:
            raise ConfigError(
                f"{path} has schema {version}, this program knows {SCHEMA_VERSION}", code="store-unusable"
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")
        db.execute(_SCHEMA)
        db.execute(_USED)
        db.execute(_RETIRED)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        sync_directory(path.parent)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"cannot use the store {path}: {error}", code="store-unusable") from error
    return db


def connect(path: Path) -> sqlite3.Connection:
    """A connection that commits each statement unless told otherwise."""
    # Each connection is used by one thread at a time, the writer's after having been opened by the main one.
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S)
