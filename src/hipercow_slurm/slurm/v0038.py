"""slurmrestd's API v0.0.38 (Slurm 22.05 to 23.11): our values to its JSON and back. No I/O.

Peculiar to this version: ``environment`` is an object, numbers are bare, ``script`` stands beside ``job``, the
exit code is a raw wait status, and a field that is not set is ``null`` or the empty string.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hipercow_slurm.errors import Error
from hipercow_slurm.slurm import answers, outputs
from hipercow_slurm.slurm.answers import Answer
from hipercow_slurm.slurm.check import check
from hipercow_slurm.slurm.model import ENDED, Job, JobChange, JobSpec, Submitted
from hipercow_slurm.slurm.v0038_cluster import names_of
from hipercow_slurm.slurm.v0038_cluster import read_nodes as read_nodes
from hipercow_slurm.slurm.v0038_cluster import read_partitions as read_partitions
from hipercow_slurm.slurm.v0038_raw import RawBody, RawJob, accepted, body_of, refusals_of

VERSION = "v0.0.38"
DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
YEAR_S = 365 * 24 * 3600  # slurmctld's end_time for a job without limit is its start plus this

# Not at once: slurmd has just revoked the requeued job's credential, and kills what starts again in the same second
# ("Job credential revoked"). Slurm's own delay for the same reason is two minutes.
_SOON = "now+5"


def submit_path() -> str:
    """Of POST ``submit_body``."""
    return f"/slurm/{VERSION}/job/submit"


def job_path(job_id: int) -> str:
    """Of GET and DELETE of one job."""
    return f"/slurm/{VERSION}/job/{job_id}"


def jobs_path() -> str:
    """Of GET all jobs."""
    return f"/slurm/{VERSION}/jobs"


def ping_path() -> str:
    """Of GET the controllers' health; needs a token like everything else."""
    return f"/slurm/{VERSION}/ping"


def signal_path(job_id: int, signal: str) -> str:
    """Of DELETE to send a signal."""
    return f"{job_path(job_id)}?signal={signal}"


def partitions_path() -> str:
    """Of GET all partitions that the user may see."""
    return f"/slurm/{VERSION}/partitions"


def nodes_path() -> str:
    """Of GET all nodes."""
    return f"/slurm/{VERSION}/nodes"


def update_body(change: JobChange) -> bytes:
    """The JSON of a change, for POST to ``job_path``. ``hold`` false really releases (measured)."""
    wanted = {
        "hold": change.hold,
        "time_limit": change.time_limit_min,
        "nice": change.nice,
        "begin_time": _SOON if change.begin_now else None,
    }
    return msgspec.json.encode({key: value for key, value in wanted.items() if value is not None})


def submit_body(spec: JobSpec, localname: str) -> bytes:
    """The JSON of a submission.

    Raises:
        RequestError: Slurm would refuse this, or take it and fail later.
    """
    check(spec)
    job: dict[str, Any] = {
        "name": spec.name or "job",  # without one, Slurm shows "(null)"
        "current_working_directory": spec.working_directory,
        # Never empty: an empty or missing object is refused. slurmrestd adds nothing of its own but SLURM_*.
        "environment": {
            "PATH": DEFAULT_PATH,
            "USER": localname,
            "LOGNAME": localname,
            **spec.environment,
        },
        "partition": spec.partition,
        "account": spec.account,
        "qos": spec.qos,
        "nodes": spec.nodes,
        "tasks": spec.tasks,
        "cpus_per_task": spec.cpus_per_task,
        "memory_per_node": spec.memory_mb,
        "time_limit": spec.time_limit_min,
        "standard_output": spec.output,
        "standard_error": spec.error,
        "array": spec.array,
        "comment": spec.comment,
        "hold": True if spec.hold else None,
        "tasks_per_node": spec.tasks_per_node,
        "memory_per_cpu": spec.memory_per_cpu_mb,
        # The four need GresTypes and SelectType in slurmrestd's own slurm.conf, or are "Failure during parsing".
        "gpus": spec.gpus,
        "gpus_per_node": spec.gpus_per_node,
        "gpus_per_task": spec.gpus_per_task,
        "gres": spec.gres,
        "licenses": spec.licenses,
        "constraints": spec.constraint,
        "nodelist": spec.nodelist,
        "dependency": spec.dependency,
        # A bare number is refused, whatever the schema says; this is how sbatch writes one.
        "begin_time": None if spec.begin_time is None else f"uts{spec.begin_time}",
        "reservation": spec.reservation,
        # Any value of "requeue", false too, means yes.
        "requeue": True if spec.requeue else None,
        "no_requeue": True if spec.requeue is False else None,
        "exclusive": spec.exclusive,
        "open_mode": spec.open_mode,
        "nice": spec.nice,
        "standard_input": spec.input,
        "mail_type": spec.mail_type,
        "mail_user": spec.mail_user,
        "priority": None if spec.priority is None else str(spec.priority),
    }
    given = {key: value for key, value in job.items() if value is not None}
    return msgspec.json.encode({"script": spec.script, "job": given})


