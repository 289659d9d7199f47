"""The API's database on SQLite and PostgreSQL; and of SQLite, that its file is private and keeps what it took."""

import asyncio
import contextlib
import os
import secrets
import sqlite3
import stat
import subprocess
import sys
import time

import pytest

from api_database_contract import DatabaseContract, record, submission
from hipercow_slurm.api import sessions_db, submissions_db
from hipercow_slurm.api.database import STEPS, opened
from hipercow_slurm.api.database_pg import PgDatabase
from hipercow_slurm.api.database_sqlite import SqliteDatabase
from hipercow_slurm.errors import ConfigError


@pytest.fixture
def where(tmp_path):
    return str(tmp_path / "api.sqlite")


@pytest.fixture
async def database(where):
    async with opened(where) as database:
        yield database


@pytest.fixture
async def another(where):
    made = []

    async def make():
        context = opened(where)
        made.append(context)
        return await context.__aenter__()

    yield make
    for context in made:
        await context.__aexit__(None, None, None)


class TestSqlite(DatabaseContract):
    """On a file."""


class TestPostgres(DatabaseContract):
    """On a real server."""

    @pytest.fixture
    def where(self, postgres_server):
        return postgres_server.database()

    async def test_a_restart_of_the_server_is_waited_for(self, postgres_server, where, database):
        """Would have caught: a session that is lost to its user because the server was restarted."""
        await database.run(sessions_db.add(record("s1")))
        postgres_server.stop()
        asking = asyncio.create_task(database.run(sessions_db.by_token(b"s1")))
        try:
            await asyncio.sleep(0.3)
            assert not asking.done()
        finally:
            await asyncio.to_thread(postgres_server.start)
        assert (await asking).session_id == "s1"

    async def test_our_tables_leave_the_caches_alone(self, postgres_server, where, database):
        names = postgres_server.sql("SELECT DISTINCT schemaname FROM pg_tables WHERE tablename = 'session'", where)
        assert names == "hipercow_api"

    async def test_a_later_version_is_refused(self, postgres_server, where, database):
        postgres_server.sql("INSERT INTO hipercow_api.version VALUES (99)", where)
        with pytest.raises(ConfigError, match="99"):
            await PgDatabase.open(where)


async def test_files_are_private_from_the_start(tmp_path, where, database):
    old = os.umask(0)
    try:
        await database.run(sessions_db.add(record()))
    finally:
        os.umask(old)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert set(modes) >= {"api.sqlite", "api.sqlite-wal"}
    assert set(modes.values()) == {0o600}, modes


def test_a_symlink_is_not_followed(tmp_path):
    path = tmp_path / "api.sqlite"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        SqliteDatabase(path)
    assert not (tmp_path / "elsewhere").exists()


