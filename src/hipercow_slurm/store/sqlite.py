"""The store in one SQLite file: WAL, synchronous=FULL, one writer thread with group commit.

Rule 1: only the writer thread (``writer.py``) changes the database.
Rule 2: reads happen on the caller's thread (about 10 us) on a connection of their own; WAL readers wait for nobody.
Rule 3: what was read or stored lately is remembered (``recent.py``), by the event loop alone: it learns of a change
before whoever asked for it does, and until then what was there before is as good an answer.
Rule 4: one process per file, held by a lock that dies with the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from hipercow_slurm.errors import ConfigError, InternalError
from hipercow_slurm.store.base import Entry, KeyUse, Put, PutRule, RemoveRule, Sealed, Snapshot
from hipercow_slurm.store.envelope import Box, Keys
from hipercow_slurm.store.recent import Opened, Recent
from hipercow_slurm.store.record import SealedRow, check_keys, columns, entry_of
from hipercow_slurm.store.writer import GroupWriter, unavailable
from hipercow_slurm.values import KrbCred

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
_USE_KEY = "INSERT OR IGNORE INTO store_key VALUES (?)"
# Columns always in the table's order: the first seven are the Entry, the other three the Box.
_BY_UID = "SELECT * FROM credential WHERE uid = ?"
_BY_UIDS = "SELECT * FROM credential WHERE uid IN ({})"
_EVERY = "SELECT * FROM credential ORDER BY uid"
_ENTRIES = "SELECT uid, principal, starttime, endtime, renew_till, tickets, addressless FROM credential"
_ENTRY_BY_UID = f"{_ENTRIES} WHERE uid = ?"
_FEW = 16
_FEW_ENTRIES = f"{_ENTRIES} WHERE uid IN ({', '.join('?' * _FEW)})"
_EVERY_ENTRY = f"{_ENTRIES} ORDER BY uid"
_REPLACE = "INSERT OR REPLACE INTO credential VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM credential WHERE uid = ?"
_OTHER_KEYS = "SELECT * FROM credential WHERE key_id <> ? LIMIT ?"
_REWRAP = "UPDATE credential SET key_id = ?, wrapped = ? WHERE uid = ?"
_RECORDS = "SELECT key_id, count(*) FROM credential GROUP BY key_id"


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
            check_keys(str(path), _key_use(self._db), keys)
            self._db.execute("INSERT OR IGNORE INTO store_key SELECT DISTINCT key_id FROM credential")
            self._db.execute(_USE_KEY, (keys.active,))
        except BaseException:
            os.close(self._lock)
            raise
        self._read = _connect(path)
        self._writer = GroupWriter(self._db)
        self._recent = Recent()

    async def put(self, uid: int, cred: KrbCred, rule: PutRule) -> Put:
        """See ``Store``."""
        return (await self._put({uid: cred}, rule, self._recent.put))[uid]

    async def put_all(self, creds: Mapping[int, KrbCred], rule: PutRule) -> Mapping[int, Put]:
        """See ``Store``; all of them or none are stored. What is remembered is replaced; nobody has asked for more."""
        return await self._put(creds, rule, self._recent.refresh)

    async def _put(
        self, creds: Mapping[int, KrbCred], rule: PutRule, remember: Callable[[int, Opened], None]
    ) -> Mapping[int, Put]:
        new = [Entry.of(uid, creds[uid]) for uid in sorted(creds)]  # as they are in the file

        def work(db: sqlite3.Connection) -> dict[int, Put]:
            old = _some_entries(db, [one.uid for one in new])
            done = {one.uid: _decided(rule, old.get(one.uid), one) for one in new}
            stored = [one for one in new if done[one.uid].stored]
            db.executemany(_REPLACE, [self._row(one, creds[one.uid]) for one in stored])
            return done

        def settled(done: dict[int, Put] | None) -> None:
            for one in new:
                if done is None:
                    self._recent.drop(one.uid)
                elif done[one.uid].stored:
                    remember(one.uid, Opened(one, creds[one.uid]))

        found: dict[int, Put] = await self._writer.submit(work, settled)
        return found

    async def get(self, uid: int) -> Sealed | None:
        """See ``Store``."""
        return self.get_now(uid)

    def get_now(self, uid: int) -> Sealed | None:
        """See ``ReadsAtOnce``."""
        known = self._recent.get(uid)
        if known is not None:
            return known
        rows = self._select(_BY_UID, uid)
        if not rows:
            return None
        sealed = self._sealed(rows[0])
        try:
            opened = Opened(sealed.entry, sealed.open())
        except InternalError:  # whoever opens it is told
            return sealed
        self._recent.put(uid, opened)
        return opened

    async def get_all(self, uids: Sequence[int]) -> Mapping[int, Sealed]:
        """See ``Store``; what is remembered is not looked at and does not change: nobody has asked for these."""
        places = ", ".join("?" * len(uids))
        return {row[0]: self._sealed(row) for row in self._select(_BY_UIDS.format(places), *uids)}

    async def remove(self, uid: int, rule: RemoveRule) -> Entry | None:
        """See ``Store``."""

        def work(db: sqlite3.Connection) -> Entry | None:
            old = _one_entry(db, uid)
            if old is None or not rule(old):
                return None
            db.execute(_DELETE, (uid,))
            return old

        gone: Entry | None = await self._writer.submit(work, lambda _: self._recent.drop(uid))
        return gone

    async def entries(self) -> list[Entry]:
        """See ``Store``."""
        return [entry_of(row) for row in self._select(_EVERY_ENTRY)]

    def dump(self) -> Iterator[Sealed]:
        """See ``Store``."""
        with closing(self.snapshot()) as snapshot:
            yield from snapshot

    def snapshot(self) -> Snapshot:
        """See ``Store``."""
        return _Snapshot(self._path, self._sealed)

    async def adopt(self, keys: Keys) -> None:
        """See ``Store``."""

        def work(db: sqlite3.Connection) -> None:
            check_keys(str(self._path), _key_use(db), keys)
            db.execute(_USE_KEY, (keys.active,))
            self._keys = keys  # on the writer's thread: no record is being sealed

        await self._writer.submit(work)

    async def rewrap(self, limit: int) -> int:
        """See ``Store``."""

        def work(db: sqlite3.Connection) -> int:
            rows = db.execute(_OTHER_KEYS, (self._keys.active, limit)).fetchall()
            changes = []
            for row in rows:
                with contextlib.suppress(InternalError):  # a damaged record stays as it is, and keeps its key in use
                    box = self._keys.rewrap(entry_of(row), Box(*row[7:]))
                    changes.append((box.key_id, box.wrapped, row[0]))
            db.executemany(_REWRAP, changes)
            return len(changes)

        done: int = await self._writer.submit(work)
        return done

    async def retire(self, key_id: str) -> bool:
        """See ``Store``."""

        def work(db: sqlite3.Connection) -> bool:
            use = _key_use(db)
            if key_id == self._keys.active or key_id in use.records or key_id not in use.known | use.retired:
                return False
            db.execute("INSERT OR IGNORE INTO retired_key VALUES (?)", (key_id,))
            db.execute("DELETE FROM store_key WHERE key_id = ?", (key_id,))
            return True

        done: bool = await self._writer.submit(work)
        return done

    async def key_use(self) -> KeyUse:
        """See ``Store``."""
        try:
            use = _key_use(self._read)
        except sqlite3.Error as error:
            raise unavailable(error) from error
        return KeyUse(use.records, use.retired, frozenset({self._keys.active}), use.known)

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

    def _row(self, entry: Entry, cred: KrbCred) -> tuple[Any, ...]:
        box = self._keys.seal(entry, cred.der)
        return (*columns(entry), box.key_id, box.wrapped, box.sealed)

    def _sealed(self, row: Any) -> SealedRow:
        return SealedRow(entry_of(row), Box(*row[7:]), self._keys)


class _Snapshot:
    """See ``base.Snapshot``: a read transaction on a connection of its own."""

    def __init__(self, path: Path, sealed: Callable[[Any], Sealed]) -> None:
        self._sealed = sealed
        try:
            self._db = _connect(path)
            self._db.execute("BEGIN")  # the moment is that of the first read
        except sqlite3.Error as error:
            raise unavailable(error) from error

    def __iter__(self) -> Iterator[Sealed]:
        try:
            for row in self._db.execute(_EVERY):
                yield self._sealed(row)
        except sqlite3.Error as error:
            raise unavailable(error) from error

    def close(self) -> None:
        self._db.close()


def key_use(path: Path) -> KeyUse:
    """What ``SqliteStore.key_use`` says, for another process than the one that has the store; ``sealing`` is empty.

    Raises:
        UnavailableError: ``store-failed``: there is no such database.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)) as db:
            return _key_use(db)
    except sqlite3.Error as error:
        raise unavailable(error) from error


