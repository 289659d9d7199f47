"""What SQLite adds to the store's contract (test_store_contract.py): files, one process, rows bound to metadata."""

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hipercow_slurm.errors import ConfigError, InternalError, UnavailableError
from hipercow_slurm.store.base import Entry
from hipercow_slurm.store.envelope import Keys, key_id
from hipercow_slurm.store.recent import Opened, Recent
from hipercow_slurm.store.sqlite import SqliteStore
from hipercow_slurm.values import KrbCred, TicketTimes

KEY, OTHER = b"\x01" * 32, b"\x02" * 32


def cred(client="alice@EX.ORG", *, endtime=2_000, renew_till=3_000, data=b"secret session key") -> KrbCred:
    return KrbCred(data, client, TicketTimes(1_000, endtime, renew_till))


def always(_old, _new):
    return True


@pytest.fixture
async def store(tmp_path):
    store = SqliteStore(tmp_path / "creds.db", Keys(KEY))
    yield store
    await store.close()


async def test_files_are_private_and_hold_no_secret_in_clear(store, tmp_path):
    await store.put(7, cred(data=b"NEEDLE" * 20), always)
    files = [path for path in tmp_path.iterdir() if path.name.startswith("creds.db")]
    assert len(files) >= 3, files
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert b"NEEDLE" not in path.read_bytes(), path


@pytest.mark.parametrize(
    "change",
    ["uid = 8", "principal = 'bob@EX.ORG'", "renew_till = 9999", "endtime = 9999", "sealed = zeroblob(60)"],
)
async def test_a_tampered_row_does_not_open(tmp_path, change):
    path = tmp_path / "creds.db"
    store = SqliteStore(path, Keys(KEY))
    await store.put(7, cred(), always)
    await store.close()
    with sqlite3.connect(path) as db:
        db.execute(f"UPDATE credential SET {change}")
    store = SqliteStore(path, Keys(KEY))  # the first one remembers what it stored
    uid = 8 if change.startswith("uid") else 7
    with pytest.raises(InternalError) as caught:
        (await store.get(uid)).open()
    assert caught.value.code == "store-corrupt"
    await store.close()


async def test_what_is_remembered_is_what_is_stored(tmp_path, monkeypatch):
    """A get after a replacement, a removal or a failed change never shows what was there before, or never was."""
    store = SqliteStore(tmp_path / "creds.db", Keys(KEY))

    async def now(uid=7):
        found = await store.get(uid)
        return found and found.open().times.endtime

    await store.put(7, cred(endtime=100), always)
    assert await now() == 100
    await store.put(7, cred(endtime=200), lambda old, new: False)
    assert await now() == 100, "a credential that was not taken"
    await store.put(7, cred(endtime=300), always)
    assert await now() == 300, "the one before"
    waiting = asyncio.create_task(store.put(7, cred(endtime=400), always))
    await asyncio.sleep(0)
    waiting.cancel()  # its client has gone; the change is on its way
    await store.put(8, cred(endtime=1), always)
    assert await now() == 400, "the one before a change whose client had gone"
    monkeypatch.setattr(Keys, "seal", lambda *_: (_ for _ in ()).throw(sqlite3.OperationalError("disk I/O error")))
    with pytest.raises(UnavailableError):
        await store.put(7, cred(endtime=500), always)
    assert await now() == 400, "a credential that could not be stored"
    await store.remove(7, lambda entry: True)
    assert await now() is None, "one that was removed"
    await store.close()


def test_remembering_is_bounded_and_forgets_the_oldest():
    recent = Recent(limit_bytes=10_000)
    for uid in range(50):
        recent.put(uid, Opened(Entry.of(uid, cred()), cred(data=bytes(1400))))
    assert len(recent) == 5, "2 000 bytes each fit five times"
    assert recent.get(44) is None
    assert recent.get(45) is not None
    recent.put(49, Opened(Entry.of(49, cred()), cred(data=bytes(1400))))
    assert len(recent) == 5, "one in the place of another of the same uid"
    recent.put(60, Opened(Entry.of(60, cred()), cred(data=bytes(20_000))))
    assert len(recent) == 0, "one too large for all of it"
    recent.clear()


async def test_wrong_key_is_said_at_start_and_loses_nothing(tmp_path):
    path = tmp_path / "creds.db"
    store = SqliteStore(path, Keys(KEY))
    await store.put(7, cred(), always)
    await store.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError) as caught:
        SqliteStore(path, Keys(OTHER))
    assert caught.value.code == "store-key"
    assert path.read_bytes() == before
    both = SqliteStore(path, Keys(OTHER, KEY))
    assert (await both.get(7)).open().client == "alice@EX.ORG", "a key being replaced still opens old records"
    await both.close()


