"""Part ``submit`` of the benchmark: jobs into Slurm through our API, slurmrestd and sbatch, in sandboxes of its own.

Every job is submitted held, so that only submission is measured; the queue is emptied after each measurement. First all
share the CPUs; then Slurm has one half of them to itself, so that it gets no slower by what the API takes; then those
who have many jobs hand them over in one call.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from hipercow_slurm.testing.bench.submit_load import BULK, SLURM_CONF
from hipercow_slurm.testing.bench.submit_probe import Measured, Probe, apart, build_load, one_process, state_in_memory
from hipercow_slurm.testing.bench.submit_proxy import nginx
from hipercow_slurm.testing.bench.table import Goal, Table, show, show_goals
from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.sandbox.layout import LOGIN

NAMES = {
    "rest": "slurmrestd",
    "proxy": "nginx before it",
    "api": "our API",
    "api-new": "our API, new connections",
    "sbatch": "sbatch",
    "api-bulk": f"our API, {BULK} in a call",
}
SHARED = ("rest", "proxy", "api", "api-new", "sbatch")
APART = ("rest", "proxy", "api")
MANY = ("rest", "api", "api-bulk")
MANY_CLIENTS = (1, 4)
COUNTED = ("slurmctld", "slurmrestd", "nginx", "api", "signer", "auksd", "munged")
LOGIN_CLIENTS = (1, 16)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure; all submissions must fit into slurmctld (``submit_probe.MAX_JOBS``), ended ones included.

    Attributes:
        submissions: by each way in each round, of which sbatch, that needs a process for each, makes ``sbatches``.
        calls: bulk submissions in each round.
    """

    clients: tuple[int, ...]
    rounds: int
    submissions: int
    sbatches: int
    calls: int
    logins: int
    polls: int
    crowd: int


FULL = Plan((1, 16, 64), 5, 260, 100, 30, 100, 1000, 500)
QUICK = Plan((1, 16), 1, 60, 20, 5, 20, 200, 500)
TINY = Plan((2,), 1, 4, 2, 1, 2, 4, 3)


def run(plan: Plan) -> None:
    """Measure in sandboxes of its own, print tables and goals."""
    with Sandbox() as sandbox:
        prepare(sandbox)
        goals = measure(sandbox, plan)
    if (os.cpu_count() or 1) > 1:
        with Sandbox() as sandbox:  # a new one, with as few jobs as the first had
            prepare(sandbox)
            goals += measure_apart(sandbox, plan)
    with Sandbox() as sandbox:
        prepare(sandbox)
        goals += measure_many(sandbox, plan)
    show_goals(goals)


def prepare(sandbox: Sandbox) -> None:
    """What holds for all that is measured."""
    state_in_memory(sandbox)
    one_process(sandbox)
    build_load(sandbox)


def measure(sandbox: Sandbox, plan: Plan) -> list[Goal]:
    """Measure in ``sandbox``, print the tables, return the goals."""
    sandbox.run(
        LOGIN, ["sh", "-c", f"sed s,^PlugStack.*,, /etc/slurm/slurm.conf > {SLURM_CONF}; chmod 644 {SLURM_CONF}"]
    )
    probe = Probe(sandbox)
    # Logins first, while there are few jobs: each lists the user's jobs in the background.
    logins = probe.rounds({"login": plan.logins}, LOGIN_CLIENTS, plan.rounds)
    probe.log_in()
    counts = {way: plan.sbatches if way == "sbatch" else plan.submissions for way in SHARED}
    with nginx(sandbox):
        submitted = probe.rounds(counts, plan.clients, plan.rounds)
    show(_submit_table("Submissions (held jobs)", submitted))
    show(_cpu_table("CPU ms per submission, by service", submitted))
    (crowd,) = probe.rounds({"api": plan.crowd}, (plan.crowd,), 1, errors_allowed=True)
    polls = probe.rounds(dict.fromkeys(("rest-status", "status"), plan.polls), plan.clients, plan.rounds)
    show(_table("Logins, and polls of one job's status", [*logins, *polls]))
    return [*_goals(submitted), _held(crowd)]


