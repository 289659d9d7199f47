"""Partitions and nodes of a bare answer as our values. No I/O."""

from __future__ import annotations

from hipercow_slurm.errors import ProtocolError
from hipercow_slurm.slurm import answers, hostlist
from hipercow_slurm.slurm.bare import RawNode, RawPartition
from hipercow_slurm.slurm.model import Node, Partition

NO_LIMIT = 2**32 - 256  # here and above stand Slurm's NO_VAL and INFINITE


def _limit(number: int | None) -> int | None:
    return number if number is not None and 0 < number < NO_LIMIT else None


def partition(raw: RawPartition) -> Partition:
    """One partition.

    Raises:
        InternalError: its nodes are no hostlist.
    """
    return Partition(
        name=raw.name,
        state=raw.state,
        nodes=names_of(raw.nodes or ""),
        total_cpus=raw.total_cpus,
        total_nodes=raw.total_nodes,
        max_time_min=_limit(raw.max_time_limit),
        default_time_min=_limit(raw.default_time_limit),
        max_nodes_per_job=_limit(raw.maximum_nodes_per_job),
        max_memory_per_node_mb=_limit(raw.maximum_memory_per_node),
        is_default=None if raw.flags is None else "default" in raw.flags,
    )


def node(raw: RawNode) -> Node:
    """One node."""
    return Node(
        name=raw.name,
        state=raw.state.upper(),
        flags=tuple(flag.upper() for flag in raw.state_flags),
        partitions=tuple(raw.partitions),
        cpus=raw.cpus,
        cpus_allocated=raw.alloc_cpus,
        memory_mb=raw.real_memory,
        memory_allocated_mb=raw.alloc_memory,
        # In hundredths; NO_VAL from a node that has not said.
        cpu_load=raw.cpu_load / 100 if raw.cpu_load is not None and 0 <= raw.cpu_load < NO_LIMIT else None,
        features=raw.features or "",
        gres=raw.gres or "",
        gres_used=raw.gres_used or "",
        reason=raw.reason or None,
    )


def names_of(text: str) -> tuple[str, ...]:
    """The names in a hostlist.

    Raises:
        InternalError: it is none.
    """
    try:
        return tuple(hostlist.expand(text))
    except ProtocolError as error:
        raise answers.unreadable(f"with unexpected nodes: {error.message}") from error