def _key_use(db: sqlite3.Connection) -> KeyUse:
    retired = frozenset(row[0] for row in db.execute("SELECT key_id FROM retired_key"))
    used = frozenset(row[0] for row in db.execute("SELECT key_id FROM store_key"))
    records = dict(db.execute(_RECORDS).fetchall())
    return KeyUse(records, retired, frozenset(), used | frozenset(records))


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


def _one_entry(db: sqlite3.Connection, uid: int) -> Entry | None:
    row = db.execute(_ENTRY_BY_UID, (uid,)).fetchone()
    return entry_of(row) if row else None


def _some_entries(db: sqlite3.Connection, uids: Sequence[int]) -> dict[int, Entry]:
    """Those that are there, by uid: a few in a statement, always as many, so that it is prepared once."""
    found = {}
    whole = len(uids) - len(uids) % _FEW
    for begin in range(0, whole, _FEW):
        for row in db.execute(_FEW_ENTRIES, uids[begin : begin + _FEW]):
            found[row[0]] = entry_of(row)
    for uid in uids[whole:]:
        if (one := _one_entry(db, uid)) is not None:
            found[uid] = one
    return found


def _decided(rule: PutRule, old: Entry | None, new: Entry) -> Put:
    return Put(stored=True, entry=new) if rule(old, new) else Put(stored=False, entry=old)
