"""What a job may ask for, as keyword arguments of ``Client.submit``; the names are the API's (http-api.md)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict


class JobOptions(TypedDict, total=False):
    """sbatch's options by the API's names. What is left out is taken from the script's ``#SBATCH`` lines.

    Memory is in MiB, time in minutes; ``begin_time`` is RFC 3339 or one of sbatch's forms; ``environment`` is all
    that travels of one. Paths are the cluster's, relative to the home directory or to ``working_directory``.
    """

    name: str
    partition: str
    account: str
    qos: str
    nodes: int
    tasks: int
    tasks_per_node: int
    cpus_per_task: int
    memory_mb: int
    memory_per_cpu_mb: int
    gpus: str
    gpus_per_node: str
    gpus_per_task: str
    gres: str
    constraint: str
    nodelist: str
    time_limit_min: int
    begin_time: str
    dependency: str
    licenses: str
    reservation: str
    requeue: bool
    exclusive: bool | Literal["user", "mcs"]
    open_mode: Literal["append", "truncate"]
    nice: int
    priority: int
    working_directory: str
    output: str
    error: str
    input: str
    mail_type: str
    mail_user: str
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
