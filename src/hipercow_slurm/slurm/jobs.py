"""A job of a bare answer as a ``Job``: what is a fact of it, and what is only slurmctld's guess. No I/O."""

from __future__ import annotations

from hipercow_slurm.slurm import outputs
from hipercow_slurm.slurm.bare import RawBody, RawJob
from hipercow_slurm.slurm.cluster import names_of
from hipercow_slurm.slurm.model import ENDED, Job

YEAR_S = 365 * 24 * 3600  # slurmctld's end_time for a job without limit is its start plus this


def of(body: RawBody, localname: str) -> list[Job]:
    """The jobs of ``localname``, in the answer's order.

    Raises:
        InternalError: a job's nodes are no hostlist.
    """
    return [_job(raw) for raw in body.jobs if raw.user_name == localname]


def _job(raw: RawJob) -> Job:
    ended = raw.job_state in ENDED
    pending = raw.job_state == "PENDING"
    nodes = () if pending else names_of(raw.nodes or "")
    code, signal = outcome(raw.exit_code or 0, raw.job_state) if ended and nodes else (None, None)
    # For a pending job start and end are slurmctld's guesses (or NO_VAL arithmetic), not facts.
    start = None if pending else raw.start_time or None
    end = raw.end_time or None
    directory = raw.current_working_directory or "/"
    is_array = bool(raw.array_job_id)
    names = outputs.Names(
        job_id=raw.job_id,
        job_name=raw.name or "",
        user=raw.user_name,
        array_job_id=raw.array_job_id or None,
        array_task_id=raw.array_task_id,
        is_array=is_array,
        first_node=None if pending else raw.batch_host or None,
        left=raw.patterns if raw.standard_output else None,
    )
    stdout = outputs.stdout_path(raw.standard_output or "", directory, names)
    return Job(
        job_id=raw.job_id,
        name=raw.name or "",
        user=raw.user_name,
        uid=raw.user_id,
        partition=raw.partition or "",
        state=raw.job_state,
        reason=None if raw.state_reason in (None, "", "None") else raw.state_reason,
        exit_code=code,
        signal=signal,
        nodes=nodes,
        node_count=raw.node_count or len(nodes),
        submit_time=raw.submit_time or None,
        start_time=start if nodes else None,
        end_time=end if ended else None,
        latest_end=_latest_end(raw) if not ended and nodes else None,
        time_limit_min=raw.time_limit,
        working_directory=directory,
        output=stdout,
        error=outputs.stderr_path(raw.standard_error or "", stdout, directory, names),
        comment=raw.comment or None,
        array_job_id=raw.array_job_id or None,
        array_task_id=raw.array_task_id if is_array else None,
        remark="; ".join(filter(None, (raw.state_description, raw.admin_comment, raw.system_comment))) or None,
    )


def outcome(status: int, state: str) -> tuple[int | None, int | None]:
    """Exit code and signal of an ended job out of the wait status; neither where that says nothing about the script."""
    code, signal = status >> 8, status & 0x7F
    if code > 0xFF or (code and signal):
        return None, None  # no wait status: after a failed launch slurmd's error number is here (4021)
    if signal:
        return None, signal
    if status == 0 and state != "COMPLETED":
        return None, None  # a job that timed out has 0 as well, and did not succeed
    return code, None


def _latest_end(raw: RawJob) -> int | None:
    if not raw.start_time or not raw.end_time or raw.end_time <= raw.start_time:
        return None
    if raw.time_limit is None and raw.end_time - raw.start_time >= YEAR_S:
        return None
    return raw.end_time
