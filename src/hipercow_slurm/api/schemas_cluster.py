"""What travels over HTTP of the cluster and of this service: the shapes of answers."""

from __future__ import annotations

from typing import Literal

from hipercow_slurm.api.schemas import Answer


class PartitionAnswer(Answer, frozen=True):
    """null: no limit (``default_time_min``: the partition has none of its own; ``is_default``: Slurm does not tell)."""

    name: str
    state: str
    is_default: bool | None
    nodes: list[str]
    total_nodes: int
    total_cpus: int
    max_time_min: int | None
    default_time_min: int | None
    max_nodes_per_job: int | None
    max_memory_per_node_mb: int | None


class PartitionList(Answer, frozen=True):
    partitions: list[PartitionAnswer]


class NodeAnswer(Answer, frozen=True):
    name: str
    state: str
    flags: list[str]
    online: bool
    partitions: list[str]
    cpus: int
    cpus_allocated: int
    memory_mb: int
    memory_allocated_mb: int
    cpu_load: float | None
    features: str
    gres: str
    gres_used: str
    reason: str | None


class NodeList(Answer, frozen=True):
    nodes: list[NodeAnswer]


class SharePath(Answer, frozen=True):
    """``share`` as laptops mount it (``//server/share`` or ``server:/export``), ``path`` as nodes have it."""

    share: str
    path: str


class PathList(Answer, frozen=True):
    paths: list[SharePath]


class HipercowAnswer(Answer, frozen=True):
    """What a driver must know of the nodes; ``python`` and ``r``: version -> program."""

    python: dict[str, str]
    r: dict[str, str]
    r_libs: str | None
    setup: str
    build_queue: str | None
    test_queue: str | None


class Usage(Answer, frozen=True):
    """``usable``: on nodes that take jobs."""

    total: int
    usable: int
    used: int


class ClusterLimits(Answer, frozen=True):
    """``time_min``: the longest time limit of any partition, null if one has none."""

    script_bytes: int
    environment_bytes: int
    request_bytes: int
    file_bytes: int
    bulk_jobs: int
    time_min: int | None
    uncovered: str


class ClusterAnswer(Answer, frozen=True):
    nodes: Usage
    cpus: Usage
    memory_mb: Usage
    partitions: list[str]
    limits: ClusterLimits


class Health(Answer, frozen=True, omit_defaults=True):
    """``checks``: "ok" or one word, for programs; ``reasons``: a sentence for each that is not ok."""

    status: Literal["ok", "degraded"]
    checks: dict[str, str]
    reasons: dict[str, str] = {}


class Ready(Answer, frozen=True):
    """Can this process serve; if not, why."""

    ready: bool
    reasons: dict[str, str]
