"""Jobs that Slurm has forgotten, from our own record: what was asked, and how it ended if somebody looked in time.

slurmctld forgets a job some minutes after its end (MinJobAge), and then says of it what it says of a job that never
was. Our row of the submission is still there; it belongs to the principal who submitted.
"""

from __future__ import annotations

import contextlib

import msgspec

from hipercow_slurm.api import submissions_db
from hipercow_slurm.api.database import Database
from hipercow_slurm.api.session import Session
from hipercow_slurm.api.submissions_db import Submission
from hipercow_slurm.errors import UnavailableError
from hipercow_slurm.slurm import outputs
from hipercow_slurm.slurm.model import Job, JobSpec

UNKNOWN = "UNKNOWN"
_REMEMBERED = 10_000
LISTED = 10_000


class Asked(msgspec.Struct, frozen=True, omit_defaults=True):
    """What of a submission is shown when Slurm does not know the job any more."""

    name: str | None = None
    partition: str | None = None
    time_limit_min: int | None = None
    nodes: int | None = None
    array: bool = False


def asked(spec: JobSpec) -> bytes:
    """What to keep of ``spec``."""
    kept = Asked(spec.name, spec.partition, spec.time_limit_min, spec.nodes, array=spec.array is not None)
    return msgspec.json.encode(kept)


class History:
    """Our record of what was submitted through us."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._noted: set[tuple[str, int, int | None]] = set()

    async def note(self, session: Session, jobs: list[Job]) -> None:
        """Keep how these ended, if they have; each is written once. A database that fails loses only this."""
        for job in jobs:
            # Another process may have put the job back since: its next end is another one.
            key = (session.principal, job.job_id, job.end_time)
            if not job.ended or key in self._noted:
                continue
            if len(self._noted) >= _REMEMBERED:
                self._noted.clear()
            self._noted.add(key)
            with contextlib.suppress(UnavailableError):
                seen = msgspec.json.encode(job)
                await self._database.run(submissions_db.ended(session.principal, job.job_id, seen))

    async def reopen(self, session: Session, job_id: int) -> None:
        """The job runs again: forget how it ended."""
        await self._database.run(submissions_db.reopened(session.principal, job_id))

    async def of(self, session: Session, job_id: int) -> Job | None:
        """The session's user's job as far as our record goes; None if we never submitted it."""
        rows = await self._database.run(submissions_db.of_jobs(session.principal, [job_id]))
        row = rows.get(job_id)
        return None if row is None or row.uid != session.uid else _job(row, session)

    async def all_of(self, session: Session) -> list[Job]:
        """The newest ``LISTED`` of the user's."""
        rows = await self._database.run(submissions_db.of_principal(session.principal, LISTED))
        return [_job(row, session) for row in rows if row.uid == session.uid]


def _job(row: Submission, session: Session) -> Job:
    if row.seen is not None:
        return msgspec.json.decode(row.seen, type=Job)
    wish = msgspec.json.decode(row.asked, type=Asked) if row.asked else Asked()
    assert row.job_id is not None
    names = outputs.Names(
        job_id=row.job_id,
        job_name=wish.name or "job",
        user=session.localname,
        array_job_id=row.job_id if wish.array else None,
        array_task_id=None,
        is_array=wish.array,
        first_node=None,
    )
    return Job(
        job_id=row.job_id,
        name=wish.name or "job",
        user=session.localname,
        uid=row.uid,
        partition=wish.partition or "",
        state=UNKNOWN,
        reason="Slurm does not know this job any more; it was submitted, and how it ended was not seen",
        exit_code=None,
        signal=None,
        nodes=(),
        node_count=wish.nodes or 1,
        submit_time=row.attempted_at,
        start_time=None,
        end_time=None,
        latest_end=None,
        time_limit_min=wish.time_limit_min,
        working_directory=row.working_directory,
        output=outputs.fill(row.output, names),
        error=outputs.fill(row.error, names),
    )
