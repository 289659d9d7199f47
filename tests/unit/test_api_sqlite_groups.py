"""A group of work on SQLite while another process writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from hipercow_slurm.api.sqlite_groups import Committer, Work


@pytest.fixture
def both(tmp_path: Path) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    """Two connections to one file with a table; none waits for the other."""
    made = [sqlite3.connect(tmp_path / "x.sqlite", isolation_level=None, timeout=0) for _ in range(2)]
    made[0].execute("CREATE TABLE it (key INTEGER PRIMARY KEY)")
    yield made[0], made[1]
    for one in made:
        one.close()


def insert(key: int) -> Work:
    return Work(lambda transaction: transaction.change("INSERT INTO it VALUES ($1)", key), durable=True)


def test_who_writes_between_the_two_tries_of_a_group_makes_nobody_fail(
    both: tuple[sqlite3.Connection, sqlite3.Connection],
) -> None:
    """One piece fails, the group is to be done anew, and then the lock is somebody else's: all is left to be done.

    Would have caught: good work of the event loop that was answered with "database is locked".
    """
    ours, theirs = both
    begun = 0

    def watch(statement: str) -> None:
        nonlocal begun
        begun += statement == "BEGIN IMMEDIATE"
        if statement == "BEGIN IMMEDIATE" and begun == 2:
            theirs.execute("BEGIN IMMEDIATE")

    ours.set_trace_callback(watch)
    group = [insert(key) for key in (1, 2, 2)]
    committer = Committer(ours)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        committer.commit(group)
    assert begun == 2, "the group was not tried twice: this test shows nothing"
    theirs.execute("ROLLBACK")
    ours.set_trace_callback(None)
    failures = [type(failure).__name__ for _, _, failure in committer.commit(group)]
    assert failures == ["NoneType", "NoneType", "IntegrityError"], failures