def measure_apart(sandbox: Sandbox, plan: Plan) -> list[Goal]:
    """Measure both ways of HTTP while Slurm has CPUs of its own, print the tables, return the goals."""
    probe = Probe(sandbox)
    probe.log_in()
    with nginx(sandbox), apart(sandbox):
        submitted = probe.rounds(dict.fromkeys(APART, plan.submissions), plan.clients, plan.rounds)
    show(_submit_table("Submissions, Slurm on CPUs of its own", submitted))
    show(_cpu_table("CPU ms per submission, Slurm on CPUs of its own", submitted))
    return _goals(submitted, ", Slurm apart")


def measure_many(sandbox: Sandbox, plan: Plan) -> list[Goal]:
    """Measure callers who have many jobs at hand, print the tables, return the goals."""
    probe = Probe(sandbox)
    probe.log_in()
    counts = {way: plan.calls if way == "api-bulk" else plan.submissions for way in MANY}
    submitted = probe.rounds(counts, MANY_CLIENTS, plan.rounds)
    show(_submit_table("Many jobs in one call", submitted))
    show(_cpu_table("CPU ms per job, many in one call", submitted))
    by_way = {(one.way, one.clients): one.rate for one in submitted}
    goals = []
    for clients in MANY_CLIENTS:
        share = by_way["api-bulk", clients] / by_way["rest", clients]
        many = f"{_clients(clients)}, {BULK} jobs in a call"
        goals.append(Goal(f"{many}: at least 0.9x slurmrestd's rate", f"{share:.2f}x", share >= 0.9))
    return goals


def _submit_table(title: str, found: Sequence[Measured]) -> Table:
    rates = {(one.way, one.clients): one.rate for one in found}
    p50 = {(one.way, one.clients): one.p50_ms for one in found}
    heads = ["way", "clients", "jobs/s", "of slurmrestd's", "p50 ms", "over slurmrestd's", "p95 ms", "max ms"]
    rows: list[list[object]] = []
    for one in found:
        row: list[object] = [NAMES[one.way], one.clients, one.rate, one.rate / rates["rest", one.clients]]
        more = "" if one.way == "api-bulk" else one.p50_ms - p50["rest", one.clients]
        row += [one.p50_ms, more, one.p95_ms, one.max_ms, one.client_cpu_ms]
        rows.append(row)
    return Table(title, [*heads, "client CPU ms"], rows)


def _cpu_table(title: str, found: Sequence[Measured]) -> Table:
    rows = [[NAMES[one.way], one.clients, *(one.cpu_ms(service) for service in COUNTED)] for one in found]
    return Table(title, ["way", "clients", *COUNTED], rows)


def _table(title: str, found: Sequence[Measured]) -> Table:
    heads = ("what", "clients", "per s", "p50 ms", "p95 ms", "max ms", "client CPU ms")
    rows = [(one.way, one.clients, one.rate, one.p50_ms, one.p95_ms, one.max_ms, one.client_cpu_ms) for one in found]
    return Table(title, heads, rows)


def _goals(submitted: Sequence[Measured], where: str = "") -> list[Goal]:
    by_way = {(one.way, one.clients): one for one in submitted}
    goals = []
    for clients in dict.fromkeys(one.clients for one in submitted):
        api, rest, proxy = (by_way[way, clients] for way in ("api", "rest", "proxy"))
        share, more = api.rate / rest.rate, api.p50_ms - rest.p50_ms
        many = _clients(clients) + where
        told = f"{share:.2f}x; nginx {proxy.rate / rest.rate:.2f}x"
        goals.append(Goal(f"{many}: at least 0.9x slurmrestd's rate", told, share >= 0.9))
        goals.append(Goal(f"{many}: at most +10 ms at p50", f"{more:+.1f} ms", more <= 10))
    return goals


def _clients(number: int) -> str:
    return "1 client" if number == 1 else f"{number} clients"


def _held(crowd: Measured) -> Goal:
    (done,) = crowd.rounds
    told = f"{done.errors} errors, slowest {done.max_ms:.0f} ms" + (f"; {done.why}" if done.why else "")
    return Goal(f"{crowd.clients} clients held with no error", told, done.errors == 0)
