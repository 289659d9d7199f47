"""What a job is, before (``JobSpec``) and after (``Job``) Slurm has it; the same for every slurmrestd version.

Times are ``int`` seconds since 1970, limits are minutes and megabytes, as Slurm counts them. Pure data.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

# Slurm's base states after which nothing of the job runs any more (job_states of slurm.h, 22.05).
ENDED: Final = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "TIMEOUT",
        "UNKNOWN",  # ours: Slurm has forgotten the job
    }
)


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the user asks for; ``None`` leaves the choice to Slurm. ``check.check`` says whether it can work.

    Attributes:
        script: the whole batch script; its first line names the interpreter (``#!``).
        working_directory: absolute; optional here so that a server can fill in the home directory.
        output, error: where stdout and stderr go, absolute or relative to the working directory, with Slurm's
            ``%`` patterns; by default both go to ``slurm-%j.out``.
        environment: the job's variables; a ``PATH``, ``USER`` and ``LOGNAME`` are added where missing.
        array: task numbers in Slurm's form, ``0-9%2`` or ``1,3,5-7:2``.
        comment: kept by Slurm with the job; a server can find its own job again by it.
        gpus, gpus_per_node, gpus_per_task: ``2`` or ``a100:2``; gres: ``gpu:2``; licenses: ``matlab:1``.
        nodelist: nodes it must have, ``c[1-3]``; constraint: features they must have.
        dependency: Slurm's form, ``afterok:17:18,afterany:20``.
        begin_time: not before.
        requeue: may Slurm start it anew; None: as slurm.conf says.
        exclusive: whole nodes; ``user`` and ``mcs``: shared with nobody else's jobs.
        open_mode: what becomes of output files that exist.
        nice: how much it steps back; priority: only where the site lets users set it.
        nodes_at_most: with ``nodes`` as the fewest.
        exclude: nodes it must not have; prefer: features it would like; use_min_nodes: rather the fewest nodes.
        hint: as ``threads_per_core`` and its like are set already, for the job to read.
        signal: ``USR1@60``, before it a letter for the batch script itself (``B:``), for a reservation (``R:``).
        switches: at most so many, for ``switches_wait_s`` at least.
        deadline: the job goes if it cannot end before.
        minimum_time_min: the limit may be made as short as this.
        get_user_env: begin with the variables of a login on the node.
    """

    script: str
    name: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    nodes: int | None = None
    tasks: int | None = None
    cpus_per_task: int | None = None
    memory_mb: int | None = None
    time_limit_min: int | None = None
    working_directory: str | None = None
    output: str | None = None
    error: str | None = None
    environment: dict[str, str] = {}
    hold: bool = False
    array: str | None = None
    comment: str | None = None
    tasks_per_node: int | None = None
    memory_per_cpu_mb: int | None = None
    gpus: str | None = None
    gpus_per_node: str | None = None
    gpus_per_task: str | None = None
    gres: str | None = None
    licenses: str | None = None
    constraint: str | None = None
    nodelist: str | None = None
    dependency: str | None = None
    begin_time: int | None = None
    reservation: str | None = None
    requeue: bool | None = None
    exclusive: Literal["exclusive", "user", "mcs"] | None = None
    open_mode: Literal["append", "truncate"] | None = None
    nice: int | None = None
    priority: int | None = None
    input: str | None = None
    mail_type: str | None = None
    mail_user: str | None = None
    nodes_at_most: int | None = None
    exclude: str | None = None
    prefer: str | None = None
    cluster_constraint: str | None = None
    switches: int | None = None
    switches_wait_s: int | None = None
    tasks_per_core: int | None = None
    tasks_per_socket: int | None = None
    tasks_per_gpu: int | None = None
    sockets_per_node: int | None = None
    cores_per_socket: int | None = None
    threads_per_core: int | None = None
    minimum_cpus_per_node: int | None = None
    cpus_per_gpu: int | None = None
    memory_per_gpu_mb: int | None = None
    gpus_per_socket: str | None = None
    gpu_bind: str | None = None
    gpu_freq: str | None = None
    gres_flags: Literal["disable-binding", "enforce-binding"] | None = None
    hint: Literal["compute_bound", "memory_bound", "multithread", "nomultithread"] | None = None
    distribution: str | None = None
    core_spec: int | None = None
    thread_spec: int | None = None
    cpu_freq: str | None = None
    tmp_mb: int | None = None
    minimum_time_min: int | None = None
    deadline: int | None = None
    delay_boot_min: int | None = None
    kill_on_invalid_dep: bool | None = None
    wait_all_nodes: bool | None = None
    no_kill: bool | None = None
    oversubscribe: bool | None = None
    overcommit: bool | None = None
    contiguous: bool | None = None
    spread_job: bool | None = None
    use_min_nodes: bool | None = None
    get_user_env: bool | None = None
    signal: str | None = None
    burst_buffer: str | None = None
    wckey: str | None = None
    mcs_label: str | None = None
    profile: str | None = None
    acctg_freq: str | None = None


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """What Slurm's accounting (slurmdbd) has of a job; the parts of it that can be trusted.

    ``user``, ``exit_code``, ``signal``: None where it is not told, by v0.0.38 never.
    """

    state: str
    partition: str | None
    nodes: tuple[str, ...]
    submit_time: int
    start_time: int | None
    end_time: int | None
    user: str | None = None
    exit_code: int | None = None
    signal: int | None = None


class JobChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to change of a job; ``None`` stays as it is.

    ``hold``: True holds it, False releases it. ``begin_now``: in a few seconds, do not wait for a begin time (a
    requeued job has one, two minutes ahead).
    """

    hold: bool | None = None
    begin_now: bool | None = None
    time_limit_min: int | None = None
    nice: int | None = None


class Partition(msgspec.Struct, frozen=True, kw_only=True):
    """A partition. Times in minutes, memory in MiB; None: no limit (or, for the default time, none of its own).

    ``is_default`` is None where slurmrestd does not tell (v0.0.40 to v0.0.42) and nobody else was asked.
    """

    name: str
    state: str
    nodes: tuple[str, ...]
    total_cpus: int
    total_nodes: int
    max_time_min: int | None
    default_time_min: int | None
    max_nodes_per_job: int | None
    max_memory_per_node_mb: int | None
    is_default: bool | None


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A node as slurmctld sees it; ``state`` is Slurm's base word, ``flags`` what comes with it (DRAIN, ...)."""

    name: str
    state: str
    flags: tuple[str, ...]
    partitions: tuple[str, ...]
    cpus: int
    cpus_allocated: int
    memory_mb: int
    memory_allocated_mb: int
    cpu_load: float | None
    features: str
    gres: str
    gres_used: str
    reason: str | None


class Submitted(msgspec.Struct, frozen=True):
    """Slurm took the job. ``message`` is what it said besides (held, too big for the partition), or None."""

    job_id: int
    message: str | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job as slurmctld knows it now.

    Attributes:
        state: Slurm's word: PENDING, RUNNING, COMPLETED, ...
        reason: why it is in this state, or None; Slurm's word (JobHeldUser, NonZeroExitCode, ...).
        exit_code: of the batch script, once it has ended by itself; else None.
        signal: the number of the signal that ended it, or None.
        nodes: names of the allocated nodes; empty before the start.
        submit_time, start_time, end_time: when it happened, None if it has not happened yet.
        latest_end: when Slurm will end it at the latest; None if it does not run or has no limit.
        time_limit_min: None if it has no limit of its own.
        output, error: absolute, with Slurm's ``%`` patterns filled in as far as they are known by now; equal
            when stderr was not sent elsewhere.
        array_job_id, array_task_id: None for a job that is no array task.
        remark: what Slurm, or an administrator's program, has noted about it besides the owner's comment.
    """

    job_id: int
    name: str
    user: str
    uid: int
    partition: str
    state: str
    reason: str | None
    exit_code: int | None
    signal: int | None
    nodes: tuple[str, ...]
    node_count: int
    submit_time: int | None
    start_time: int | None
    end_time: int | None
    latest_end: int | None
    time_limit_min: int | None
    working_directory: str
    output: str
    error: str
    comment: str | None = None
    array_job_id: int | None = None
    array_task_id: int | None = None
    remark: str | None = None

    @property
    def ended(self) -> bool:
        """Nothing of it runs or will run any more."""
        return self.state in ENDED
