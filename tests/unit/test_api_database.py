"""The API's SQLite file: durable when a call returns, all or nothing, private."""

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys

import pytest

from hipercow_slurm.api import sessions_db, submissions_db
from hipercow_slurm.api.database import SCHEMA, Database
from hipercow_slurm.api.sessions_db import SessionRecord
from hipercow_slurm.api.submissions_db import Submission
from hipercow_slurm.errors import ConfigError, UnavailableError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "api.sqlite"


@pytest.fixture
async def database(path):
    database = Database(path)
    yield database
    database.close()


def record(session_id="s1", principal="alice@R", expires_at=1000, token_hash=None) -> SessionRecord:
    return SessionRecord(
        session_id, token_hash or session_id.encode(), principal, "alice", 5001, "192.0.2.1", 10, expires_at, b"sealed"
    )


def submission(marker="m1", key: str | None = "k", principal="alice@R", digest=b"d") -> Submission:
    return Submission(marker, principal, key, digest, 100, 5001, "request-1", "/home/alice", "/o", "/e")


async def test_files_are_private_from_the_start(path, database):
    old = os.umask(0)
    try:
        await database.run(sessions_db.add(record()))
    finally:
        os.umask(old)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(modes) >= {"api.sqlite", "api.sqlite-wal"}
    assert set(modes.values()) == {0o600}, modes


def test_a_symlink_is_not_followed(path, tmp_path):
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        Database(path)
    assert not (tmp_path / "elsewhere").exists()


def test_another_schema_is_refused(path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match="99"):
        Database(path)


async def test_failure_leaves_the_rest_of_its_group_alone(database):
    def broken(connection):
        connection.execute("INSERT INTO submission SELECT * FROM submission")  # fine: nothing to copy
        connection.execute("DELETE FROM session")
        raise ValueError("half way")

    await database.run(sessions_db.add(record("keep")))
    results = await asyncio.gather(
        database.run(sessions_db.add(record("s2"))),
        database.run(broken),
        database.run(sessions_db.add(record("s2"))),  # the same id again
        database.run(sessions_db.add(record("s3"))),
        return_exceptions=True,
    )
    assert results[0] is None and results[3] is None
    assert isinstance(results[1], ValueError)
    assert isinstance(results[2], UnavailableError) and results[2].code == "database-failed"
    rows = await database.run(sessions_db.of_principal("alice@R", 0))
    assert {row.session_id for row in rows} == {"keep", "s2", "s3"}


def test_what_returned_survives_kill_9(path):
    """The child is killed the moment it said so; a commit that was only promised would be lost."""
    child = """
import asyncio, os, sys, pathlib
from hipercow_slurm.api import sessions_db
from hipercow_slurm.api.database import SCHEMA, Database
from hipercow_slurm.api.sessions_db import SessionRecord
async def main():
    database = Database(pathlib.Path(sys.argv[1]))
    await asyncio.gather(*(database.run(sessions_db.add(
        SessionRecord(f"s{n}", b"%d" % n, "alice@R", "alice", 5001, "a", 1, 99, b"x"))) for n in range(100)))
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", child, str(path)], capture_output=True, text=True, timeout=30)
    assert done.returncode == -9, done.stderr
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM session").fetchone() == (100,)


async def test_sessions(database):
    await database.run(sessions_db.add(record("a1")))
    await database.run(sessions_db.add(record("a2", expires_at=500)))
    await database.run(sessions_db.add(record("b1", principal="bob@R")))
    assert [row.session_id for row in await database.run(sessions_db.of_principal("alice@R", 600))] == ["a1"]
    assert (await database.run(sessions_db.by_token(b"a1"))).session_id == "a1"
    assert await database.run(sessions_db.by_token(b"zz")) is None
    assert not await database.run(sessions_db.revoke("bob@R", "a1")), "bob ended alice's session"
    assert await database.run(sessions_db.revoke("alice@R", "a1"))
    assert await database.run(sessions_db.by_token(b"a1")) is None
    assert not await database.run(sessions_db.reseal("a1", b"new", 9)), "a revoked session came back"
    assert await database.run(sessions_db.drop_expired(500)) == 1


async def test_of_too_many_sessions_the_oldest_go(database):
    await asyncio.gather(*(database.run(sessions_db.add(record(f"a{n:03}"))) for n in range(103)))
    await database.run(sessions_db.add(record("b", principal="bob@R")))
    rows = {row.session_id for row in await database.run(sessions_db.of_principal("alice@R", 0))}
    assert len(rows) == 100 and "a102" in rows and not rows & {"a000", "a001", "a002"}
    assert await database.run(sessions_db.by_token(b"b"))


async def test_a_record_does_not_print_its_secrets():
    assert "sealed" not in repr(record()) and "b's1'" not in repr(record())


async def test_a_key_is_reserved_once_per_principal(database):
    first = await database.run(submissions_db.reserve(submission("m1")))
    again = await database.run(submissions_db.reserve(submission("m2", digest=b"other")))
    bobs = await database.run(submissions_db.reserve(submission("m3", principal="bob@R")))
    keyless = [await database.run(submissions_db.reserve(submission(m, key=None))) for m in ("m4", "m5")]
    assert (first.marker, again.marker, bobs.marker) == ("m1", "m1", "m3")
    assert [row.marker for row in keyless] == ["m4", "m5"]
    assert again.digest == b"d", "the filed digest must be kept, to refuse the key for another job"


async def test_submission_life(database):
    await database.run(submissions_db.reserve(submission("m1")))
    await database.run(submissions_db.refused("m1"))
    row = await database.run(submissions_db.reserve(submission("m2")))
    assert row.marker == "m2", "a refused submission must free its key"
    await database.run(submissions_db.answered("m2", 77))
    await database.run(submissions_db.refused("m2"))
    found = await database.run(submissions_db.of_jobs("alice@R", [77, 78]))
    assert found[77].marker == "m2" and list(found) == [77]
    assert await database.run(submissions_db.of_jobs("bob@R", [77])) == {}
    assert await database.run(submissions_db.drop_old(101)) == 1


async def test_a_database_of_the_first_version_is_taken_over(path):
    """What was submitted before the update is still known, and its new columns are empty."""
    old = SCHEMA.replace("    asked BLOB,\n    seen BLOB,\n", "").split("CREATE INDEX submission_principal")[0]
    with sqlite3.connect(path) as connection:
        connection.executescript(old + "PRAGMA user_version = 1;")
        connection.execute(
            "INSERT INTO submission VALUES ('m', 'alice@R', NULL, x'00', 1, 5001, 'r', '/home/alice', '/o', '/e', 7)"
        )
    database = Database(path)
    try:
        found = await database.run(submissions_db.of_jobs("alice@R", [7]))
        assert (found[7].marker, found[7].asked, found[7].seen) == ("m", None, None)
        await database.run(submissions_db.ended("alice@R", 7, b"{}"))
        assert (await database.run(submissions_db.of_jobs("alice@R", [7])))[7].seen == b"{}"
    finally:
        database.close()


def test_processes_that_start_together_make_one_database(tmp_path):
    """Six programs open a file that does not exist yet; all of them get it, none of them fails."""
    code = "import sys; from pathlib import Path; from hipercow_slurm.api.database import Database\n"
    code += "Database(Path(sys.argv[1])).close()"
    argv = [sys.executable, "-c", code, str(tmp_path / "new.sqlite")]
    started = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) for _ in range(6)]
    said = [process.communicate(timeout=30)[1] for process in started]
    assert [process.returncode for process in started] == [0] * 6, said
