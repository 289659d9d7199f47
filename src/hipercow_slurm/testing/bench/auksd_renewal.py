"""Renewals per second when everything is due at once, beside what the KDC can do; and a burst of adds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from hipercow_slurm.testing.bench import process
from hipercow_slurm.testing.bench.servers import Ours, Process
from hipercow_slurm.testing.bench.site import FIRST_UID, Site, half_spent
from hipercow_slurm.testing.bench.table import Goal, Table
from hipercow_slurm.testing.bench.tools import Asked, Load

CEILING_CLIENTS = (1, 4, 8, 16)
THREADS = (4, 8, 16)
PATIENT_S = 300.0
BURST = 5000


@dataclass(frozen=True, slots=True)
class Renewals:
    """One way of renewing: ``cpu_ms`` is the renewing side's per renewal, ``kdc_cpu_ms`` the KDC's."""

    who: str
    parallel: int
    rate: float
    cpu_ms: float
    kdc_cpu_ms: float


def run(site: Site, count: int, seconds: float, rounds: int, folder: Path) -> list[Renewals]:
    """The KDC's ceiling (clients in C that do nothing else) and our daemon with ``count`` due credentials, in turn.

    Medians of the rounds: the machine is not as fast in one minute as in the next.
    """
    found: dict[tuple[str, int], list[Renewals]] = {}
    for number in range(rounds):
        for clients in CEILING_CLIENTS:
            _note(found, _ceiling(site, clients, seconds))
        for threads in THREADS:
            _note(found, _ours(site, threads, count, folder / f"renew-{threads}-{number}"))
    return [_median(each) for each in found.values()]


def _note(found: dict[tuple[str, int], list[Renewals]], one: Renewals) -> None:
    found.setdefault((one.who, one.parallel), []).append(one)


def _median(each: Sequence[Renewals]) -> Renewals:
    rate, cpu_ms, kdc_cpu_ms = (median(getattr(one, name) for one in each) for name in ("rate", "cpu_ms", "kdc_cpu_ms"))
    return Renewals(each[0].who, each[0].parallel, rate, cpu_ms, kdc_cpu_ms)


def _kdc_cpu_s(site: Site) -> float:
    assert site.realm.pid is not None
    return process.cpu_s(site.realm.pid)


def _ceiling(site: Site, clients: int, seconds: float) -> Renewals:
    before = _kdc_cpu_s(site)
    load = site.load_as(site.folder / "user.ccache", 0, Asked("renew", clients, seconds=seconds))
    each = 1e3 / load.done
    return Renewals("the KDC alone", clients, load.rate, load.client_cpu_s * each, (_kdc_cpu_s(site) - before) * each)


def _ours(site: Site, threads: int, count: int, folder: Path) -> Renewals:
    """A store full of the same user's TGT, all due: the KDC does for each what it does for any."""
    server = Ours(site, folder, renew=f"threads = {threads}\nrate_per_s = 1000000.0")
    due = half_spent(site.tgt)
    server.put((FIRST_UID + number, due) for number in range(count))
    kdc_before = _kdc_cpu_s(site)
    server.start()
    try:
        begin, before = time.monotonic(), server.cpu_s()
        _wait_for(server, count, begin + PATIENT_S)
        seconds, each = time.monotonic() - begin, 1e3 / count
        cpu_ms = (server.cpu_s() - before) * each
        return Renewals("auksd", threads, count / seconds, cpu_ms, (_kdc_cpu_s(site) - kdc_before) * each)
    finally:
        server.stop()


def _wait_for(server: Process, count: int, until: float) -> None:
    """Read along in its log, each line once: what this takes, the two that are measured do not get."""
    done, rest = 0, b""
    with server.log.open("rb") as log:
        while done < count:
            if time.monotonic() > until:
                raise RuntimeError(f"{done} of {count} were renewed: {server.log.read_text()[-2000:]}")
            time.sleep(0.01)
            whole, _, rest = (rest + log.read()).rpartition(b"\n")
            done += whole.count(b"event=renew.done")


def table(found: Sequence[Renewals]) -> Table:
    """One row each, with its share of the ceiling."""
    ceiling = _best(found, "the KDC alone")
    rows = [(one.who, one.parallel, one.rate, one.rate / ceiling, one.cpu_ms, one.kdc_cpu_ms) for one in found]
    heads = ("who", "parallel", "renewals/s", "of the ceiling", "CPU ms each", "KDC CPU ms each")
    return Table("Renewals, all due at once", heads, rows)


def _best(found: Sequence[Renewals], who: str) -> float:
    return max(one.rate for one in found if one.who == who)


def burst(site: Site, server: Process, count: int) -> Load:
    """New adds by 64 clients, one connection each: a loop of sbatch is never this fast."""
    load = site.load(server.port, Asked("add", 64, 1, PATIENT_S, 0, count, count))
    site.load(server.port, Asked("remove", 8, 100, PATIENT_S, 0, count, count))
    return load


def goals(found: Sequence[Renewals], load: Load) -> list[Goal]:
    """The goals that speak of these two."""
    share = _best(found, "auksd") / _best(found, "the KDC alone")
    slowest = f"slowest {load.max_ms:.0f} ms of {load.done} at {load.rate:.0f}/s"
    return [
        Goal("renewals: at least 0.9x the KDC's ceiling", f"{share:.2f}x", share >= 0.9),
        Goal(f"burst of {load.done} adds: none over 1 s", slowest, load.max_ms <= 1000),
    ]
