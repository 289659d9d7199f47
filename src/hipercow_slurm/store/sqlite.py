"""The store in one SQLite file: WAL, synchronous=FULL, one writer thread with group commit.

Rule 1: only the writer thread (``writer.py``) changes the database.
Rule 2: reads happen on the caller's thread (about 10 us) on a connection of their own; WAL readers wait for nobody.
Rule 3: what was read or stored lately is remembered (``recent.py``), by the event loop alone: it learns of a change
before whoever asked for it does, and until then what was there before is as good an answer.
Rule 4: one process per file, held by a lock that dies with the process (``sqlite_file.py``).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from hipercow_slurm.errors import InternalError
from hipercow_slurm.store import sqlite_file
from hipercow_slurm.store.base import Entry, KeyUse, Put, PutRule, RemoveRule, Sealed, Snapshot
from hipercow_slurm.store.envelope import Box, Keys
from hipercow_slurm.store.recent import Opened, Recent
from hipercow_slurm.store.record import SealedRow, check_keys, columns, entry_of
from hipercow_slurm.store.writer import GroupWriter, unavailable
from hipercow_slurm.values import KrbCred

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


class SqliteStore:
    """A ``Store`` in the file ``path``, made with mode 0600 when missing.

    Raises:
        ConfigError: ``store-unusable``: the path is no database of ours or is in use; ``store-key``: it holds records
            sealed with a key that ``keys`` does not have. Nothing is changed then.
    """

    def __init__(self, path: Path, keys: Keys) -> None:
        self._path = path
        self._keys = keys
        self._lock = sqlite_file.lock(path)
        try:
            self._db = sqlite_file.opened(path)
            check_keys(str(path), sqlite_file.keys_of(self._db), keys)
            self._db.execute("INSERT OR IGNORE INTO store_key SELECT DISTINCT key_id FROM credential")
            self._db.execute(_USE_KEY, (keys.active,))
        except BaseException:
            os.close(self._lock)
            raise
        self._read = sqlite_file.connect(path)
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
            check_keys(str(self._path), sqlite_file.keys_of(db), keys)
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
            use = sqlite_file.keys_of(db)
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
            use = sqlite_file.keys_of(self._read)
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
            self._db = sqlite_file.connect(path)
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
