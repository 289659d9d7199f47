"""GPUs in the data parsers' words, as sbatch of these releases writes them (measured: 24.11.5, 26.05.5). No I/O."""

from __future__ import annotations

import re

from hipercow_slurm.slurm.model import JobSpec


def gpus(what: str | None) -> str | None:
    """``2,a100:1`` as a list of TRES."""
    return None if what is None else ",".join(f"gres/gpu:{one}" for one in what.split(","))


def of_task(spec: JobSpec) -> str | None:
    """A task's share."""
    if spec.gpus_per_task is None:
        return None
    parts = [] if spec.cpus_per_task is None else [f"cpu={spec.cpus_per_task}"]
    parts += [
        f"gres/gpu:{kind}={count}" if kind else f"gres/gpu={count}" for kind, count in _counted(spec.gpus_per_task)
    ]
    return ",".join(parts)


def bound(spec: JobSpec) -> str | None:
    """Which task sees which GPU; where tasks have their own and nobody says, each sees those only."""
    if spec.gpu_bind is not None:
        return f"gres/gpu:{spec.gpu_bind}"
    if spec.gpus_per_task is None:
        return None
    return f"gres/gpu:per_task:{sum(count for _, count in _counted(spec.gpus_per_task))}"


def tasks(spec: JobSpec) -> int | None:
    """As many as there are GPUs for, where nobody says: sbatch counts them too."""
    if spec.tasks is not None or spec.gpus is None or spec.gpus_per_task is None:
        return spec.tasks
    all_, of_each = (sum(count for _, count in _counted(what)) for what in (spec.gpus, spec.gpus_per_task))
    return max(1, all_ // max(1, of_each))


def _counted(what: str) -> list[tuple[str, int]]:
    """``2`` or ``a100:2,h100`` as kinds, "" for any, and how many of each."""
    found = [re.fullmatch(r"(?:(.*):)?([0-9]{1,9})", one) for one in what.split(",")]
    return [(one[1] or "", int(one[2])) if one else (kind, 1) for one, kind in zip(found, what.split(","), strict=True)]
