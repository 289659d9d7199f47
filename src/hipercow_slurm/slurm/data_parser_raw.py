"""The JSON of slurmrestd's data parsers, as far as we read it, and the bare form of it (bare.py). No I/O.

A number may be an object with ``set`` and ``infinite``, a state is a list of a base word and flags, an exit code is
an object; some fields were bare in one version and are objects in the next, so both are taken wherever that was seen.
"""

from __future__ import annotations

import msgspec

from hipercow_slurm.slurm.bare import RawBody, RawJob, RawNode, RawPartition, RawRefusal
from hipercow_slurm.slurm.jobs import YEAR_S
from hipercow_slurm.slurm.model import ENDED
from hipercow_slurm.slurm.outputs import NO_TASK

# Which of a job's words squeue would show, first the strongest; without one of these the base word.
_FLAGS = (
    *("COMPLETING", "STAGE_OUT", "CONFIGURING", "RESIZING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD"),
    *("SPECIAL_EXIT", "STOPPED", "REVOKED", "RESV_DEL_HOLD", "SIGNALING"),
)
# What slurmd calls the end of a job that it could not start (0:53): no signal that anybody sent.
_NO_START = 53
# A warning that says the next one once more.
_SAID_TWICE = "Job submission resulted in non-zero return code: "
_YEAR_MIN = YEAR_S // 60


class Number(msgspec.Struct):
    """A number, if it is ``set`` and not ``infinite``."""

    set: bool = False
    infinite: bool = False
    number: float = 0


class _Signal(msgspec.Struct):
    id: int | Number | None = None


class ExitCode(msgspec.Struct):
    """How a script ended."""

    return_code: int | Number | None = None
    signal: _Signal | None = None


class _Job(msgspec.Struct):
    job_id: int
    job_state: str | list[str]
    user_name: str
    user_id: int
    name: str | None = None
    partition: str | None = None
    state_reason: str | None = None
    exit_code: ExitCode | None = None
    nodes: str | None = None
    node_count: int | Number | None = None
    submit_time: int | Number | None = None
    start_time: int | Number | None = None
    end_time: int | Number | None = None
    time_limit: int | Number | None = None
    current_working_directory: str | None = None
    standard_output: str | None = None
    standard_error: str | None = None
    stdout_expanded: str | None = None  # since v0.0.43
    stderr_expanded: str | None = None
    comment: str | None = None
    array_job_id: int | Number | None = None
    array_task_id: int | Number | None = None
    array_task_string: str | None = None
    batch_host: str | None = None
    admin_comment: str | None = None
    system_comment: str | None = None
    state_description: str | None = None


class _PartitionNodes(msgspec.Struct):
    configured: str | None = None
    total: int = 0


class _PartitionCpus(msgspec.Struct):
    total: int = 0


class _PartitionLimits(msgspec.Struct):
    time: int | Number | None = None
    nodes: int | Number | None = None
    partition_memory_per_node: int | Number | None = None


class _PartitionState(msgspec.Struct):
    state: str | list[str] = ""


class _Partition(msgspec.Struct):
    """``flags`` came with v0.0.43: before it nothing says which partition is the default."""

    name: str
    nodes: _PartitionNodes = msgspec.field(default_factory=_PartitionNodes)
    cpus: _PartitionCpus = msgspec.field(default_factory=_PartitionCpus)
    maximums: _PartitionLimits = msgspec.field(default_factory=_PartitionLimits)
    defaults: _PartitionLimits = msgspec.field(default_factory=_PartitionLimits)
    partition: _PartitionState = msgspec.field(default_factory=_PartitionState)
    flags: list[str] | None = None


class _Node(msgspec.Struct):
    name: str
    state: str | list[str] = ""
    partitions: list[str] = []
    cpus: int = 0
    alloc_cpus: int = 0
    real_memory: int = 0
    alloc_memory: int = 0
    cpu_load: int | Number | None = None
    features: str | list[str] | None = None
    gres: str | None = None
    gres_used: str | None = None
    reason: str | None = None


class _Problem(msgspec.Struct):
    string: str | None = None
    code: int | None = None


class _Killed(msgspec.Struct):
    """What became of one job of a DELETE."""

    error: _Problem | None = None


class _Warning(msgspec.Struct):
    description: str | None = None


class _Body(msgspec.Struct):
    errors: list[RawRefusal] | None = None
    warnings: list[_Warning] | None = None
    status: list[_Killed] | None = None
    jobs: list[_Job] | None = None
    partitions: list[_Partition] | None = None
    nodes: list[_Node] | None = None
    job_id: int | None = None
    job_submit_user_msg: str | None = None


_decoder = msgspec.json.Decoder(_Body)
_LEFT = "JnNst"  # slurmctld of 24.11 leaves these patterns to the node