async def test_one_process_per_file(store, tmp_path):
    with pytest.raises(ConfigError, match="in use"):
        SqliteStore(tmp_path / "creds.db", Keys(KEY))


async def test_a_foreign_file_is_refused_untouched(tmp_path):
    path = tmp_path / "creds.db"
    path.write_bytes(b"these are not the bytes of a database" * 30)
    before = path.read_bytes()
    with pytest.raises(ConfigError) as caught:
        SqliteStore(path, Keys(KEY))
    assert caught.value.code == "store-unusable"
    assert path.read_bytes() == before


async def test_a_full_disk_is_an_error_and_then_goes_on(store, tmp_path):
    await store.put(1, cred(), always)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages + 3}")
    results = await asyncio.gather(
        *(store.put(uid, cred(data=os.urandom(30_000)), always) for uid in range(2, 6)), return_exceptions=True
    )
    failed = [result for result in results if isinstance(result, Exception)]
    assert {(type(error), error.code) for error in failed} == {(UnavailableError, "store-full")}
    stored = {result.entry.uid for result in results if not isinstance(result, Exception)} | {1}
    assert {entry.uid for entry in await store.entries()} == stored, "what was refused is not there"
    store._db.execute("PRAGMA max_page_count = 100000")
    assert (await store.put(9, cred(), always)).stored


WRITER = """
import asyncio, sys
from pathlib import Path
from hipercow_slurm.store.base import Entry
from hipercow_slurm.store.envelope import Keys
from hipercow_slurm.store.recent import Opened, Recent
from hipercow_slurm.store.sqlite import SqliteStore
from hipercow_slurm.values import KrbCred, TicketTimes

async def main():
    store = SqliteStore(Path(sys.argv[1]), Keys(b"\\1" * 32))
    number = int(sys.argv[2])
    async def one(uid):
        nonlocal number
        while True:
            number += 1
            mine = number
            cred = KrbCred(str(mine).encode(), "u@R", TicketTimes(1, 2, mine))
            await store.put(uid, cred, lambda old, new: True)
            print(uid, mine, flush=True)
    await asyncio.gather(*(one(uid) for uid in range(8)))

asyncio.run(main())
"""


def run_until_killed(program: Path, path: Path, after: int) -> dict[int, int]:
    """Let the writer acknowledge ``after`` puts, kill it, return the last number it acknowledged for each uid."""
    child = subprocess.Popen(
        [sys.executable, program, path, str(1000 * after)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    acknowledged = {}
    with child:
        for count, line in enumerate(child.stdout):
            if not line.endswith("\n"):  # the kill came in the middle of it
                break
            uid, number = map(int, line.split())
            acknowledged[uid] = number
            if count == after:
                child.send_signal(signal.SIGKILL)
        assert len(acknowledged) == 8, child.stderr.read()
    return acknowledged


def test_what_was_acknowledged_survives_kill_9(tmp_path):
    """Replacing puts by eight writers, killed in mid-flight, three times on one file."""
    path, program = tmp_path / "creds.db", tmp_path / "writer.py"
    program.write_text(WRITER)

    async def stored():
        store = SqliteStore(path, Keys(KEY))
        opened = {sealed.entry.uid: int(sealed.open().der) for sealed in store.dump()}
        await store.close()
        return opened

    for after in (60, 77, 94):
        acknowledged = run_until_killed(program, path, after)
        found = asyncio.run(stored())
        lost = {uid: (number, found.get(uid)) for uid, number in acknowledged.items() if found.get(uid, 0) < number}
        assert not lost, f"uid: (acknowledged, found) {lost}"


async def test_a_database_of_the_first_schema_is_taken_over(tmp_path):
    """Version 1 had no tables of keys."""
    path = tmp_path / "creds.db"
    store = SqliteStore(path, Keys(KEY))
    await store.put(7, cred(), always)
    await store.close()
    with sqlite3.connect(path) as db:
        db.executescript("DROP TABLE store_key; DROP TABLE retired_key; PRAGMA user_version = 1")
    store = SqliteStore(path, Keys(OTHER, KEY))
    assert (await store.get(7)).open().der == b"secret session key"
    assert await store.rewrap(10) == 1
    assert await store.retire(key_id(KEY))
    await store.close()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
