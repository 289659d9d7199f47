"""The store in one SQLite file: WAL, synchronous=FULL, one writer thread with group commit.

Rule 1: only the writer thread (``writer.py``) changes the database.
Rule 2: reads happen on the caller's thread (about 10 us) on a connection of their own; WAL readers wait for nobody.
Rule 3: one process per file, held by a lock that dies with the process.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hipercow_slurm.errors import ConfigError
from hipercow_slurm.store.base import Entry, Put, PutRule, RemoveRule, Sealed
from hipercow_slurm.store.envelope import Box, Keys
from hipercow_slurm.store.writer import GroupWriter, unavailable
from hipercow_slurm.values import KrbCred, TicketTimes

SCHEMA_VERSION = 1
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
# Columns always in the table's order: the first seven are the Entry, the other three the Box.
_BY_UID = "SELECT * FROM credential WHERE uid = ?"
_EVERY = "SELECT * FROM credential ORDER BY uid"
_EVERY_ENTRY = (
    "SELECT uid, principal, starttime, endtime, renew_till, tickets, addressless FROM credential ORDER BY uid"
)
_REPLACE = "INSERT OR REPLACE INTO credential VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM credential WHERE uid = ?"


@dataclass(frozen=True, slots=True)
class SealedRow:
    """A row, decrypted on demand."""

    entry: Entry
    _box: Box
    _keys: Keys

    def open(self) -> KrbCred:
        """Decrypt it."""
        entry = self.entry
        data = self._keys.open(entry, self._box)
        return KrbCred(data, entry.principal, entry.times, entry.tickets, entry.addressless)


class SqliteStore:
    """A ``Store`` in the file ``path``, made with mode 0600 when missing.

    Raises:
        ConfigError: ``store-unusable``: the path is no database of ours or is in use; ``store-key``: it holds records
            sealed with a key that ``keys`` does not have. Nothing is changed then.
    """

    def __init__(self, path: Path, keys: Keys) -> None:
        self._path = path
        self._keys = keys
        self._lock = _lock(path)
        try:
            self._db = _open(path)
            self._check_keys(path)
        except BaseException:
            os.close(self._lock)
            raise
        self._read = _connect(path)
        self._writer = GroupWriter(self._db)

    async def put(self, uid: int, cred: KrbCred, rule: PutRule) -> Put:
        """See ``Store``."""
        new = Entry.of(uid, cred)

        def work(db: sqlite3.Connection) -> Put:
            old = _one_entry(db, uid)
            if not rule(old, new):
                return Put(stored=False, entry=old)
            box = self._keys.seal(new, cred.der)
            db.execute(_REPLACE, (*_columns(new), box.key_id, box.wrapped, box.sealed))
            return Put(stored=True, entry=new)

        done: Put = await self._writer.submit(work)
        return done

    async def get(self, uid: int) -> Sealed | None:
        """See ``Store``."""
        rows = self._select(_BY_UID, uid)
        return self._sealed(rows[0]) if rows else None

    async def remove(self, uid: int, rule: RemoveRule) -> Entry | None:
        """See ``Store``."""

        def work(db: sqlite3.Connection) -> Entry | None:
            old = _one_entry(db, uid)
            if old is None or not rule(old):
                return None
            db.execute(_DELETE, (uid,))
            return old

        gone: Entry | None = await self._writer.submit(work)
        return gone

    async def entries(self) -> list[Entry]:
        """See ``Store``."""
        return [_entry(row) for row in self._select(_EVERY_ENTRY)]

    def dump(self) -> Iterator[Sealed]:
        """See ``Store``."""
        with closing(_connect(self._path)) as db:
            try:
                for row in db.execute(_EVERY):
                    yield self._sealed(row)
            except sqlite3.Error as error:
                raise unavailable(error) from error

    async def close(self) -> None:
        """See ``Store``."""
        self._writer.stop()
        self._read.close()
        self._db.close()
        os.close(self._lock)

    def _select(self, statement: str, *values: int) -> list[Any]:
        try:
            return self._read.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise unavailable(error) from error

    def _sealed(self, row: Any) -> SealedRow:
        return SealedRow(_entry(row), Box(*row[7:]), self._keys)

    def _check_keys(self, path: Path) -> None:
        found = {row[0] for row in self._db.execute("SELECT DISTINCT key_id FROM credential")}
        unknown = sorted(name for name in found if name not in self._keys)
        if unknown:
            raise ConfigError(
                f"{path} holds credentials sealed with key {', '.join(unknown)}, which is not in the key file",
                code="store-key",
                hint="put the key that made them on a further line of the key file; nothing was changed",
            )


def _lock(path: Path) -> int:
    """Lock ``path``.lock for the life of this process."""
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


def _open(path: Path) -> sqlite3.Connection:
    """The writer's connection; makes file and table when missing."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = _connect(path)
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise ConfigError(
                f"{path} has schema {version}, this program knows {SCHEMA_VERSION}", code="store-unusable"
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")
        db.execute(_SCHEMA)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        _sync_directory(path.parent)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"cannot use the store {path}: {error}", code="store-unusable") from error
    return db


def _connect(path: Path) -> sqlite3.Connection:
    # Each connection is used by one thread at a time, the writer's after having been opened by the main one.
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S)


def _sync_directory(path: Path) -> None:
    """SQLite syncs the file; the new file's name is ours to sync."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _columns(entry: Entry) -> tuple[Any, ...]:
    t = entry.times
    return (entry.uid, entry.principal, t.starttime, t.endtime, t.renew_till, entry.tickets, int(entry.addressless))


def _entry(row: Any) -> Entry:
    return Entry(row[0], row[1], TicketTimes(row[2], row[3], row[4]), row[5], bool(row[6]))


def _one_entry(db: sqlite3.Connection, uid: int) -> Entry | None:
    row = db.execute(_BY_UID, (uid,)).fetchone()
    return _entry(row) if row else None
