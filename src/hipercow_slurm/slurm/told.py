"""A job's first environment: the user's variables, and what sbatch itself tells a job of its own options.

Scripts and the srun in them rely on the latter; slurmctld and slurmd tell only some of it (measured: 22.05, 24.11
and 26.05).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hipercow_slurm.slurm.model import JobSpec

DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
_TOLD = {
    "SLURM_CPUS_PER_TASK": "cpus_per_task",
    "SLURM_NTASKS_PER_NODE": "tasks_per_node",
    "SLURM_NTASKS_PER_SOCKET": "tasks_per_socket",
    "SLURM_NTASKS_PER_CORE": "tasks_per_core",
    "SLURM_NTASKS_PER_GPU": "tasks_per_gpu",
    "SLURM_THREADS_PER_CORE": "threads_per_core",
    "SLURM_HINT": "hint",
    "SLURM_GPUS": "gpus",
    "SLURM_GPUS_PER_NODE": "gpus_per_node",
    "SLURM_GPUS_PER_SOCKET": "gpus_per_socket",
    "SLURM_CPUS_PER_GPU": "cpus_per_gpu",
    "SLURM_MEM_PER_GPU": "memory_per_gpu_mb",
    "SLURM_GPU_FREQ": "gpu_freq",
}


def environment(spec: JobSpec, localname: str, told: Mapping[str, str | None]) -> dict[str, str]:
    """The job's variables. Never empty: slurmrestd refuses that, and adds hardly anything of its own.

    Args:
        told: what only some releases' sbatch tells; None: nothing. Among it is a task's share of the GPUs: without it
            each task of a step in the job sees all of the job's.
    """
    directory = spec.working_directory or "/"
    own = {"PATH": DEFAULT_PATH, "USER": localname, "LOGNAME": localname}
    also = {name: value for name, value in told.items() if value is not None}
    return {**own, "SLURM_SUBMIT_DIR": directory, **dict(_told(spec)), **also, **spec.environment}


def _told(spec: JobSpec) -> Iterator[tuple[str, str]]:
    for name, key in _TOLD.items():
        if (value := getattr(spec, key)) is not None:
            yield name, str(value)
    if spec.distribution is not None:
        how, _, size = spec.distribution.lower().partition("=")
        yield "SLURM_DISTRIBUTION", how
        if size:
            yield "SLURM_DIST_PLANESIZE", size
    if spec.get_user_env:
        # Whoever starts the script finds it there and asks the user's login shell; there is no other way to say it.
        yield "SLURM_GET_USER_ENV", "1"
