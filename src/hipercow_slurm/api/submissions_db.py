"""The submission table: what we asked Slurm for, written before we ask, so that a lost answer makes no second job.

Each submission has a random marker that travels in the job's comment. A row without ``job_id`` is one whose answer
we do not have (yet); ``jobs.py`` looks among the user's jobs for the marker before it asks Slurm again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import astuple, dataclass


@dataclass(frozen=True, slots=True)
class Submission:
    """One row.

    Attributes:
        marker: unique text in the job's comment.
        idempotency_key: the caller's, unique per principal; None if there was none.
        digest: SHA-256 of the request body, to refuse the same key for another job.
        attempted_at: when we last asked Slurm.
        working_directory, output, error: absolute; output and error still hold Slurm's ``%`` patterns.
        job_id: Slurm's answer; None while we do not know it.
        asked: what the job was to be, as JSON (``history.Asked``), for when Slurm has forgotten it.
        seen: the job as Slurm last showed it after its end, as JSON (``slurm.model.Job``).
    """

    marker: str
    principal: str
    idempotency_key: str | None
    digest: bytes
    attempted_at: int
    uid: int
    request_id: str
    working_directory: str
    output: str
    error: str
    job_id: int | None = None
    asked: bytes | None = None
    seen: bytes | None = None


_COLUMNS = ", ".join(
    (
        "marker",
        "principal",
        "idempotency_key",
        "digest",
        "attempted_at",
        "uid",
        "request_id",
        "working_directory",
        "output",
        "error",
        "job_id",
        "asked",
        "seen",
    )
)
_JOB_ID = 10  # place in a row


def reserve(row: Submission) -> Callable[[sqlite3.Connection], Submission]:
    """File ``row``; if its key is filed already, change nothing and return what is there."""

    def act(connection: sqlite3.Connection) -> Submission:
        done = connection.execute(
            f"INSERT INTO submission ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"  # noqa: S608
            " ON CONFLICT (principal, idempotency_key) DO NOTHING",
            astuple(row),
        )
        if done.rowcount == 1:
            return row
        found = connection.execute(
            f"SELECT {_COLUMNS} FROM submission WHERE principal = ? AND idempotency_key = ?",  # noqa: S608
            (row.principal, row.idempotency_key),
        ).fetchone()
        return Submission(*found)

    return act


def attempt(marker: str, now: int) -> Callable[[sqlite3.Connection], None]:
    """Note that we ask Slurm again now."""

    def act(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE submission SET attempted_at = ? WHERE marker = ?", (now, marker))

    return act


def answered(marker: str, job_id: int) -> Callable[[sqlite3.Connection], None]:
    """Slurm made the job."""

    def act(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE submission SET job_id = ? WHERE marker = ?", (job_id, marker))

    return act


def refused(marker: str) -> Callable[[sqlite3.Connection], None]:
    """Slurm certainly made no job: the key is free for a corrected request."""

    def act(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM submission WHERE marker = ? AND job_id IS NULL", (marker,))

    return act


def of_jobs(principal: str, job_ids: list[int]) -> Callable[[sqlite3.Connection], dict[int, Submission]]:
    """The principal's submissions by job id. Slurm reuses ids after it wraps; the newest row counts."""

    def act(connection: sqlite3.Connection) -> dict[int, Submission]:
        found = {}
        for at in range(0, len(job_ids), 500):
            some = job_ids[at : at + 500]
            marks = ",".join("?" * len(some))
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM submission WHERE job_id IN ({marks}) AND principal = ?"  # noqa: S608
                " ORDER BY attempted_at",
                (*some, principal),
            )
            found.update({row[_JOB_ID]: Submission(*row) for row in rows})
        return found

    return act


def of_principal(principal: str, most: int) -> Callable[[sqlite3.Connection], list[Submission]]:
    """The principal's newest submissions that made a job."""

    def act(connection: sqlite3.Connection) -> list[Submission]:
        rows = connection.execute(
            f"SELECT {_COLUMNS} FROM submission WHERE principal = ? AND job_id IS NOT NULL"  # noqa: S608
            " ORDER BY attempted_at DESC LIMIT ?",
            (principal, most),
        )
        return [Submission(*row) for row in rows]

    return act


def ended(principal: str, job_id: int, seen: bytes) -> Callable[[sqlite3.Connection], None]:
    """Keep how the job ended, once; of a reused id, with the newest submission."""

    def act(connection: sqlite3.Connection) -> None:
        connection.execute(
            "UPDATE submission SET seen = ? WHERE marker = (SELECT marker FROM submission"
            " WHERE job_id = ? AND principal = ? ORDER BY attempted_at DESC LIMIT 1) AND seen IS NULL",
            (seen, job_id, principal),
        )

    return act


def reopened(principal: str, job_id: int) -> Callable[[sqlite3.Connection], None]:
    """The job was put back: how it ended then says nothing any more."""

    def act(connection: sqlite3.Connection) -> None:
        connection.execute("UPDATE submission SET seen = NULL WHERE job_id = ? AND principal = ?", (job_id, principal))

    return act


def drop_old(before: int) -> Callable[[sqlite3.Connection], int]:
    """Forget submissions last attempted before ``before``; how many."""
    return lambda connection: connection.execute("DELETE FROM submission WHERE attempted_at < ?", (before,)).rowcount
