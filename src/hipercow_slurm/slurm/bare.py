"""What an answer of slurmrestd says, in the plainest form: v0.0.38's own, into which newer versions are brought.

Numbers are bare, a state is one word, an exit code is a raw wait status. The structs read v0.0.38's JSON as it is;
data_parser.py makes the same out of the newer JSON. No I/O.
"""

from __future__ import annotations

import msgspec

from hipercow_slurm.slurm.answers import Refusal


class RawRefusal(msgspec.Struct):
    """Submissions use ``error_code``, partitions and nodes ``errno``, all else ``error_number``; some only words."""

    error: str | None = None
    error_code: int | None = None
    error_number: int | None = None
    errno: int | None = None
    description: str | None = None


class RawPing(msgspec.Struct):
    hostname: str = ""
    ping: str = ""


class RawJob(msgspec.Struct):
    """``patterns``: the letters of those in ``standard_output`` and ``standard_error`` that Slurm has not filled in
    yet; None: none of them is.
    """

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
    patterns: str | None = None


class RawPartition(msgspec.Struct):
    """-1 stands for "no limit" in some of these numbers, null in others; ``flags`` None: not told."""

    name: str
    flags: list[str] | None = None
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
    """``notes``: what newer versions call warnings; v0.0.38 has them among ``errors``."""

    errors: list[RawRefusal] = []
    jobs: list[RawJob] = []
    partitions: list[RawPartition] = []
    nodes: list[RawNode] = []
    pings: list[RawPing] = []
    notes: list[str] = []
    job_id: int | None = None
    job_submit_user_msg: str | None = None


def refusals_of(body: RawBody) -> list[Refusal]:
    """Those with a number first: the others (0) only comment on them (``Unknown key``, before 9001)."""
    found = []
    for entry in body.errors:
        number = next((one for one in (entry.error_code, entry.error_number, entry.errno) if one is not None), 0)
        # A description beside the words repeats them with the job's id, or says where slurmrestd looked.
        found.append(Refusal(number, entry.error or entry.description or "?"))
    return sorted(found, key=lambda refusal: refusal.number == 0)
