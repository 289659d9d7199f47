"""Gets by 64 clients with one and with two processes on the port, and what the load generator leaves of the machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hipercow_slurm.testing.bench.auksd_ops import LONG, PATIENT_S, Measured, Shape, measured, middle
from hipercow_slurm.testing.bench.servers import Ours
from hipercow_slurm.testing.bench.site import Site
from hipercow_slurm.testing.bench.table import Table
from hipercow_slurm.testing.bench.tools import Asked

PROCESSES = (1, 2)
ITEMS = 1000


@dataclass(frozen=True, slots=True)
class Served:
    """A number of processes under one kind of load."""

    processes: int
    shape: Shape
    found: Measured


def run(site: Site, clients: int, rounds: int, seconds: float, folder: Path) -> list[Served]:
    """Measure them in turn."""
    shapes = [Shape(clients, each) for each in (1, LONG)]
    results: dict[tuple[int, Shape], list[Measured]] = {(n, shape): [] for shape in shapes for n in PROCESSES}
    servers = {n: Ours(site, folder / f"processes-{n}", extra=f"processes = {n}") for n in PROCESSES}
    count = min(ITEMS, site.items)
    try:
        for server in servers.values():
            server.start()
            site.load(server.port, Asked("add", 8, LONG, PATIENT_S, 0, count, count))
        for _ in range(rounds):
            for (n, shape), found in results.items():
                before = servers[n].cpu_s()
                load = site.load(servers[n].port, Asked("get", clients, shape.per_connection, seconds, 0, 0, count))
                found.append(measured(load, servers[n].cpu_s() - before))
    finally:
        for server in servers.values():
            server.stop()
    return [Served(n, shape, middle(found)) for (n, shape), found in results.items()]


def table(found: Sequence[Served]) -> Table:
    """One row each; how many CPUs daemon and clients kept busy says whether there was one to spare."""
    one = {each.shape: each.found.rate for each in found if each.processes == 1}
    rows: list[list[object]] = []
    for each in found:
        got, busy = each.found, each.found.rate * (each.found.cpu_ms + each.found.client_cpu_ms) / 1e3
        row: list[object] = [each.processes, each.shape.clients, each.shape.per_connection, got.rate]
        rows.append([*row, got.rate / one[each.shape], got.cpu_ms, got.p50_ms, got.client_cpu_ms, busy])
    heads = [
        "processes",
        "clients",
        "per conn.",
        "op/s",
        "of one's",
        "CPU ms/op",
        "p50 ms",
        "client CPU ms",
        "CPUs busy",
    ]
    return Table(f"Get, by processes on the port (this machine has {os.cpu_count()} CPUs for all)", heads, rows)
