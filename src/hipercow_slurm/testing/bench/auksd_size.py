"""Memory, start-up time and dump with a store that is full: 1 000 to 100 000 credentials."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hipercow_slurm.testing.bench import process
from hipercow_slurm.testing.bench.servers import Process
from hipercow_slurm.testing.bench.site import Site
from hipercow_slurm.testing.bench.table import Goal, Table
from hipercow_slurm.testing.bench.tools import Asked

PEER_MOST = 10_000  # its dump of 50 000 takes 8 GB of memory and minutes
FLAT_MIB = 32.0  # a dump may add this much to the greatest memory, whatever the store holds
PATIENT_S = 600.0


@dataclass(frozen=True, slots=True)
class Size:
    """One daemon with ``count`` credentials.

    Attributes:
        start_s, start_cpu_s: from its start until it takes connections.
        rss_mib: memory after one get for each of 1 000 of them.
        dump_peak_mib: greatest memory while it answers a dump.
    """

    server: str
    count: int
    start_s: float
    start_cpu_s: float
    rss_mib: float
    dump_s: float
    dump_cpu_s: float
    dump_peak_mib: float
    dump_mib: float


def run(site: Site, make: Mapping[str, Callable[[Path], Process]], counts: Sequence[int], folder: Path) -> list[Size]:
    """Fill, start, look, dump."""
    found = []
    for count in counts:
        for name, maker in make.items():
            if name == "peer" and count > PEER_MOST:
                continue
            where = folder / f"{name}-{count}"
            found.append(_one(site, maker(where), count))
            shutil.rmtree(where)
    return found


def _one(site: Site, server: Process, count: int) -> Size:
    server.fill(count)
    start_s = server.start()
    try:
        start_cpu_s = server.cpu_s()
        some = min(count, 1000, site.items)
        site.load(server.port, Asked("get", 8, 100, PATIENT_S, 0, some, some))
        rss_mib = process.rss_mib(server.pid)
        process.forget_peak(server.pid)
        before = server.cpu_s()
        dump = site.load(server.port, Asked("dump", seconds=PATIENT_S, count=1))
        if dump.records != count:
            raise RuntimeError(f"{server.name} dumped {dump.records} credentials of {count}")
        return Size(
            server=server.name,
            count=count,
            start_s=start_s,
            start_cpu_s=start_cpu_s,
            rss_mib=rss_mib,
            dump_s=dump.max_ms / 1e3,
            dump_cpu_s=server.cpu_s() - before,
            dump_peak_mib=process.peak_mib(server.pid),
            dump_mib=dump.reply_bytes / process.MIB,
        )
    finally:
        server.stop()


# The table's columns: the credentials first, then what belongs to a server.
FIELDS = ("count", "server", "start_s", "start_cpu_s", "rss_mib", "dump_s", "dump_cpu_s", "dump_peak_mib", "dump_mib")


def table(sizes: Sequence[Size]) -> Table:
    """One row each."""
    heads = (
        "credentials",
        "server",
        "start s",
        "start CPU s",
        "RSS MiB",
        "dump s",
        "dump CPU s",
        "peak MiB",
        "MiB sent",
    )
    rows = [[getattr(one, field) for field in FIELDS] for one in sizes]
    return Table("Memory, start and dump", heads, rows)


def goals(sizes: Sequence[Size]) -> list[Goal]:
    """The goals that speak of a full store."""
    ours = {one.count: one for one in sizes if one.server == "ours"}
    half, full = ours.get(50_000), ours.get(100_000)
    more = half.dump_peak_mib - half.rss_mib if half else None
    flat = f"dump of 50 000: flat memory (at most {FLAT_MIB:.0f} MiB more)"
    return [
        _goal("50 000 credentials: at most 150 MB", half.rss_mib * 1.048576 if half else None, "MB", 150.0),
        _goal("100 000 credentials: start in at most 5 s", full.start_s if full else None, "s", 5.0),
        _goal("dump of 50 000: at most 5 s", half.dump_s if half else None, "s", 5.0),
        _goal(flat, more, "MiB more", FLAT_MIB),
    ]


def _goal(text: str, value: float | None, unit: str, most: float) -> Goal:
    if value is None:
        return Goal(text, "not in this run", None)
    return Goal(text, f"{value:.1f} {unit}", value <= most)
