"""How a job's numbers fit each other: what sbatch works out of its options, which slurmrestd does not.

Measured with sbatch 22.05, 24.11 and 26.05 (tests/e2e/test_as_sbatch.py). Pure functions.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from hipercow_slurm.api.schemas import JobBody

_UNBOUNDED = 65535  # sbatch's number of tasks for --hint=multithread
# sbatch's --hint as other options.
_HINTS: dict[str, dict[str, int]] = {
    "nomultithread": {"threads_per_core": 1},
    "compute_bound": {"threads_per_core": 1},
    "memory_bound": {"threads_per_core": 1, "cores_per_socket": 1},
    "multithread": {"tasks_per_core": _UNBOUNDED},
}


def counted(body: JobBody) -> tuple[JobBody, list[str]]:
    """``body`` with its numbers as sbatch makes them fit, and what sbatch says of it."""
    changes: dict[str, Any] = {}
    warnings: list[str] = []
    if body.tasks is None:
        changes = _tasks(body)
    elif body.nodes is not None:
        fewest, most = _range(body.nodes)
        if body.tasks < most:
            least = min(body.tasks, fewest)
            changes["nodes"] = least if least == body.tasks else f"{least}-{body.tasks}"
        if body.tasks < fewest:
            warnings.append(f"{body.tasks} tasks cannot use {fewest} nodes: the job asks for {body.tasks}")
    if body.hint is not None:
        if body.tasks_per_core is not None or body.threads_per_core is not None:
            changes["hint"] = None
            warnings.append("hint does not count beside tasks_per_core or threads_per_core")
        else:
            changes |= _HINTS[body.hint]
    return (msgspec.structs.replace(body, **changes) if changes else body), warnings


def _tasks(body: JobBody) -> dict[str, int]:
    """How many there are where that was not said."""
    if body.tasks_per_node is not None and not isinstance(body.nodes, str):
        return {"tasks": body.tasks_per_node * (body.nodes or 1)}
    if body.tasks_per_gpu is not None and body.gpus is not None:
        parts = [re.fullmatch(r"(?:[^:]*:)*([0-9]{1,6})", part) for part in body.gpus.split(",")]
        if all(parts):
            return {"tasks": body.tasks_per_gpu * sum(int(part[1]) for part in parts if part)}
    return {}


def _range(nodes: int | str) -> tuple[int, int]:
    fewest, _, most = str(nodes).partition("-")
    return int(fewest), int(most or fewest)
