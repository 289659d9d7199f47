"""The store in PostgreSQL, for several instances at once.

Rule 1: a change is one statement that names the version it replaces (compare and swap); if somebody was faster the
rule is asked again. No lock is held while Python thinks.
Rule 2: a writer picks its record's version at random. A connection that breaks during a write leaves open whether it
was done; looking for that version tells, so a write is repeated without being done twice.
Rule 3: who renews a record has it claimed until a time of the server's clock, and moves that time on while at work;
the claims of one who died run out. ``FOR UPDATE SKIP LOCKED`` shares out what is due without waiting.
Rule 4: records reference their key; the database itself refuses one under a retired key (see ``pg_schema``).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import asyncpg

from hipercow_slurm.errors import Error, InternalError, UnavailableError
from hipercow_slurm.store import pg_sql
from hipercow_slurm.store.base import Entry, KeyUse, Put, PutRule, RemoveRule, Sealed, Snapshot
from hipercow_slurm.store.envelope import Box, Keys
from hipercow_slurm.store.pg_link import Link
from hipercow_slurm.store.pg_snapshot import PgSnapshot
from hipercow_slurm.store.record import SealedRow, check_keys, columns, entry_of
from hipercow_slurm.values import KrbCred

PATIENCE_S = 5.0
LEASE_S = 4.0


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to renew one record; ``version`` is the record it was given for."""

    uid: int
    failures: int
    version: uuid.UUID


