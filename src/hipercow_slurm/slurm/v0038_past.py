"""slurmrestd's API v0.0.38 towards slurmdbd: how jobs ended that slurmctld has forgotten. No I/O.

Measured (22.05.8): for a job that exited 3 it says state FAILED with ``exit_code`` SUCCESS 0 and ``user`` null, so
only the state, the times and the nodes are read. Errors come with HTTP 200, also for an id it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hipercow_slurm.slurm import answers
from hipercow_slurm.slurm.answers import Answer, Refusal
from hipercow_slurm.slurm.cluster import names_of
from hipercow_slurm.slurm.model import Past

NOTHING_FOUND = 9003
DBD_DOWN = 7000
NOWHERE = "None assigned"


class _Time(msgspec.Struct, frozen=True):
    submission: int
    start: int = 0
    end: int = 0


class _State(msgspec.Struct, frozen=True):
    current: str


class _Job(msgspec.Struct, frozen=True):
    job_id: int
    time: _Time
    state: _State
    partition: str | None = None
    nodes: str | None = None


class _Error(msgspec.Struct, frozen=True):
    error: str | None = None
    description: str | None = None
    error_number: int = 0


class _Body(msgspec.Struct, frozen=True):
    jobs: list[_Job] = []
    errors: list[_Error] = []


def past_path(job_id: int) -> str:
    """Of GET one job in slurmdbd."""
    return f"/slurmdb/v0.0.38/job/{job_id}"


def read_past(answer: Answer, job_id: int) -> list[Past]:
    """All that slurmdbd knows under this id, whoever's: ids are used again, and it shows everybody's.

    Raises:
        Error: refused or not understood; slurmrestd runs without ``-s openapi/dbv0.0.38``.
    """
    if answer.content_type.partition(";")[0] != "application/json":
        raise answers.plain_error(answer)
    try:
        body = msgspec.json.decode(answer.body, type=_Body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise answers.unreadable(f"what is no accounting record: {error}") from error
    refusals = [Refusal(one.error_number, one.error or one.description or "") for one in body.errors]
    refuse([one for one in refusals if one.number != NOTHING_FOUND], answer)
    return [
        Past(
            state=job.state.current,
            partition=job.partition or None,
            nodes=names_of("" if job.nodes in (None, NOWHERE) else job.nodes or ""),
            submit_time=job.time.submission,
            start_time=job.time.start or None,
            end_time=job.time.end or None,
        )
        for job in body.jobs
        if job.job_id == job_id
    ]


def refuse(refusals: Sequence[Refusal], answer: Answer) -> None:
    """Raise our error for what slurmdbd, or the way to it, refused; nothing to raise without refusals.

    Raises:
        Error: ``scheduler-unreachable``: slurmdbd is down; else as Slurm's number says.
    """
    if refusals:
        down = refusals[0].number == DBD_DOWN
        raise answers.unreachable(answers.describe(refusals)) if down else answers.error_for(refusals, answer)
