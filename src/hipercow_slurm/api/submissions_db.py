"""The submission table: what we asked Slurm for, written before we ask, so that a lost answer makes no second job.

Each submission has a marker of its own that travels in the job's comment. A row without ``job_id`` is one whose answer
we do not have (yet); ``jobs.py`` looks among the user's jobs for the marker before it asks Slurm again.
"""

from __future__ import annotations

import functools
import os
import time

import msgspec
from msgspec.structs import astuple, replace

from hipercow_slurm.api.database import Act, Transaction


class Submission(msgspec.Struct, frozen=True):
    """One row.

    Attributes:
        marker: unique text in the job's comment.
        idempotency_key: the caller's, unique per principal; None if there was none.
        digest: SHA-256 of the request body, to refuse the same key for another job.
        attempted_at: when we last asked Slurm, by the database's clock where there is an ``idempotency_key``.
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


_COLUMNS = (
    "marker, principal, idempotency_key, digest, attempted_at, uid, request_id, working_directory, output, error,"
    " job_id, asked, seen"
)
_JOB_ID = 10  # place in a row
_ATTEMPTED_AT = "$5"
_INSERT = f"INSERT INTO submission ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"  # noqa: S608


def new_marker() -> str:
    """Unlike any other; those made one after the other stand together in the table's index: fewer pages to write."""
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(6).hex()}"


def reserve(row: Submission) -> Act[tuple[Submission, int]]:
    """File ``row`` as attempted now; if its key is filed already, change nothing.

    Returns what is there, and how many seconds ago its attempt was.
    """

    async def act(transaction: Transaction) -> tuple[Submission, int]:
        if made := await transaction.rows(_insert_new(transaction.NOW), *astuple(row)):
            return replace(row, attempted_at=made[0][0]), 0
        found = await transaction.rows(
            f"SELECT {_COLUMNS}, {transaction.NOW} - attempted_at FROM submission"  # noqa: S608
            " WHERE principal = $1 AND idempotency_key = $2",
            row.principal,
            row.idempotency_key,
        )
        return Submission(*found[0][:-1]), found[0][-1]

    return act


@functools.cache
def _insert_new(now: str) -> str:
    # The argument stays in use: PostgreSQL wants to know the type of each.
    insert = _INSERT.replace(_ATTEMPTED_AT, f"{_ATTEMPTED_AT} * 0 + {now}")
    return f"{insert} ON CONFLICT (principal, idempotency_key) DO NOTHING RETURNING attempted_at"


def record(row: Submission) -> Act[int]:
    """File a submission without a key, of which Slurm has made a job."""
    return lambda transaction: transaction.change(f"{_INSERT} ON CONFLICT (marker) DO NOTHING", *astuple(row))


def attempt(row: Submission) -> Act[Submission | None]:
    """Note that we ask Slurm again now; None: since ``row`` was read another process did, or knows the job."""

    async def act(transaction: Transaction) -> Submission | None:
        made = await transaction.rows(
            f"UPDATE submission SET attempted_at = {transaction.NOW} WHERE marker = $1 AND attempted_at = $2"  # noqa: S608
            " AND job_id IS NULL RETURNING attempted_at",
            row.marker,
            row.attempted_at,
        )
        return replace(row, attempted_at=made[0][0]) if made else None

    return act


def answered(marker: str, job_id: int) -> Act[int]:
    """Slurm made the job."""
    return lambda transaction: transaction.change("UPDATE submission SET job_id = $1 WHERE marker = $2", job_id, marker)


def refused(marker: str) -> Act[int]:
    """Slurm certainly made no job: the key is free for a corrected request."""
    return lambda transaction: transaction.change("DELETE FROM submission WHERE marker = $1 AND job_id IS NULL", marker)


def of_jobs(principal: str, job_ids: list[int]) -> Act[dict[int, Submission]]:
    """The principal's submissions by job id. Slurm reuses ids after it wraps; the newest row counts."""

    async def act(transaction: Transaction) -> dict[int, Submission]:
        found = {}
        for at in range(0, len(job_ids), 500):
            some = job_ids[at : at + 500]
            marks = ", ".join(f"${number}" for number in range(2, len(some) + 2))
            rows = await transaction.rows(
                f"SELECT {_COLUMNS} FROM submission WHERE job_id IN ({marks}) AND principal = $1"  # noqa: S608
                " ORDER BY attempted_at",
                principal,
                *some,
            )
            found.update({row[_JOB_ID]: Submission(*row) for row in rows})
        return found

    return act


def of_principal(principal: str, most: int) -> Act[list[Submission]]:
    """The principal's newest submissions that made a job."""

    async def act(transaction: Transaction) -> list[Submission]:
        rows = await transaction.rows(
            f"SELECT {_COLUMNS} FROM submission WHERE principal = $1 AND job_id IS NOT NULL"  # noqa: S608
            " ORDER BY attempted_at DESC LIMIT $2",
            principal,
            most,
        )
        return [Submission(*row) for row in rows]

    return act


def ended(principal: str, job_id: int, seen: bytes) -> Act[int]:
    """Keep how the job ended, once; of a reused id, with the newest submission."""
    return lambda transaction: transaction.change(
        "UPDATE submission SET seen = $1 WHERE marker = (SELECT marker FROM submission"
        " WHERE job_id = $2 AND principal = $3 ORDER BY attempted_at DESC LIMIT 1) AND seen IS NULL",
        seen,
        job_id,
        principal,
    )


def reopened(principal: str, job_id: int) -> Act[int]:
    """The job was put back: how it ended then says nothing any more."""
    return lambda transaction: transaction.change(
        "UPDATE submission SET seen = NULL WHERE job_id = $1 AND principal = $2", job_id, principal
    )


def drop_old(before: int) -> Act[int]:
    """Forget submissions last attempted before ``before``; how many."""
    return lambda transaction: transaction.change("DELETE FROM submission WHERE attempted_at < $1", before)