def test_another_schema_is_refused(tmp_path):
    path = tmp_path / "api.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match="99"):
        SqliteDatabase(path)


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("durable", [True, False])
def test_what_returned_survives_kill_9(tmp_path, durable, small):
    """The child is killed the moment it said so; a commit that was only promised would be lost."""
    child = """
import asyncio, os, sys, pathlib
from hipercow_slurm.api import sessions_db
from hipercow_slurm.api.database_sqlite import SqliteDatabase
from hipercow_slurm.api.sessions_db import SessionRecord
async def main():
    database = SqliteDatabase(pathlib.Path(sys.argv[1]))
    await asyncio.gather(*(database.run(sessions_db.add(
        SessionRecord(f"s{n}", b"%d" % n, "alice@R", "alice", 5001, "a", 1, 99, b"x")),
        durable=sys.argv[2] == "True", small=sys.argv[3] == "True") for n in range(100)))
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    path = str(tmp_path / "api.sqlite")
    argv = [sys.executable, "-c", child, path, str(durable), str(small)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30)
    assert done.returncode == -9, done.stderr
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM session").fetchone() == (100,)


def test_a_record_does_not_print_its_secrets():
    assert "sealed" not in repr(record()) and "b's1'" not in repr(record())


async def test_a_database_of_the_first_version_is_taken_over(tmp_path):
    """What was submitted before the update is still known, and its new columns are empty."""
    path = tmp_path / "api.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(STEPS[0] + "; PRAGMA user_version = 1;")
        connection.execute(
            "INSERT INTO submission VALUES ('m', 'alice@R', NULL, x'00', 1, 5001, 'r', '/home/alice', '/o', '/e', 7)"
        )
    database = SqliteDatabase(path)
    try:
        found = await database.run(submissions_db.of_jobs("alice@R", [7]))
        assert (found[7].marker, found[7].asked, found[7].seen) == ("m", None, None)
        await database.run(submissions_db.ended("alice@R", 7, b"{}"))
        assert (await database.run(submissions_db.of_jobs("alice@R", [7])))[7].seen == b"{}"
    finally:
        await database.close()


class Explained:
    """A transaction that only says how SQLite would find the rows."""

    NOW = "0"

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.plans: list[str] = []

    async def rows(self, sql: str, *arguments: object) -> list[tuple[object, ...]]:
        found = self.connection.execute(f"EXPLAIN QUERY PLAN {sql.replace('$', '?')}", arguments).fetchall()
        self.plans.append(" / ".join(str(row[3]) for row in found))
        return []

    async def change(self, sql: str, *arguments: object) -> int:
        await self.rows(sql, *arguments)
        return 0


async def test_jobs_are_found_without_looking_at_all_rows(tmp_path):
    """Would have caught: a query that the partial index does not serve."""
    path = tmp_path / "api.sqlite"
    await SqliteDatabase(path).close()
    with sqlite3.connect(path) as connection:
        explained = Explained(connection)
        await submissions_db.of_jobs("alice@R", [7, 8])(explained)
        await submissions_db.of_principal("alice@R", 10)(explained)
        await submissions_db.ended("alice@R", 7, b"{}")(explained)
        await submissions_db.reopened("alice@R", 7)(explained)
    assert len(explained.plans) == 4
    assert all("submission_made" in plan and "SCAN" not in plan for plan in explained.plans), explained.plans


async def test_the_event_loop_goes_on_while_another_process_writes(where, database):
    """Would have caught: small work that waits for another's lock in the loop, and all requests with it."""
    with contextlib.closing(sqlite3.connect(where, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        filed = asyncio.create_task(database.run(submissions_db.reserve(submission()), small=True))
        turns = 0
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            await asyncio.sleep(0)
            turns += 1
        assert not filed.done()
        other.execute("COMMIT")
    row, age_s = await asyncio.wait_for(filed, 10)
    assert (row.marker, age_s) == ("m1", 0)
    assert turns > 500, f"the loop turned {turns} times in half a second"


async def test_small_work_that_fails_leaves_the_rest_of_its_group_alone(database):
    async def broken(transaction):
        await transaction.change("DELETE FROM submission")
        raise ValueError("half way")

    await database.run(submissions_db.reserve(submission("m0", "k0")), small=True)
    first, failed, last = await asyncio.gather(
        database.run(submissions_db.reserve(submission("m1", "k1")), small=True),
        database.run(broken, small=True),
        database.run(submissions_db.reserve(submission("m2", "k2")), small=True),
        return_exceptions=True,
    )
    assert isinstance(failed, ValueError), failed
    assert (first[0].marker, last[0].marker) == ("m1", "m2")
    again, _ = await database.run(submissions_db.reserve(submission("m3", "k0")), small=True)
    assert again.marker == "m0", "the failed piece took a row with it"


async def test_what_was_written_is_moved_to_its_place(tmp_path, where, database):
    """Would have caught: small work that nobody makes a checkpoint for, and a file that grows for ever."""
    for at in range(0, 4000, 16):
        some = [submissions_db.reserve(submission(f"m{n}", f"k{n}")) for n in range(at, at + 16)]
        await asyncio.gather(*(database.run(one, small=True) for one in some))
    size = (tmp_path / "api.sqlite-wal").stat().st_size
    assert size < 5_000_000, f"{size} bytes; without checkpoints it was 7.4 million"


async def test_a_submission_writes_few_pages(tmp_path):
    """Would have caught: one index more, or one that knows rows before they have a job; with both it was 10.7."""
    database = SqliteDatabase(tmp_path / "api.sqlite")
    wal, size, number = tmp_path / "api.sqlite-wal", 0, 60  # more, and SQLite would begin the file anew
    with sqlite3.connect(tmp_path / "api.sqlite") as connection:
        for of_those in (2000, number):  # few rows share a page, so there must be many first
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            for _ in range(of_those):
                row = submission(marker=secrets.token_hex(8), key=secrets.token_hex(16))
                await database.run(submissions_db.reserve(row), durable=False)
                await database.run(submissions_db.answered(row.marker, secrets.randbelow(10**6)), durable=False)
            size = wal.stat().st_size
    await database.close()
    pages = size / 4120 / number
    assert pages < 8, f"{pages:.1f} pages for each submission and its answer"


async def test_a_new_file_that_another_process_writes_to_is_waited_for(tmp_path):
    """Would have caught: an API of two processes that did not start, with "database is locked", on a new database."""
    path = tmp_path / "api.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        opening = asyncio.create_task(asyncio.to_thread(SqliteDatabase, path))
        done, _ = await asyncio.wait([opening], timeout=0.3)
        assert not done, opening.exception()
        other.execute("COMMIT")
        await (await asyncio.wait_for(opening, 10)).close()


def test_processes_that_start_together_make_one_database(tmp_path):
    """Six programs open a file that does not exist yet; all of them get it, none of them fails."""
    code = (
        "import asyncio, sys; from pathlib import Path; from hipercow_slurm.api.database_sqlite import SqliteDatabase\n"
    )
    code += "asyncio.run(SqliteDatabase(Path(sys.argv[1])).close())"
    argv = [sys.executable, "-c", code, str(tmp_path / "new.sqlite")]
    started = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    said = [process.communicate(timeout=30)[1] for process in started]
    assert [process.returncode for process in started] == [0] * 6, said
