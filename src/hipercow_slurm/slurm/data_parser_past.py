"""slurmrestd's API from v0.0.40 on towards slurmdbd: how jobs ended that slurmctld has forgotten. No I/O.

Measured (24.11.5, 26.05.5): unlike v0.0.38 it names the user and has the exit code. An id it does not
know is 200 with no jobs; slurmdbd down is 502 and 7000.
"""

from __future__ import annotations

import msgspec

from hipercow_slurm.slurm import answers, data_parser_raw
from hipercow_slurm.slurm.answers import Answer, Refusal
from hipercow_slurm.slurm.bare import RawRefusal
from hipercow_slurm.slurm.cluster import names_of
from hipercow_slurm.slurm.data_parser_raw import ExitCode, Number
from hipercow_slurm.slurm.jobs import outcome
from hipercow_slurm.slurm.model import Past
from hipercow_slurm.slurm.v0038_past import NOTHING_FOUND, NOWHERE, refuse


class _Time(msgspec.Struct, frozen=True):
    submission: int | Number | None = None
    start: int | Number | None = None
    end: int | Number | None = None


class _State(msgspec.Struct, frozen=True):
    current: str | list[str]


class _Job(msgspec.Struct, frozen=True):
    job_id: int
    time: _Time
    state: _State
    user: str | None = None
    partition: str | None = None
    nodes: str | None = None
    exit_code: ExitCode | None = None


class _Body(msgspec.Struct, frozen=True):
    jobs: list[_Job] | None = None
    errors: list[RawRefusal] | None = None


class DataParserPast:
    """One version of the family."""

    def __init__(self, version: str) -> None:
        self._version = version

    def past_path(self, job_id: int) -> str:
        """Of GET one job in slurmdbd."""
        return f"/slurmdb/{self._version}/job/{job_id}"

    def read_past(self, answer: Answer, job_id: int) -> list[Past]:
        """All that slurmdbd knows under this id, whoever's: ids are used again, and it shows everybody's.

        Raises:
            Error: refused or not understood; slurmrestd runs without ``-s openapi/slurmdbd``.
        """
        if "json" not in answer.content_type:
            raise answers.plain_error(answer)
        try:
            body = msgspec.json.decode(answer.body, type=_Body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise answers.unreadable(f"what is no accounting record: {error}") from error
        refusals = [Refusal(one.error_number or 0, one.error or one.description or "") for one in body.errors or ()]
        refuse([one for one in refusals if one.number != NOTHING_FOUND], answer)
        return [_past(job) for job in body.jobs or () if job.job_id == job_id]


def _past(job: _Job) -> Past:
    state = data_parser_raw.state_of(job.state.current)
    nodes = names_of("" if job.nodes in (None, NOWHERE) else job.nodes or "")
    code, signal = outcome(data_parser_raw.wait_status(job.exit_code), state) if nodes else (None, None)
    return Past(
        state=state,
        partition=job.partition or None,
        nodes=nodes,
        submit_time=data_parser_raw.whole(job.time.submission) or 0,
        start_time=data_parser_raw.whole(job.time.start) or None,
        end_time=data_parser_raw.whole(job.time.end) or None,
        user=job.user or None,
        exit_code=code,
        signal=signal,
    )
