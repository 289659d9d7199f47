"""What hipercow calls things and what Slurm calls them: resources, queues, states. Values in, values out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hipercow.resources import ClusterResources, Queues, TaskResources
from hipercow.task import TaskStatus

from hipercow_slurm.client.models import JobInfo, get, optional
from hipercow_slurm.client.options import JobOptions
from hipercow_slurm.errors import ConfigError

MB_PER_GB = 1000  # as hipercow's drivers count

_WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"})


def job_options(resources: TaskResources | None) -> JobOptions:
    """sbatch's options for a task's resources: memory in whole MB, time in whole minutes, rounded up."""
    if resources is None:
        return {}
    options: JobOptions = {}
    if resources.queue is not None:
        options["partition"] = resources.queue
    if resources.cores == math.inf:
        options["nodes"], options["exclusive"] = 1, True
    elif resources.cores > 1:
        options["tasks"], options["cpus_per_task"] = 1, int(resources.cores)
    if resources.exclusive:
        options["exclusive"] = True
    if resources.max_runtime is not None:
        options["time_limit_min"] = max(1, math.ceil(resources.max_runtime / 60))
    memory = max(resources.memory_per_node or 0, resources.memory_per_task or 0)
    if memory:
        options["memory_mb"] = memory * MB_PER_GB
    return options


def cluster_resources(
    partitions: Sequence[Mapping[str, Any]],
    nodes: Sequence[Mapping[str, Any]],
    *,
    build: str | None,
    test: str | None,
) -> ClusterResources:
    """Queues and largest sizes out of the API's answers; ``build`` and ``test``: what the operator chose.

    Raises:
        ConfigError: "no-partition": the user may use none, or the operator's choice is not among them.
    """
    names = [get(row, "name", str) for row in partitions]
    if not names:
        raise ConfigError("the cluster has no partition for you", code="no-partition", hint="ask its operator")
    default = next((get(row, "name", str) for row in partitions if row.get("is_default")), names[0])
    for name in (build, test):
        if name is not None and name not in names:
            raise ConfigError(f"you cannot use the cluster's queue '{name}'", code="no-partition")
    return ClusterResources(
        queues=Queues(set(names), default=default, build=build or default, test=test or default),
        max_cores=max((optional(row, "cpus", int) or 0 for row in nodes), default=0),
        max_memory=max((optional(row, "memory_mb", int) or 0 for row in nodes), default=0) // MB_PER_GB,
    )


def status(job: JobInfo) -> TaskStatus:
    """A task's status by its job's state alone. Whether its command succeeded, its own files know better."""
    if job.ended:
        ends = {"COMPLETED": TaskStatus.SUCCESS, "CANCELLED": TaskStatus.CANCELLED}
        return ends.get(job.state, TaskStatus.FAILURE)
    return TaskStatus.SUBMITTED if job.state in _WAITING else TaskStatus.RUNNING


def sentence(job: JobInfo) -> str:
    """Why a job ended, for its task's log."""
    why = {
        "TIMEOUT": f"it reached its time limit of {job.time_limit_min} min",
        "OUT_OF_MEMORY": "it used more memory than it had asked for",
        "CANCELLED": "it was cancelled",
        "NODE_FAIL": "its node failed",
        "BOOT_FAIL": "its node did not start",
        "DEADLINE": "it reached its deadline",
        "PREEMPTED": "another job took its place",
        "UNKNOWN": "Slurm no longer knows how it ended",
        "COMPLETED": "it ended without writing the task's result",
    }
    signal = f" by signal {job.signal}" if job.signal else ""
    return f"Slurm job {job.job_id} ended as {job.state}: {why.get(job.state, f'it failed{signal}')}"