def read(body: bytes) -> RawBody:
    """An answer in the bare form.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError: not what a data parser writes.
    """
    raw = _decoder.decode(body)
    problems = [one.error for one in raw.status or () if one.error is not None and one.error.code]
    said = [one.description or "" for one in raw.warnings or ()]
    return RawBody(
        errors=[*(raw.errors or ()), *(RawRefusal(one.string, error_number=one.code) for one in problems)],
        jobs=[_job(one) for one in raw.jobs or ()],
        partitions=[_partition(one) for one in raw.partitions or ()],
        nodes=[_node(one) for one in raw.nodes or ()],
        notes=[text for text in said if text and not text.startswith(_SAID_TWICE)],
        job_id=raw.job_id,
        job_submit_user_msg=raw.job_submit_user_msg,
    )


def whole(number: int | Number | None) -> int | None:
    """A number, or None where there is none or no end of it."""
    if number is None or isinstance(number, int):
        return number
    return int(number.number) if number.set and not number.infinite else None


def state_of(said: str | list[str]) -> str:
    """The one word that squeue would show."""
    words = [said] if isinstance(said, str) else said
    return next((flag for flag in _FLAGS if flag in words), words[0] if words else "UNKNOWN")


def _job(raw: _Job) -> RawJob:
    state = state_of(raw.job_state)
    limit = whole(raw.time_limit)
    task = whole(raw.array_task_id)
    left = (raw.array_task_string or "").partition("%")[0]
    if task is None and left.isdecimal() and len(left) < 10:
        task = int(left)  # the last of an array that has not started
    output, error, patterns = _files(raw, state)
    if task is None:  # of an array that has not been split, 24.11 fills in a number that is none
        output, error = (text and text.replace(str(NO_TASK), "%a") for text in (output, error))
    return RawJob(
        job_id=raw.job_id,
        job_state=state,
        user_name=raw.user_name,
        user_id=raw.user_id,
        name=raw.name,
        partition=raw.partition,
        state_reason=raw.state_reason,
        exit_code=wait_status(raw.exit_code),
        nodes=raw.nodes,
        node_count=whole(raw.node_count),
        submit_time=whole(raw.submit_time),
        start_time=whole(raw.start_time),
        end_time=whole(raw.end_time),
        # An ended job without a limit has one of a year, while it ran it had none.
        time_limit=None if state in ENDED and limit == _YEAR_MIN else limit,
        current_working_directory=raw.current_working_directory,
        standard_output=output,
        standard_error=error,
        comment=raw.comment,
        array_job_id=whole(raw.array_job_id),
        array_task_id=task,
        batch_host=raw.batch_host,
        admin_comment=raw.admin_comment,
        system_comment=raw.system_comment,
        state_description=raw.state_description,
        patterns=patterns,
    )


def _files(raw: _Job, state: str) -> tuple[str | None, str | None, str | None]:
    """Where output goes, and which patterns in it are still to be filled in (measured: 24.11.5, 26.05.5).

    Up to v0.0.42 all but a few are, and ``%%`` is ``%``: filled in once more, ``%%j`` would name another file. From
    v0.0.43 on the pattern is as it was given, and beside it the file; of a job that has no node yet that is a guess.
    """
    if raw.stdout_expanded is None:
        return raw.standard_output, raw.standard_error, _LEFT
    if raw.stdout_expanded and raw.nodes and state != "PENDING":
        return raw.stdout_expanded, raw.stderr_expanded, ""
    return raw.standard_output, raw.standard_error, None


def wait_status(raw: ExitCode | None) -> int:
    """As wait(2) tells it."""
    if raw is None:
        return 0
    signal = whole(raw.signal.id) if raw.signal is not None else None
    if signal == _NO_START:
        return 0
    return ((whole(raw.return_code) or 0) << 8) | ((signal or 0) & 0x7F)


def _partition(raw: _Partition) -> RawPartition:
    state = raw.partition.state
    return RawPartition(
        name=raw.name,
        flags=None if raw.flags is None else [flag.lower() for flag in raw.flags],
        state=state if isinstance(state, str) else "".join(state[:1]),
        nodes=raw.nodes.configured,
        total_cpus=raw.cpus.total,
        total_nodes=raw.nodes.total,
        max_time_limit=whole(raw.maximums.time),
        default_time_limit=whole(raw.defaults.time),
        maximum_nodes_per_job=whole(raw.maximums.nodes),
        maximum_memory_per_node=whole(raw.maximums.partition_memory_per_node),
    )


def _node(raw: _Node) -> RawNode:
    words = [raw.state] if isinstance(raw.state, str) else raw.state
    features = raw.features if isinstance(raw.features, str) else ",".join(raw.features or ())
    return RawNode(
        name=raw.name,
        state=words[0] if words else "",
        state_flags=words[1:],
        partitions=raw.partitions,
        cpus=raw.cpus,
        alloc_cpus=raw.alloc_cpus,
        real_memory=raw.real_memory,
        alloc_memory=raw.alloc_memory,
        cpu_load=whole(raw.cpu_load),
        features=features,
        gres=raw.gres,
        gres_used=raw.gres_used,
        reason=raw.reason,
    )
