"""What slurmrestd v0.0.38 sends: the shapes of its JSON as far as we read them, and its refusals. No I/O."""

from __future__ import annotations

import msgspec

from hipercow_slurm.slurm import answers
from hipercow_slurm.slurm.answers import Answer, Refusal


class RawRefusal(msgspec.Struct):
    """Submissions use ``error_code``, everything else ``error_number``; some entries have only words."""

    error: str | None = None
    error_code: int | None = None
    error_number: int | None = None
    description: str | None = None


class RawPing(msgspec.Struct):
    hostname: str = ""
    ping: str = ""


class RawJob(msgspec.Struct):
    job_id: int
    job_state: str
    user_name: str
    user_id: int
    name: str | None = None
    partition: str | None = None
    state_reason: str | None = None
    exit_code: int | None = None
    nodes: str | None = None
    node_count: int | None = None
    submit_time: int | None = None
    start_time: int | None = None
    end_time: int | None = None
    time_limit: int | None = None
    current_working_directory: str | None = None
    standard_output: str | None = None
    standard_error: str | None = None
    comment: str | None = None
    array_job_id: int | None = None
    array_task_id: int | None = None
    batch_host: str | None = None
    admin_comment: str | None = None
    system_comment: str | None = None
    state_description: str | None = None


class RawPartition(msgspec.Struct):
    """-1 stands for "no limit" in some of these numbers, null in others."""

    name: str
    flags: list[str] = []
    state: str = ""
    nodes: str | None = None
    total_cpus: int = 0
    total_nodes: int = 0
    max_time_limit: int | None = None
    default_time_limit: int | None = None
    maximum_nodes_per_job: int | None = None
    maximum_memory_per_node: int | None = None


class RawNode(msgspec.Struct):
    name: str
    state: str = ""
    state_flags: list[str] = []
    partitions: list[str] = []
    cpus: int = 0
    alloc_cpus: int = 0
    real_memory: int = 0
    alloc_memory: int = 0
    cpu_load: int | None = None
    features: str | None = None
    gres: str | None = None
    gres_used: str | None = None
    reason: str | None = None


class RawBody(msgspec.Struct):
    errors: list[RawRefusal] = []
    jobs: list[RawJob] = []
    partitions: list[RawPartition] = []
    nodes: list[RawNode] = []
    pings: list[RawPing] = []
    job_id: int | None = None
    job_submit_user_msg: str | None = None


_decoder = msgspec.json.Decoder(RawBody)


def body_of(answer: Answer) -> RawBody:
    if "json" not in answer.content_type:
        raise answers.plain_error(answer)
    try:
        return _decoder.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # broken JSON, unexpected types, not UTF-8
        raise answers.unreadable(f"HTTP {answer.status} with unexpected JSON: {error}") from error


def refusals_of(body: RawBody) -> list[Refusal]:
    """Those with a number first: the others (0) only comment on them (``Unknown key``, before 9001)."""
    found = []
    for entry in body.errors:
        number = entry.error_code if entry.error_code is not None else entry.error_number
        # A description beside the words repeats them with the job's id, or says where slurmrestd looked.
        found.append(Refusal(number or 0, entry.error or entry.description or "?"))
    return sorted(found, key=lambda refusal: refusal.number == 0)


def accepted(answer: Answer, job_id: int | None, *, fine: frozenset[int] = frozenset()) -> RawBody:
    body = body_of(answer)
    refusals = refusals_of(body)
    if refusals and refusals[0].number not in fine:
        if job_id is not None and refusals[0].number in answers.UNKNOWN_JOB:
            raise answers.no_such_job(job_id)
        raise answers.error_for(refusals, answer)
    if answer.status != 200 and not refusals:
        raise answers.unreadable(f"HTTP {answer.status} without a reason")
    return body
