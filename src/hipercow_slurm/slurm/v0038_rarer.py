"""The rarer of sbatch's options in v0.0.38's words, each seen to reach slurmctld (22.05.8). No I/O.

What this version has no words for is refused, with the option's name: an unknown key fails as a whole, with Slurm's
"Failure during parsing" alone, and some known ones are taken and lost.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hipercow_slurm.errors import RequestError
from hipercow_slurm.slurm.model import JobSpec

_MISSING = {
    "contiguous": "--contiguous",
    "overcommit": "--overcommit",
    "switches": "--switches",
    "profile": "--profile",  # taken, but the job's SLURM_PROFILE begins with a byte of somebody else's memory
}


def fields(spec: JobSpec) -> dict[str, Any]:
    """Fields of ``job``; None: not asked for.

    Raises:
        RequestError: slurmrestd of this version cannot be asked for it.
    """
    if _KEYS.isdisjoint(msgspec.to_builtins(spec)):  # most jobs
        return {}
    for key, option in _MISSING.items():
        if getattr(spec, key):
            raise missing(key, option)
    if spec.signal is not None and ":" in spec.signal:
        raise missing("signal", "--signal with B: or R:")
    return {
        "exclude_nodes": spec.exclude,
        "prefer": spec.prefer,
        "cluster_constraint": spec.cluster_constraint,
        "tasks_per_core": spec.tasks_per_core,
        "tasks_per_socket": spec.tasks_per_socket,
        "ntasks_per_gpu": spec.tasks_per_gpu,
        "sockets_per_node": spec.sockets_per_node,
        "cores_per_socket": spec.cores_per_socket,
        "threads_per_core": spec.threads_per_core,
        "minimum_cpus_per_node": spec.minimum_cpus_per_node,
        "cpus_per_gpu": None if spec.cpus_per_gpu is None else str(spec.cpus_per_gpu),
        "memory_per_gpu": spec.memory_per_gpu_mb,
        "gpus_per_socket": spec.gpus_per_socket,
        "gpu_binding": spec.gpu_bind,
        "gpu_frequency": spec.gpu_freq,
        "gres_flags": spec.gres_flags,
        "distribution": spec.distribution,
        "core_specification": spec.core_spec,
        "thread_specification": spec.thread_spec,
        "cpu_frequency": spec.cpu_freq,
        "temporary_disk_per_node": spec.tmp_mb,
        "time_minimum": spec.minimum_time_min,
        "deadline": None if spec.deadline is None else f"uts{spec.deadline}",
        "delay_boot": spec.delay_boot_min,
        "kill_on_invalid_dependency": spec.kill_on_invalid_dep,
        "wait_all_nodes": None if spec.wait_all_nodes is None else int(spec.wait_all_nodes),
        "no_kill": "set" if spec.no_kill else None,  # true is refused
        "oversubscribe": spec.oversubscribe or None,
        "spread_job": spec.spread_job or None,
        "minimum_nodes": spec.use_min_nodes or None,
        "signal": spec.signal,
        "burst_buffer": spec.burst_buffer,
        "wckey": spec.wckey,
        "mcs_label": spec.mcs_label,
        "account_gather_frequency": spec.acctg_freq,
    }


_KEYS = frozenset(
    (
        *_MISSING,
        *("exclude", "prefer", "cluster_constraint", "tasks_per_core", "tasks_per_socket", "tasks_per_gpu"),
        *("sockets_per_node", "cores_per_socket", "threads_per_core", "minimum_cpus_per_node", "cpus_per_gpu"),
        *("memory_per_gpu_mb", "gpus_per_socket", "gpu_bind", "gpu_freq", "gres_flags", "distribution", "core_spec"),
        *("thread_spec", "cpu_freq", "tmp_mb", "minimum_time_min", "deadline", "delay_boot_min"),
        *("kill_on_invalid_dep", "wait_all_nodes", "no_kill", "oversubscribe", "spread_job", "use_min_nodes"),
        *("signal", "burst_buffer", "wckey", "mcs_label", "acctg_freq"),
    )
)


def missing(key: str, option: str) -> RequestError:
    """What this version of slurmrestd has no words for."""
    return RequestError(
        f"{key}: the slurmrestd of this cluster cannot be asked for {option}",
        hint="leave it out, or submit with sbatch on a login node",
    )
