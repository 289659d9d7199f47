"""Operations per second and server CPU per operation: each verb, few and many clients, short and long connections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from hipercow_slurm.testing.bench.servers import Process
from hipercow_slurm.testing.bench.site import Site
from hipercow_slurm.testing.bench.table import Goal, Table
from hipercow_slurm.testing.bench.tools import Asked, Load

VERBS = ("ping", "add (new)", "add (replace)", "get", "remove")
LONG = 100  # requests on a long connection
PATIENT_S = 600.0  # for work that is counted, not timed


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of load."""

    clients: int
    per_connection: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement, or the medians of several: ``cpu_ms`` is the server's, per operation."""

    rate: float
    cpu_ms: float
    p50_ms: float
    p95_ms: float
    max_ms: float
    client_cpu_ms: float


# server, shape, verb -> what the rounds gave
Results = dict[tuple[str, Shape, str], list[Measured]]


def run(site: Site, servers: Mapping[str, Process], shapes: Sequence[Shape], rounds: int, seconds: float) -> Results:
    """Measure all servers in turn, so that whatever else this machine does meets them alike."""
    results: Results = {}
    for _ in range(rounds):
        for shape in shapes:
            for name, server in servers.items():
                for verb, measured in _cycle(site, server, shape, seconds).items():
                    results.setdefault((name, shape, verb), []).append(measured)
    return results


def _cycle(site: Site, server: Process, shape: Shape, seconds: float) -> dict[str, Measured]:
    """Every verb once, from an empty server to an empty server."""

    def timed(verb: str, *, items: int, count: int = 0) -> tuple[Load, Measured]:
        asked = Asked(verb, shape.clients, shape.per_connection, seconds, 0, count, items)
        before = server.cpu_s()
        load = site.load(server.port, asked)
        return load, measured(load, server.cpu_s() - before)

    found = {}
    added, found["add (new)"] = timed("add", items=site.items, count=site.items)
    there = added.done
    _, found["add (replace)"] = timed("add", items=there)
    _, found["get"] = timed("get", items=there)
    _, found["ping"] = timed("ping", items=0)
    removed, found["remove"] = timed("remove", items=there, count=there)
    if removed.done < there:
        rest = Asked("remove", 8, LONG, PATIENT_S, removed.done, there - removed.done, there)
        site.load(server.port, rest)
    return found


def measured(load: Load, cpu_s: float) -> Measured:
    """What a load gave, with the CPU the server took for it."""
    each = 1e3 / load.done
    return Measured(load.rate, cpu_s * each, load.p50_ms, load.p95_ms, load.max_ms, load.client_cpu_s * each)


def middle(many: Sequence[Measured]) -> Measured:
    """Medians; of the greatest latency the greatest."""
    return Measured(
        rate=median(one.rate for one in many),
        cpu_ms=median(one.cpu_ms for one in many),
        p50_ms=median(one.p50_ms for one in many),
        p95_ms=median(one.p95_ms for one in many),
        max_ms=max(one.max_ms for one in many),
        client_cpu_ms=median(one.client_cpu_ms for one in many),
    )


def table(results: Results) -> Table:
    """One row per server, shape and verb; ratios where there is a peer."""
    names = list(dict.fromkeys(name for name, _, _ in results))
    rows: list[list[object]] = []
    for shape in dict.fromkeys(shape for _, shape, _ in results):
        for verb in VERBS:
            found = {name: middle(results[name, shape, verb]) for name in names}
            ours = found["ours"]
            row: list[object] = [verb, shape.clients, shape.per_connection, ours.rate, ours.cpu_ms]
            row += [ours.p50_ms, ours.p95_ms, ours.max_ms, ours.client_cpu_ms]
            if peer := found.get("peer"):
                row += [peer.rate, peer.cpu_ms, peer.p50_ms, peer.max_ms]
                row += [ours.rate / peer.rate, ours.cpu_ms / peer.cpu_ms]
            rows.append(row)
    heads = ["verb", "clients", "per conn.", "op/s", "CPU ms/op", "p50 ms", "p95 ms", "max ms", "client CPU ms"]
    if "peer" in names:
        heads += ["peer op/s", "CPU ms/op", "p50 ms", "max ms", "op/s ratio", "CPU ratio"]
    return Table("Operations (one CPU counter per server; medians of the rounds, max of all)", heads, rows)


def without_stall(site: Site, servers: Mapping[str, Process], clients: int, seconds: float) -> Table:
    """Gets by clients that acknowledge at once, which no stock client does: how fast a daemon is that waits for that.

    The original writes its two handshake frames apart and without TCP_NODELAY, so each connection waits for the
    client's delayed acknowledgement, some 40 ms. Its CPU per operation is not changed by it, its op/s are.
    """
    rows: list[list[object]] = []
    count = min(1000, site.items)
    for name, server in servers.items():
        site.load(server.port, Asked("add", 8, LONG, PATIENT_S, 0, count, count))
        before = server.cpu_s()
        load = site.load(server.port, Asked("get", clients, 1, seconds, 0, 0, count, quickack=True))
        one = measured(load, server.cpu_s() - before)
        rows.append([name, clients, one.rate, one.cpu_ms, one.p50_ms, one.max_ms])
        site.load(server.port, Asked("remove", 8, LONG, PATIENT_S, 0, count, count))
    heads = ("server", "clients", "op/s", "CPU ms/op", "p50 ms", "max ms")
    return Table("Get, connection each, by clients that acknowledge every segment at once", heads, rows)


def goals(results: Results) -> list[Goal]:
    """The goals that speak of operations."""
    short, long = Shape(64, 1), Shape(64, LONG)

    def ratio(shape: Shape, verb: str, what: str) -> float | None:
        if ("peer", shape, verb) not in results:
            return None
        ours, peer = middle(results["ours", shape, verb]), middle(results["peer", shape, verb])
        return float(getattr(ours, what) / getattr(peer, what))

    adds = [("add (new)", ratio(short, "add (new)", "rate")), ("replace", ratio(short, "add (replace)", "rate"))]
    known = [value for _, value in adds if value is not None]
    return [
        _goal("get, 64 clients: at least 3x the peer's op/s", ratio(short, "get", "rate"), at_least=3.0),
        _goal("get, 64 clients: at most 0.4x its CPU", ratio(short, "get", "cpu_ms"), at_most=0.4),
        _goal("get, 64 clients, 100 per connection: at most 0.2x", ratio(long, "get", "cpu_ms"), at_most=0.2),
        _goal("durable add, 64 clients: at least 2x (its add is not)", min(known, default=None), at_least=2.0),
    ]


def _goal(text: str, value: float | None, *, at_least: float = 0.0, at_most: float = float("inf")) -> Goal:
    if value is None:
        return Goal(text, "needs PEER_AUKSD", None)
    return Goal(text, f"{value:.2f}x", at_least <= value <= at_most)