class PostgresStore:
    """A ``Store`` in a PostgreSQL database; ``await PostgresStore.open(...)`` makes one.

    Args:
        due: when a record is to be renewed first, seconds since 1970; set it before anything is stored.
    """

    def __init__(self, link: Link, keys: Keys) -> None:
        self._link = link
        self._keys = keys
        self._loop = asyncio.get_running_loop()
        self.id = uuid.uuid4()
        self.due: Callable[[Entry], float] = lambda entry: 0.0  # at once: then it is planned
        self.reload: Callable[[], Keys] | None = None
        self.lease_s = LEASE_S
        self._lease = timedelta(seconds=LEASE_S)

    @classmethod
    async def open(cls, url: str, keys: Keys, *, patience_s: float = PATIENCE_S) -> PostgresStore:
        """Connect, bring the tables up to date, check the keys.

        Raises:
            ConfigError: ``store-unusable``, ``store-key``: nothing was changed then.
            UnavailableError: ``store-unreachable``.
        """
        link = Link(url, patience_s)
        try:
            await link.open()
            store = cls(link, keys)
            await store.adopt(keys)
        except BaseException:
            await link.close()
            raise
        return store

    async def put(self, uid: int, cred: KrbCred, rule: PutRule) -> Put:
        """See ``Store``. UnavailableError ``store-unreachable`` leaves open whether it was stored."""
        new, mine = Entry.of(uid, cred), uuid.uuid4()

        async def work(connection: Any) -> Put:
            while True:
                row = await connection.fetchrow(pg_sql.ONE, uid)
                old = entry_of(row) if row else None
                if row and row["version"] == mine:
                    return Put(stored=True, entry=new)
                if not rule(old, new):
                    return Put(stored=False, entry=old)
                box = self._keys.seal(new, cred.der)
                values = (*columns(new), box.key_id, box.wrapped, box.sealed, mine, self.due(new))
                if row is None:
                    done = await connection.fetchval(pg_sql.INSERT, *values)
                else:
                    done = await connection.fetchval(pg_sql.REPLACE, *values, row["version"])
                if done is not None:
                    return Put(stored=True, entry=new)

        done: Put = await self._fenced(work)
        return done

    async def put_all(self, creds: Mapping[int, KrbCred], rule: PutRule) -> Mapping[int, Put]:
        """See ``Store``."""
        puts = [self.put(uid, cred, rule) for uid, cred in creds.items()]
        found = await asyncio.gather(*puts, return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return dict(zip(creds, cast(list[Put], found), strict=True))

    async def get(self, uid: int) -> Sealed | None:
        """See ``Store``."""
        row = await self._link.run(lambda connection: connection.fetchrow(pg_sql.ONE, uid))
        return self._sealed(row) if row else None

    async def get_all(self, uids: Sequence[int]) -> Mapping[int, Sealed]:
        """See ``Store``."""
        rows = await self._link.run(lambda connection: connection.fetch(pg_sql.SEVERAL, list(uids)))
        return {row["uid"]: self._sealed(row) for row in rows}

    async def remove(self, uid: int, rule: RemoveRule) -> Entry | None:
        """See ``Store``."""
        trying: Entry | None = None

        async def work(connection: Any) -> Entry | None:
            nonlocal trying
            while (row := await connection.fetchrow(pg_sql.ONE, uid)) is not None:
                old = entry_of(row)
                if not rule(old):
                    return None
                trying = old
                if await connection.fetchval(pg_sql.DELETE, uid, row["version"]) is not None:
                    return old
                trying = None  # somebody else was faster
            return trying  # gone: by us, if a try was cut off by a broken connection

        return await self._link.run(work)

    async def entries(self) -> list[Entry]:
        """See ``Store``."""
        rows = await self._link.run(lambda c: c.fetch(pg_sql.ENTRIES))
        return [entry_of(row) for row in rows]

    def dump(self) -> Iterator[Sealed]:
        """See ``Store``."""
        with contextlib.closing(self.snapshot()) as snapshot:
            yield from snapshot

    def snapshot(self) -> Snapshot:
        """See ``Store``."""
        return PgSnapshot(self._link, self._loop, self._sealed)

    async def adopt(self, keys: Keys) -> None:
        """See ``Store``."""

        async def work(connection: Any) -> None:
            async with connection.transaction():
                use = await _key_use(connection)
                check_keys(self._link.name, use, keys)
                await connection.execute(pg_sql.NEW_KEY, keys.active)

        await self._link.run(work)
        self._keys = keys
        await self.beat(())

    async def rewrap(self, limit: int) -> int:
        """See ``Store``."""

        async def work(connection: Any) -> int:
            done = 0
            for row in await connection.fetch(pg_sql.OTHER_KEYS, self._keys.active, limit):
                with contextlib.suppress(InternalError):  # a damaged record stays as it is, and keeps its key in use
                    box = self._keys.rewrap(entry_of(row), Box(*row[7:10]))
                    values = (box.key_id, box.wrapped, row["uid"], row["version"], row["key_id"])
                    done += await connection.execute(pg_sql.REWRAP, *values) == "UPDATE 1"
            return done

        count: int = await self._fenced(work)
        return count

    async def retire(self, key_id: str) -> bool:
        """See ``Store``."""
        if key_id == self._keys.active:
            return False

        async def work(connection: Any) -> bool:
            try:
                async with connection.transaction():
                    if key_id in (await _key_use(connection)).sealing:
                        return False
                    if await connection.execute(pg_sql.DROP_KEY, key_id) == "DELETE 0":
                        # Retired before, or never used: one that waits on a further line for its turn.
                        return key_id in (await _key_use(connection)).retired
                    await connection.execute(pg_sql.RETIRE_KEY, key_id)
            except asyncpg.ForeignKeyViolationError:
                return False
            return True

        return await self._link.run(work)

    async def key_use(self) -> KeyUse:
        """See ``Store``."""
        return await self._link.run(_key_use)

    async def close(self) -> None:
        """See ``Store``; what is claimed is free for others at once."""
        with contextlib.suppress(UnavailableError):
            await self._link.run(self._leave, patience_s=1.0)
        await self._link.close()

    # Sharing out renewals

    async def claim(self, now: float, limit: int) -> list[Claim]:
        """Claim up to ``limit`` records that are due, earliest first; nobody else has them for ``LEASE_S``."""
        rows = await self._link.run(lambda c: c.fetch(pg_sql.CLAIM, now, limit, self.id, self._lease))
        return [Claim(row[0], row[1], row[2]) for row in rows]

    async def over(self, now: float, limit: int) -> list[int]:
        """Uids whose credential has expired and is due."""
        return [row[0] for row in await self._link.run(lambda c: c.fetch(pg_sql.OVER, now, limit))]

    async def settle(self, claim: Claim, due: float, failures: int) -> None:
        """Give a claim back; ``due`` and ``failures`` count if the record is still the one it was claimed for."""
        await self._link.run(lambda c: c.execute(pg_sql.SETTLE, claim.uid, self.id, claim.version, due, failures))

    async def plan(self, uid: int, due: float) -> None:
        """Look at ``uid`` again at ``due``."""
        await self._link.run(lambda c: c.execute(pg_sql.PLAN, uid, due))

    async def next_due(self) -> float | None:
        """When the first unclaimed record is due."""
        found: float | None = await self._link.run(lambda c: c.fetchval(pg_sql.NEXT))
        return found

    async def beat(self, uids: tuple[int, ...]) -> None:
        """Say that this instance is alive, and keep its claims on ``uids`` for another ``LEASE_S``."""

        async def work(connection: Any) -> None:
            await connection.execute(pg_sql.BEAT, self.id, socket.gethostname(), self._keys.active, self._lease)
            if uids:
                await connection.execute(pg_sql.HOLD, self._lease, self.id, list(uids))
            await connection.execute(pg_sql.FORGET_DEAD)

        await self._link.run(work)

    async def _leave(self, connection: Any) -> None:
        await connection.execute(pg_sql.LEAVE, self.id)
        await connection.execute(pg_sql.LET_GO, self.id)

    async def _fenced(self, work: Callable[[Any], Any]) -> Any:
        """Run ``work``; if our key was retired meanwhile, take the new one from the key file and run it again."""

        async def guarded(connection: Any) -> tuple[bool, Any]:
            try:
                return True, await work(connection)
            except asyncpg.ForeignKeyViolationError:
                return False, None

        for _ in range(2):
            done, value = await self._link.run(guarded)
            if done:
                return value
            if self.reload is None:
                break
            await self.adopt(self.reload())
        raise UnavailableError(
            f"the store key {self._keys.active} has been retired",
            code="store-key",
            hint="bring this instance's key file up to date",
        )

    def _sealed(self, row: Any) -> SealedRow:
        box = Box(*row[7:10])
        return SealedRow(entry_of(row), box, self._keys_for(box.key_id))

    def _keys_for(self, key_id: str) -> Keys:
        """Our keys; or those in the key file, if another instance has begun to use a new one already."""
        if key_id not in self._keys and self.reload is not None:
            with contextlib.suppress(Error):
                return self.reload()
        return self._keys


async def _key_use(connection: Any) -> KeyUse:
    records = {row[0]: row[1] for row in await connection.fetch(pg_sql.RECORDS)}
    names = []
    for statement in (pg_sql.RETIRED, pg_sql.SEALING, pg_sql.KNOWN):
        names.append(frozenset(row[0] for row in await connection.fetch(statement)))
    return KeyUse(records, *names)
