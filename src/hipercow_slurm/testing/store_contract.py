"""What every credential store must do, as tests: subclass ``StoreContract`` and give it an ``open_store`` fixture.

The fixture's value is an async callable ``open_store(*keys)`` that opens the same, at first empty, storage each time
with these KEKs; and ``raw_bytes()`` gives everything that lies on the disk.
"""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from hipercow_slurm.errors import AccessError, ConfigError
from hipercow_slurm.store.base import Entry, Store
from hipercow_slurm.store.envelope import Keys, key_id
from hipercow_slurm.values import KrbCred, TicketTimes

KEY, OTHER = b"\x01" * 32, b"\x02" * 32
OpenStore = Callable[..., Awaitable[Store]]
RawBytes = Callable[[], bytes]


def cred(
    client: str = "alice@EX.ORG", *, endtime: int = 2_000, renew_till: int = 3_000, data: bytes = b"secret session key"
) -> KrbCred:
    """A credential; stores do not look into it."""
    return KrbCred(data, client, TicketTimes(1_000, endtime, renew_till))


def always(_old: Entry | None, _new: Entry) -> bool:
    """The rule that takes everything."""
    return True


def anything(_entry: Entry) -> bool:
    """The rule that removes everything."""
    return True


async def der(store: Store, uid: int) -> bytes | None:
    """What is stored for ``uid``, opened."""
    sealed = await store.get(uid)
    return sealed.open().der if sealed is not None else None


