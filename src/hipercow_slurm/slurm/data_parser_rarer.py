"""The rarer of sbatch's options in the data parsers' words, each seen to reach slurmctld (24.11.5, 26.05.5). No I/O.

An unknown field, an unknown signal: taken with a warning and lost. So what a version has no words for is refused here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hipercow_slurm.errors import RequestError
from hipercow_slurm.slurm.data_parser_gpus import bound, gpus, of_task
from hipercow_slurm.slurm.model import JobSpec

# Told the others by nobody: their slurmrestd ignores it.
_HAVE_CORES_PER_SOCKET = ("v0.0.40", "v0.0.45")
_SIGNALLED = {"B": "BATCH_JOB", "R": "RESERVATION_JOB"}
SIGNAL_S = 60  # sbatch's own, where no time is given


def fields(spec: JobSpec, version: str) -> dict[str, Any]:
    """Fields of ``job``; None: not asked for.

    Raises:
        RequestError: slurmrestd of this version cannot be asked for it.
    """
    if spec.cores_per_socket is not None and version not in _HAVE_CORES_PER_SOCKET:
        option = "--hint=memory_bound" if spec.hint else "--cores-per-socket"
        raise RequestError(
            f"cores_per_socket: the slurmrestd of this cluster ({version}) cannot be asked for {option}",
            hint="leave it out, or submit with sbatch on a login node",
        )
    return {
        "excluded_nodes": None if spec.exclude is None else [spec.exclude],
        "prefer": spec.prefer,
        "cluster_constraint": spec.cluster_constraint,
        "required_switches": number(spec.switches),
        "wait_for_switch": spec.switches_wait_s,
        "tasks_per_core": spec.tasks_per_core,
        "tasks_per_socket": spec.tasks_per_socket,
        "ntasks_per_tres": spec.tasks_per_gpu,
        "sockets_per_node": spec.sockets_per_node,
        "cores_per_socket": spec.cores_per_socket,
        "threads_per_core": spec.threads_per_core,
        "minimum_cpus_per_node": spec.minimum_cpus_per_node,
        "cpus_per_tres": _of_a_gpu(spec.cpus_per_gpu),
        "memory_per_tres": _of_a_gpu(spec.memory_per_gpu_mb),
        "tres_per_socket": gpus(spec.gpus_per_socket),
        "tres_bind": bound(spec),
        "tres_freq": None if spec.gpu_freq is None else f"gpu:{spec.gpu_freq}",
        "distribution": spec.distribution,
        "core_specification": spec.core_spec,
        "thread_specification": spec.thread_spec,
        "cpu_frequency": spec.cpu_freq,
        "temporary_disk_per_node": spec.tmp_mb,
        "time_minimum": number(spec.minimum_time_min),
        "deadline": spec.deadline,
        "delay_boot": None if spec.delay_boot_min is None else spec.delay_boot_min * 60,
        "flags": list(_flags(spec)) or None,
        "wait_all_nodes": spec.wait_all_nodes,
        "kill_on_node_fail": False if spec.no_kill else None,
        "overcommit": spec.overcommit or None,
        "contiguous": spec.contiguous or None,
        **_signal(spec.signal),
        "burst_buffer": spec.burst_buffer,
        "wckey": spec.wckey,
        "mcs_label": spec.mcs_label,
        "profile": _profile(spec.profile),
        "account_gather_frequency": spec.acctg_freq,
    }


def told(spec: JobSpec) -> dict[str, str | None]:
    """What sbatch of these releases tells a job, and 22.05's does not."""
    return {
        "SLURM_JOB_DEPENDENCY": spec.dependency,
        "SLURM_TRES_PER_TASK": of_task(spec),
        "SLURM_TRES_BIND": bound(spec),
    }


def number(value: int | None) -> dict[str, Any] | None:
    """A number as these versions want most of them."""
    return None if value is None else {"set": True, "infinite": False, "number": value}


def _of_a_gpu(value: int | None) -> str | None:
    return None if value is None else f"gres/gpu:{value}"


def _flags(spec: JobSpec) -> Iterator[str]:
    if spec.gres_flags is not None:
        yield "GRES_BINDING_ENFORCED" if spec.gres_flags == "enforce-binding" else "GRES_BINDING_DISABLED"
    if spec.kill_on_invalid_dep is not None:
        yield "KILL_INVALID_DEPENDENCY" if spec.kill_on_invalid_dep else "NO_KILL_INVALID_DEPENDENCY"
    if spec.spread_job:
        yield "SPREAD_JOB"
    if spec.use_min_nodes:
        yield "PREFER_MINIMUM_NODE_COUNT"


def _signal(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    letters, _, rest = text.upper().rpartition(":")
    name, _, seconds = rest.partition("@")
    return {
        "kill_warning_signal": name.removeprefix("SIG"),
        "kill_warning_delay": number(int(seconds or SIGNAL_S)),
        "kill_warning_flags": [_SIGNALLED[letter] for letter in letters] or None,
    }


def _profile(text: str | None) -> list[str] | None:
    if text is None:
        return None
    return ["ENERGY", "LUSTRE", "NETWORK", "TASK"] if text.lower() == "all" else text.upper().split(",")