def read_submitted(answer: Answer) -> Submitted:
    """The new job.

    Raises:
        Error: refused; ``submit-unknown`` whenever it is not certain that there is no job.
    """
    try:
        body = body_of(answer)
    except Error as error:
        if answer.status == 200:
            raise answers.submit_unknown(error.message) from error
        raise
    if body.job_id:
        message = " ".join((body.job_submit_user_msg or "").split())
        notes = [answers.describe([refusal]) for refusal in refusals_of(body)]
        return Submitted(body.job_id, "; ".join([message, *notes] if message else notes) or None)
    refusals = refusals_of(body)
    if refusals:
        raise answers.submit_error(refusals, answer)
    raise answers.submit_unknown(f"HTTP {answer.status} without a job id")


def read_job(answer: Answer, job_id: int, localname: str) -> Job:
    """The job asked for, of all that slurmctld answers with (an array's id brings all its tasks).

    Raises:
        SchedulerError: ``no-such-job``: unknown, or not ``localname``'s.
        Error: any other refusal.
    """
    found = _jobs(accepted(answer, job_id), localname)
    for job in found:
        if job.job_id == job_id:
            return job
    for job in found:
        if job.array_job_id == job_id:
            return job
    raise answers.no_such_job(job_id)


def read_jobs(answer: Answer, localname: str) -> list[Job]:
    """``localname``'s own jobs, oldest first, whoever else's the answer holds.

    Raises:
        Error: refused or not understood.
    """
    return sorted(_jobs(accepted(answer, None), localname), key=lambda job: job.job_id)


def read_cancelled(answer: Answer, job_id: int) -> None:
    """Raise unless the job is over or ending.

    Raises:
        SchedulerError: ``no-such-job``: unknown, or another user's (Slurm tells these apart; we do not).
        Error: any other refusal.
    """
    accepted(answer, job_id, fine=answers.ALREADY_OVER)


def read_updated(answer: Answer, job_id: int) -> None:
    """Raise unless the change was made.

    Raises:
        SchedulerError: ``no-such-job``, or ``change-refused`` with Slurm's words.
        Error: any other refusal.
    """
    refusals = refusals_of(body_of(answer))
    if refusals:
        raise answers.change_error(refusals, answer, job_id)


def read_signalled(answer: Answer, job_id: int) -> None:
    """Raise unless the signal is on its way.

    Raises:
        SchedulerError: ``no-such-job``, or ``change-refused``: the job does not run.
        Error: any other refusal.
    """
    refusals = refusals_of(body_of(answer))
    if refusals and refusals[0].number in answers.UNKNOWN_JOB:
        raise answers.no_such_job(job_id)
    if refusals:
        raise answers.change_error(refusals, answer, job_id)


def read_ping(answer: Answer) -> None:
    """Raise unless a controller is up.

    Raises:
        Error: refused, or ``scheduler-unreachable``.
    """
    pings = accepted(answer, None).pings
    if not any(ping.ping == "UP" for ping in pings):
        raise answers.unreachable(", ".join(f"{ping.hostname} is {ping.ping}" for ping in pings) or "none")


def _jobs(body: RawBody, localname: str) -> list[Job]:
    return [_job(raw) for raw in body.jobs if raw.user_name == localname]


def _job(raw: RawJob) -> Job:
    ended = raw.job_state in ENDED
    pending = raw.job_state == "PENDING"
    nodes = () if pending else names_of(raw.nodes or "")
    code, signal = _outcome(raw) if ended and nodes else (None, None)
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


def _outcome(raw: RawJob) -> tuple[int | None, int | None]:
    """Exit code and signal out of the wait status; neither where the status says nothing about the script."""
    status = raw.exit_code or 0
    code, signal = status >> 8, status & 0x7F
    if code > 0xFF or (code and signal):
        return None, None  # no wait status: after a failed launch slurmd's error number is here (4021)
    if signal:
        return None, signal
    if status == 0 and raw.job_state != "COMPLETED":
        return None, None  # a job that timed out has 0 as well, and did not succeed
    return code, None


def _latest_end(raw: RawJob) -> int | None:
    if not raw.start_time or not raw.end_time or raw.end_time <= raw.start_time:
        return None
    if raw.time_limit is None and raw.end_time - raw.start_time >= YEAR_S:
        return None
    return raw.end_time
