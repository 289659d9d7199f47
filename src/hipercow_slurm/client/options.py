"""What a job may ask for, as keyword arguments of ``Client.submit``; the names are the API's (http-api.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict


class JobOptions(TypedDict, total=False):
    """sbatch's options by the API's names. What is left out is taken from the script's ``#SBATCH`` lines.

    Memory is in MiB, time in minutes; ``begin_time`` and ``deadline`` are RFC 3339 or one of
    sbatch's forms, ``nodes`` a number or ``MIN-MAX``; ``environment`` is all
    that travels of one. Paths are the cluster's, relative to the home directory or to ``working_directory``.
    """

    name: str
    partition: str
    account: str
    qos: str
    nodes: int | str
    tasks: int
    tasks_per_node: int
    tasks_per_socket: int
    tasks_per_core: int
    tasks_per_gpu: int
    cpus_per_task: int
    cpus_per_gpu: int
    minimum_cpus_per_node: int
    sockets_per_node: int
    cores_per_socket: int
    threads_per_core: int
    hint: Literal["compute_bound", "memory_bound", "multithread", "nomultithread"]
    distribution: str
    overcommit: bool
    core_spec: int
    thread_spec: int
    cpu_freq: str
    memory_mb: int
    memory_per_cpu_mb: int
    memory_per_gpu_mb: int
    tmp_mb: int
    gpus: str
    gpus_per_node: str
    gpus_per_task: str
    gpus_per_socket: str
    gpu_bind: str
    gpu_freq: str
    gres: str
    gres_flags: Literal["disable-binding", "enforce-binding"]
    constraint: str
    prefer: str
    cluster_constraint: str
    switches: str
    nodelist: str
    exclude: str
    contiguous: bool
    spread_job: bool
    use_min_nodes: bool
    time_limit_min: int
    minimum_time_min: int
    begin_time: str
    deadline: str
    delay_boot_min: int
    dependency: str
    kill_on_invalid_dep: bool
    burst_buffer: str
    licenses: str
    reservation: str
    requeue: bool
    exclusive: bool | Literal["user", "mcs"]
    oversubscribe: bool
    no_kill: bool
    wait_all_nodes: bool
    signal: str
    open_mode: Literal["append", "truncate"]
    nice: int
    priority: int
    working_directory: str
    output: str
    error: str
    input: str
    mail_type: str
    mail_user: str
    wckey: str
    mcs_label: str
    profile: str
    acctg_freq: str
    get_user_env: bool
    environment: Mapping[str, str]
    hold: bool
    array: str
    comment: str
    ignore_directives: bool


class JobSpec(JobOptions):
    """A whole job, for ``Client.submit_many``."""

    script: str


def script_text(script: str) -> str:
    """``script``, which becomes a shell script if it does not say itself what reads it."""
    return script if script.startswith("#!") else f"#!/bin/sh\n{script}\n"
