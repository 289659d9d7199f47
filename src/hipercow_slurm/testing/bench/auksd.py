"""Part ``auksd`` of the benchmark: the credential cache, beside the one named by PEER_AUKSD if there is one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hipercow_slurm.testing.bench import auksd_ops, auksd_processes, auksd_renewal, auksd_size, site
from hipercow_slurm.testing.bench.auksd_ops import LONG, Shape
from hipercow_slurm.testing.bench.servers import makers
from hipercow_slurm.testing.bench.table import Goal, show


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    Attributes:
        items: credentials for the add and remove rounds; enough that a round does not run out of them.
        counts: sizes of the store.
    """

    clients: tuple[int, ...]
    per_connection: tuple[int, ...]
    rounds: int
    seconds: float
    items: int
    counts: tuple[int, ...]
    renewals: int
    burst: int


FULL = Plan((1, 8, 64), (1, LONG), 3, 1.5, 20_000, (1_000, 10_000, 50_000, 100_000), 20_000, 5_000)
QUICK = Plan((1, 64), (1, LONG), 1, 0.5, 5_000, (1_000, 10_000), 1_000, 5_000)
TINY = Plan((2,), (1, 3), 1, 0.1, 100, (50,), 20, 50)


def run(plan: Plan, folder: Path) -> list[Goal]:
    """Measure, print the tables, return the goals."""
    with site.make(folder, plan.items) as found:
        make = makers(found)
        servers = {name: maker(folder / f"ops-{name}") for name, maker in make.items()}
        try:
            for server in servers.values():
                server.start()
            shapes = [Shape(clients, each) for each in plan.per_connection for clients in plan.clients]
            operations = auksd_ops.run(found, servers, shapes, plan.rounds, plan.seconds)
            show(auksd_ops.table(operations))
            show(auksd_ops.without_stall(found, servers, max(plan.clients), plan.seconds))
            burst = auksd_renewal.burst(found, servers["ours"], plan.burst)
        finally:
            for server in servers.values():
                server.stop()
        several = auksd_processes.run(found, max(plan.clients), plan.rounds, plan.seconds, folder)
        show(auksd_processes.table(several))
        sizes = auksd_size.run(found, make, plan.counts, folder)
        show(auksd_size.table(sizes))
        renewals = auksd_renewal.run(found, plan.renewals, plan.seconds, plan.rounds, folder)
        show(auksd_renewal.table(renewals))
        return [
            *auksd_ops.goals(operations),
            *auksd_size.goals(sizes),
            *auksd_renewal.goals(renewals, burst),
        ]