class StoreContract:
    """The tests. Each runs against real storage."""

    @pytest_asyncio.fixture
    async def store(self, open_store: OpenStore) -> AsyncIterator[Store]:
        """An empty store with the key ``KEY``."""
        store = await open_store(KEY)
        yield store
        await store.close()

    async def test_put_get_remove(self, store: Store) -> None:
        assert await store.get(7) is None
        done = await store.put(7, cred(), always)
        assert done.stored
        assert done.entry == Entry(7, "alice@EX.ORG", TicketTimes(1_000, 2_000, 3_000))
        sealed = await store.get(7)
        assert sealed is not None
        assert sealed.entry == done.entry
        assert sealed.open().der == b"secret session key"
        assert await store.remove(7, anything) == done.entry
        assert await store.get(7) is None
        assert await store.remove(7, anything) is None

    async def test_the_rule_sees_old_and_new_and_decides(self, store: Store) -> None:
        seen = []

        def keep(old: Entry | None, new: Entry) -> bool:
            seen.append((old, new))
            return old is None

        first = await store.put(7, cred(endtime=2_000), keep)
        second = await store.put(7, cred(endtime=2_500, data=b"other"), keep)
        assert not second.stored
        assert second.entry == first.entry
        assert [old for old, _ in seen] == [None, first.entry]
        assert seen[1][1].times.endtime == 2_500
        assert await der(store, 7) == b"secret session key"
        assert await store.remove(7, lambda entry: False) is None
        assert await store.get(7) is not None

    async def test_a_rule_that_raises_hurts_only_its_own_caller(self, store: Store) -> None:
        def refuse(*_: object) -> bool:
            raise AccessError("no", code="principal-mismatch")

        await store.put(1, cred(), always)
        results = await asyncio.gather(
            store.put(2, cred(), refuse), store.put(3, cred(), always), store.remove(1, refuse), return_exceptions=True
        )
        assert [type(result) for result in results[::2]] == [AccessError, AccessError]
        assert [entry.uid for entry in await store.entries()] == [1, 3]

    async def test_several_are_put_and_got_at_once(self, store: Store) -> None:
        """Each under the rule, as if it had been put by itself."""
        await store.put(1, cred(endtime=2_500, data=b"better"), always)
        await store.put(4, cred(data=b"not asked for"), always)
        seen: dict[int, Entry | None] = {}

        def newer(old: Entry | None, new: Entry) -> bool:
            seen[new.uid] = old
            return old is None or new.times.endtime > old.times.endtime

        new = {1: cred(data=b"worse"), 2: cred("bob@EX.ORG", data=b"two"), 0xFFFFFFFE: cred(data=b"three")}
        done = await store.put_all(new, newer)
        assert {uid: (one.stored, one.entry) for uid, one in done.items()} == {
            1: (False, Entry.of(1, cred(endtime=2_500))),
            2: (True, Entry.of(2, new[2])),
            0xFFFFFFFE: (True, Entry.of(0xFFFFFFFE, new[0xFFFFFFFE])),
        }
        assert seen == {1: Entry.of(1, cred(endtime=2_500)), 2: None, 0xFFFFFFFE: None}
        found = await store.get_all([0xFFFFFFFE, 2, 1, 99])
        assert {uid: one.open().der for uid, one in found.items()} == {1: b"better", 2: b"two", 0xFFFFFFFE: b"three"}
        assert {uid: one.entry.principal for uid, one in found.items()}[2] == "bob@EX.ORG"
        assert (await store.put_all({}, always), await store.get_all([])) == ({}, {})

    async def test_of_many_each_is_compared_with_its_own(self, store: Store) -> None:
        """In no order, some of them there: more than a statement asks for, and not a multiple of that."""
        for uid in range(0, 45, 3):
            await store.put(uid, cred(endtime=2_000 + uid), always)
        seen: dict[int, int | None] = {}

        def rule(old: Entry | None, new: Entry) -> bool:
            seen[new.uid] = None if old is None else old.times.endtime
            return new.uid % 2 == 0

        uids = [(number * 17) % 45 for number in range(45)]
        done = await store.put_all({uid: cred(endtime=5_000 + uid) for uid in uids}, rule)
        assert seen == {uid: 2_000 + uid if uid % 3 == 0 else None for uid in range(45)}
        assert {uid for uid, one in done.items() if one.stored} == set(range(0, 45, 2))
        ends = {entry.uid: entry.times.endtime for entry in await store.entries()}
        assert ends == {uid: 2_000 + uid if uid % 2 else 5_000 + uid for uid in seen if uid % 3 == 0 or uid % 2 == 0}

    async def test_a_rule_that_raises_among_several_hurts_nobody_else(self, store: Store) -> None:
        def refuse(_old: Entry | None, new: Entry) -> bool:
            if new.uid == 2:
                raise AccessError("no", code="principal-mismatch")
            return True

        both = {1: cred(), 2: cred()}
        results = await asyncio.gather(
            store.put_all(both, refuse), store.put(3, cred(), always), return_exceptions=True
        )
        assert type(results[0]) is AccessError
        stored = {entry.uid for entry in await store.entries()}
        assert 3 in stored and 2 not in stored, stored

    async def test_rule_and_change_are_one_step(self, store: Store) -> None:
        """A hundred writers of one uid, each only if newer: the newest wins, whatever the order."""
        ends = [2_000 + (number * 37) % 100 for number in range(100)]

        def newer(old: Entry | None, new: Entry) -> bool:
            return old is None or new.times.endtime > old.times.endtime

        await asyncio.gather(*(store.put(7, cred(endtime=end, data=str(end).encode()), newer) for end in ends))
        assert await der(store, 7) == b"2099"

    async def test_a_removal_and_a_put_at_once_leave_one_of_the_two_orders(self, store: Store) -> None:
        for number in range(20):
            await store.put(7, cred(data=b"old"), always)
            put, gone = await asyncio.gather(
                store.put(7, cred(data=b"new%d" % number), always), store.remove(7, anything)
            )
            assert put.stored
            assert gone is not None
            assert await der(store, 7) in (None, b"new%d" % number)

    async def test_of_many_removals_at_once_one_is_told_it_did_it(self, store: Store) -> None:
        for _ in range(10):
            await store.put(7, cred(), always)
            gone = await asyncio.gather(*(store.remove(7, anything) for _ in range(8)))
            assert sum(entry is not None for entry in gone) == 1, gone

    async def test_entries_and_dump(self, store: Store) -> None:
        late = KrbCred(b"late", "bob@EX.ORG", TicketTimes(2**31, 2**32 - 1, 0), tickets=2, addressless=False)
        await store.put(0xFFFFFFFE, late, always)
        await store.put(5, cred(), always)
        assert await store.entries() == [
            Entry(5, "alice@EX.ORG", TicketTimes(1_000, 2_000, 3_000)),
            Entry(0xFFFFFFFE, "bob@EX.ORG", TicketTimes(2**31, 2**32 - 1, 0), tickets=2, addressless=False),
        ]
        dumped = await asyncio.to_thread(lambda: [sealed.open() for sealed in store.dump()])
        assert [one.der for one in dumped] == [b"secret session key", b"late"]
        assert (dumped[1].tickets, dumped[1].addressless) == (2, False)

    async def test_a_dump_can_be_left_in_the_middle(self, store: Store) -> None:
        await asyncio.gather(*(store.put(uid, cred(), always) for uid in range(10)))

        def first() -> int:
            dump = store.dump()
            uid = next(dump).entry.uid
            dump.close()  # type: ignore[attr-defined]  # a generator
            return uid

        for _ in range(15):
            assert await asyncio.to_thread(first) == 0
        assert (await store.put(11, cred(), always)).stored

    async def test_a_snapshot_looks_the_same_twice(self, store: Store) -> None:
        """A dump's length is told before its records are sent: what comes and goes meanwhile must not change it."""
        await asyncio.gather(*(store.put(uid, cred(), always) for uid in range(5)))
        snapshot = await asyncio.to_thread(store.snapshot)
        looks = []
        for uid in (0, 3):
            looks.append(await asyncio.to_thread(lambda: [(one.entry, one.open().der) for one in snapshot]))
            await store.put(7, cred(data=b"new"), always)
            await store.put(1, cred(data=b"a longer one than before"), always)
            await store.remove(uid, lambda entry: True)
        await asyncio.to_thread(snapshot.close)
        assert [entry.uid for entry, _ in looks[0]] == list(range(5))
        assert looks[0] == looks[1]
        now = await asyncio.to_thread(lambda: [one.entry.uid for one in store.dump()])
        assert now == [1, 2, 4, 7]

    async def test_a_dump_takes_no_memory_to_speak_of(self, store: Store) -> None:
        """Twelve megabytes of records pass through; what is held at any time is a small part of that."""
        count, size = 3_000, 4_000
        blob = os.urandom(size)
        for first in range(0, count, 250):
            await asyncio.gather(*(store.put(uid, cred(data=blob), always) for uid in range(first, first + 250)))

        def walk() -> tuple[int, int]:
            tracemalloc.start()
            try:
                seen = sum(len(sealed.open().der) == size for sealed in store.dump())
                return seen, tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

        seen, peak = await asyncio.to_thread(walk)
        assert seen == count
        assert peak < count * size / 4, f"{peak / 1e6:.1f} MB held for {count * size / 1e6:.1f} MB of records"

    async def test_reopening_finds_everything(self, open_store: OpenStore) -> None:
        store = await open_store(KEY)
        await store.put(7, cred(), always)
        await store.close()
        store = await open_store(KEY)
        assert await der(store, 7) == b"secret session key"
        await store.close()

    async def test_nothing_secret_is_on_the_disk(self, store: Store, raw_bytes: RawBytes) -> None:
        await store.put(7, cred(data=b"NEEDLE" * 20), always)
        await store.put(8, cred(data=b"NEEDLE" * 20), always)
        await store.put(8, cred("carol@EX.ORG", data=b"other"), always)
        found = raw_bytes()
        assert b"carol@EX.ORG" in found, "these are the right bytes"
        assert b"NEEDLE" not in found
        assert KEY not in found
        assert KEY.hex().encode() not in found

    async def test_wrong_key_is_said_at_start_and_loses_nothing(self, open_store: OpenStore) -> None:
        store = await open_store(KEY)
        await store.put(7, cred(), always)
        await store.close()
        with pytest.raises(ConfigError) as caught:
            await open_store(OTHER)
        assert caught.value.code == "store-key"
        assert key_id(KEY) in caught.value.message
        both = await open_store(OTHER, KEY)
        assert await der(both, 7) == b"secret session key", "a key being replaced still opens old records"
        await both.close()

    async def test_keys_are_changed_while_records_come_and_go(self, open_store: OpenStore, raw_bytes: RawBytes) -> None:
        store = await open_store(KEY)
        await asyncio.gather(*(store.put(uid, cred(data=b"%d" % uid), always) for uid in range(60)))
        before = {s.entry.uid: s._box.sealed for s in await asyncio.to_thread(lambda: list(store.dump()))}  # type: ignore[attr-defined]
        rounds = 0

        async def traffic() -> None:
            nonlocal rounds
            while True:
                rounds += 1
                uid = 100 + rounds % 20
                await store.put(uid, cred(data=b"%d" % uid), always)
                assert await der(store, rounds % 60) == b"%d" % (rounds % 60)
                if rounds % 5 == 0:
                    await store.remove(uid, anything)

        load = asyncio.create_task(traffic())
        with pytest.raises(ConfigError):
            await store.adopt(Keys(OTHER))
        assert not await store.retire(key_id(KEY)), "it is in use"
        await store.adopt(Keys(OTHER, KEY))
        while await store.rewrap(7):
            pass
        use = await store.key_use()
        assert set(use.records) == {key_id(OTHER)}, use
        assert use.sealing <= {key_id(OTHER)}
        assert await store.retire(key_id(KEY))
        assert not await store.retire(key_id(OTHER)), "the active key is never retired"
        assert (await store.key_use()).retired == {key_id(KEY)}
        with pytest.raises(ConfigError, match="retired"):
            await store.adopt(Keys(KEY, OTHER))
        while rounds < 50:
            await asyncio.sleep(0.01)
            assert not load.done(), load
        load.cancel()
        await asyncio.wait({load})
        after = {s.entry.uid: s._box.sealed for s in await asyncio.to_thread(lambda: list(store.dump()))}  # type: ignore[attr-defined]
        assert {uid: after[uid] for uid in before} == before, "the records themselves were not touched"
        await store.close()
        store = await open_store(OTHER)
        for uid in range(60):
            assert await der(store, uid) == b"%d" % uid
        await store.close()

    async def test_a_key_that_waits_for_its_turn_is_not_retired(self, open_store: OpenStore) -> None:
        store = await open_store(KEY, OTHER)
        await store.put(7, cred(), always)
        assert not await store.retire(key_id(OTHER)), "it has sealed nothing yet"
        assert (await store.key_use()).known == {key_id(KEY)}
        await store.adopt(Keys(OTHER, KEY))
        assert await store.rewrap(10) == 1
        assert await store.rewrap(10) == 0
        assert await store.retire(key_id(KEY))
        assert await store.retire(key_id(KEY)), "again"
        assert await der(store, 7) == b"secret session key"
        await store.close()
