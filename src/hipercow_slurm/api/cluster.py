"""The cluster as its users see it: partitions, nodes, load and limits; asked as the user, so Slurm decides.

Answers of one moment serve everybody who asks within ``_REMEMBERED_S``, per user: what a partition list shows may
depend on who asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

from hipercow_slurm.api import config, last_view, schemas_cluster
from hipercow_slurm.api.database import Database
from hipercow_slurm.api.session import Session
from hipercow_slurm.api.slurm_tokens import SlurmTokens
from hipercow_slurm.errors import UnavailableError
from hipercow_slurm.slurm.check import ENVIRONMENT_LIMIT, SCRIPT_LIMIT
from hipercow_slurm.slurm.model import Node, Partition
from hipercow_slurm.slurm.rest import SlurmRest

_REMEMBERED_S = 5.0
_KEPT = 1000
_DOWN_STATES = frozenset({"DOWN", "ERROR", "FUTURE", "UNKNOWN", "INVALID", "NON-EXISTENT"})
_DOWN_FLAGS = frozenset({"DRAIN", "FAIL", "NOT_RESPONDING", "POWERED_DOWN", "POWERING_DOWN", "INVALID_REG"})


@dataclass(frozen=True, slots=True)
class View:
    """Partitions and nodes as one user saw them at ``at`` (monotonic seconds)."""

    at: float
    partitions: list[Partition]
    nodes: list[Node]


class Cluster:
    """Looks at the cluster as a session's user."""

    def __init__(self, conf: config.Config, database: Database, slurm: SlurmRest, tokens: SlurmTokens) -> None:
        self._conf = conf
        self._database = database
        self._slurm = slurm
        self._tokens = tokens
        self._views: dict[int, View] = {}

    async def view(self, session: Session) -> View:
        """What the session's user sees.

        Raises:
            UnavailableError: Slurm does not answer.
        """
        found = self._views.get(session.uid)
        if found is not None and time.monotonic() - found.at < _REMEMBERED_S:
            return found
        partitions, nodes = await asyncio.gather(
            self._tokens.call(session, self._slurm.partitions), self._tokens.call(session, self._slurm.nodes)
        )
        if len(self._views) >= _KEPT:
            self._views.clear()
        view = self._views[session.uid] = View(time.monotonic(), partitions, nodes)
        if self._conf.hpcpack is not None and self._conf.hpcpack.anonymous:
            with contextlib.suppress(UnavailableError):  # the caller's own answer does not depend on it
                seen = last_view.Seen(partitions, nodes)
                await self._database.run(last_view.keep(seen, int(time.time())), durable=False)
        return view

    async def last(self, keep_s: float) -> View | None:
        """What anybody saw last, at this process or another; None if that is over ``keep_s`` seconds ago.

        Raises:
            UnavailableError: code ``database-failed``.
        """
        now = time.time()
        found = await self._database.look(last_view.since(int(now - keep_s)))
        return found and View(time.monotonic() - (now - found[0]), found[1].partitions, found[1].nodes)

    async def summary(self, session: Session) -> schemas_cluster.ClusterAnswer:
        """Load and limits."""
        view = await self.view(session)
        times = [one.max_time_min for one in view.partitions]
        limits = schemas_cluster.ClusterLimits(
            script_bytes=SCRIPT_LIMIT,
            environment_bytes=ENVIRONMENT_LIMIT,
            request_bytes=self._conf.limits.job_body_bytes,
            file_bytes=self._conf.limits.file_bytes,
            bulk_jobs=self._conf.jobs.bulk,
            time_min=None if None in times or not times else max(time for time in times if time),
            uncovered=self._conf.jobs.uncovered,
        )
        up = [node for node in view.nodes if online(node)]
        return schemas_cluster.ClusterAnswer(
            nodes=schemas_cluster.Usage(
                total=len(view.nodes), usable=len(up), used=sum(bool(n.cpus_allocated) for n in up)
            ),
            cpus=schemas_cluster.Usage(
                total=sum(node.cpus for node in view.nodes),
                usable=sum(node.cpus for node in up),
                used=sum(node.cpus_allocated for node in view.nodes),
            ),
            memory_mb=schemas_cluster.Usage(
                total=sum(node.memory_mb for node in view.nodes),
                usable=sum(node.memory_mb for node in up),
                used=sum(node.memory_allocated_mb for node in view.nodes),
            ),
            partitions=[one.name for one in view.partitions],
            limits=limits,
        )


def online(node: Node) -> bool:
    """Jobs can run, or do run, there."""
    return node.state not in _DOWN_STATES and not _DOWN_FLAGS.intersection(node.flags)


def partition(one: Partition) -> schemas_cluster.PartitionAnswer:
    """A partition as it travels."""
    return schemas_cluster.PartitionAnswer(
        name=one.name,
        state=one.state,
        is_default=one.is_default,
        nodes=list(one.nodes),
        total_nodes=one.total_nodes,
        total_cpus=one.total_cpus,
        max_time_min=one.max_time_min,
        default_time_min=one.default_time_min,
        max_nodes_per_job=one.max_nodes_per_job,
        max_memory_per_node_mb=one.max_memory_per_node_mb,
    )


def node(one: Node) -> schemas_cluster.NodeAnswer:
    """A node as it travels."""
    return schemas_cluster.NodeAnswer(
        name=one.name,
        state=one.state,
        flags=list(one.flags),
        online=online(one),
        partitions=list(one.partitions),
        cpus=one.cpus,
        cpus_allocated=one.cpus_allocated,
        memory_mb=one.memory_mb,
        memory_allocated_mb=one.memory_allocated_mb,
        cpu_load=one.cpu_load,
        features=one.features,
        gres=one.gres,
        gres_used=one.gres_used,
        reason=one.reason,
    )
