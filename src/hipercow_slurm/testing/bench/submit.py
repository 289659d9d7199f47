"""Part ``submit`` of the benchmark: jobs into Slurm through our API, slurmrestd and sbatch, in one sandbox.

Every job is submitted held, so that only submission is measured; the queue is emptied after each measurement.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from hipercow_slurm.testing.bench import process
from hipercow_slurm.testing.bench.submit_load import HTTP_LOAD, SLURM_CONF, Ask, Done
from hipercow_slurm.testing.bench.table import Goal, Table, show, show_goals
from hipercow_slurm.testing.bench.tools import HERE, WARNINGS
from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.sandbox.init import INFO
from hipercow_slurm.testing.sandbox.layout import API, HEAD, LOGIN

USER = "alice"
NAMES = {"rest": "slurmrestd", "api": "our API", "api-new": "our API, new connections", "sbatch": "sbatch"}
COUNTED = ("slurmctld", "slurmrestd", "api", "signer", "auksd", "munged")
LIMIT_S = 300.0
LOGIN_CLIENTS = (1, 16)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure; slurmctld holds 10 000 jobs, ended ones included, and all submissions must fit.

    Attributes:
        submissions: by each way in each round, of which sbatch, that needs a process for each, makes ``sbatches``.
    """

    clients: tuple[int, ...]
    rounds: int
    submissions: int
    sbatches: int
    logins: int
    polls: int
    crowd: int


FULL = Plan((1, 16, 64), 3, 260, 100, 100, 1000, 500)
QUICK = Plan((1, 16), 1, 60, 20, 20, 200, 500)
TINY = Plan((2,), 1, 4, 2, 2, 4, 3)


@dataclass(frozen=True, slots=True)
class Measured:
    """The rounds of one way with so many clients; ``cpu`` is each service's seconds in a round."""

    way: str
    clients: int
    rounds: tuple[Done, ...]
    cpu: tuple[dict[str, float], ...]

    @property
    def rate(self) -> float:
        """Requests per second, median."""
        return median(one.done / one.seconds for one in self.rounds)

    @property
    def p50_ms(self) -> float:
        """Median of the medians."""
        return median(one.p50_ms for one in self.rounds)

    @property
    def p95_ms(self) -> float:
        """Median of the rounds'."""
        return median(one.p95_ms for one in self.rounds)

    @property
    def max_ms(self) -> float:
        """Greatest of all."""
        return max(one.max_ms for one in self.rounds)

    @property
    def client_cpu_ms(self) -> float:
        """CPU of whoever made the requests, per request."""
        return median(one.client_cpu_s / one.done * 1e3 for one in self.rounds)

    def cpu_ms(self, service: str) -> float:
        """CPU of a service, per request."""
        each = zip(self.rounds, self.cpu, strict=True)
        return median(cpu.get(service, 0.0) / done.done * 1e3 for done, cpu in each)


def run(plan: Plan) -> None:
    """Measure in a sandbox of its own, print tables and goals."""
    with Sandbox() as sandbox:
        show_goals(measure(sandbox, plan))


def measure(sandbox: Sandbox, plan: Plan) -> list[Goal]:
    """Measure in ``sandbox``, print the tables, return the goals."""
    sandbox.run(
        LOGIN, ["sh", "-c", f"sed s,^PlugStack.*,, /etc/slurm/slurm.conf > {SLURM_CONF}; chmod 644 {SLURM_CONF}"]
    )
    build_load(sandbox)
    probe = Probe(sandbox)
    # Logins first, while there are few jobs: each lists the user's jobs in the background.
    logins = probe.rounds({"login": plan.logins}, LOGIN_CLIENTS, plan.rounds)
    probe.log_in()
    counts = {way: plan.sbatches if way == "sbatch" else plan.submissions for way in NAMES}
    submitted = probe.rounds(counts, plan.clients, plan.rounds)
    show(_submit_table(submitted))
    show(_cpu_table(submitted))
    (crowd,) = probe.rounds({"api": plan.crowd}, (plan.crowd,), 1, errors_allowed=True)
    polls = probe.rounds(dict.fromkeys(("rest-status", "status"), plan.polls), plan.clients, plan.rounds)
    show(_table("Logins, and polls of one job's status", [*logins, *polls]))
    return _goals(submitted, crowd)


def build_load(sandbox: Sandbox) -> None:
    """Compile the load generator for the head.

    Raises:
        CommandError: no compiler or no libcurl4-openssl-dev; holds what the compiler said.
    """
    source = (HERE / "http_load.c").read_text()
    sandbox.run(HEAD, ["cc", *WARNINGS, "-x", "c", "-", "-o", HTTP_LOAD, "-lcurl", "-pthread"], input=source)
    sandbox.run(HEAD, ["chmod", "755", HTTP_LOAD])


class Probe:
    """Runs ``submit_load`` inside the sandbox, with one API session for all that need one."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._password = sandbox.passwords[USER]
        self._token = ""

    def log_in(self) -> None:
        """Get the session; not before many other logins, of whose sessions the API forgets the oldest."""
        self._token = str(json.loads(self._end(self._started(Ask("session", 1, 1, USER, self._password)), "")))

    def rounds(
        self, counts: Mapping[str, int], clients: Sequence[int], rounds: int, *, errors_allowed: bool = False
    ) -> list[Measured]:
        """All ways in turn in each round; ``counts``: how many requests of each.

        Raises:
            RuntimeError: a request failed; numbers of refusals would look splendid.
        """
        found: dict[tuple[int, str], list[tuple[Done, dict[str, float]]]] = {}
        for _ in range(rounds):
            for many in clients:
                for way, count in counts.items():
                    done, cpu = self._one(Ask(way, many, count, USER, self._password, self._token))
                    if done.errors and not errors_allowed:
                        raise RuntimeError(f"{way}, {many} clients: {done.errors} errors, the first: {done.why}")
                    found.setdefault((many, way), []).append((done, cpu))
        return [
            Measured(way, many, tuple(done for done, _ in both), tuple(cpu for _, cpu in both))
            for (many, way), both in found.items()
        ]

    def _one(self, ask: Ask) -> tuple[Done, dict[str, float]]:
        with self._started(ask) as load:
            assert load.stdout is not None
            if load.stdout.readline() != "ready\n":
                raise RuntimeError(f"{ask.way}, {ask.clients} clients: {self._end(load, '')}")
            before = service_cpu(self._sandbox)
            said = self._end(load, "\n")
            after = service_cpu(self._sandbox)
        self._sandbox.run(HEAD, ["scancel", f"--user={USER}"])
        return Done(**json.loads(said)), {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}

    def _started(self, ask: Ask) -> subprocess.Popen[str]:
        host, user = (LOGIN, USER) if ask.way == "sbatch" else (HEAD, API.name)
        command = ["hipercow-python", "-m", "hipercow_slurm.testing.bench.submit_load"]
        pipe = subprocess.PIPE
        load = self._sandbox.popen(host, command, user=user, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        assert load.stdin is not None
        load.stdin.write(json.dumps(asdict(ask)) + "\n")
        load.stdin.flush()
        return load

    def _end(self, load: subprocess.Popen[str], word: str) -> str:
        """What it says when it is given its last line."""
        try:
            said, complained = load.communicate(word, timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            load.kill()
            raise
        if load.returncode:
            raise RuntimeError(f"the load generator failed: {complained[-900:]}")
        return said


def service_cpu(sandbox: Sandbox) -> dict[str, float]:
    """CPU seconds of each service of a sandbox so far."""
    names = {row["pid"]: row["name"] for row in sandbox.status()}
    found = {}
    for pid in process.family(json.loads((sandbox.path / INFO).read_text())["pid"]):
        inside = process.pid_inside(pid)
        if inside in names:
            found[names[inside]] = process.cpu_s(pid)
    return found


def _submit_table(found: Sequence[Measured]) -> Table:
    rates = {(one.way, one.clients): one.rate for one in found}
    p50 = {(one.way, one.clients): one.p50_ms for one in found}
    heads = ["way", "clients", "jobs/s", "of slurmrestd's", "p50 ms", "over slurmrestd's", "p95 ms", "max ms"]
    rows: list[list[object]] = []
    for one in found:
        row: list[object] = [NAMES[one.way], one.clients, one.rate, one.rate / rates["rest", one.clients]]
        row += [one.p50_ms, one.p50_ms - p50["rest", one.clients], one.p95_ms, one.max_ms, one.client_cpu_ms]
        rows.append(row)
    return Table("Submissions (held jobs)", [*heads, "client CPU ms"], rows)


def _cpu_table(found: Sequence[Measured]) -> Table:
    rows = [[NAMES[one.way], one.clients, *(one.cpu_ms(service) for service in COUNTED)] for one in found]
    return Table("CPU ms per submission, by service", ["way", "clients", *COUNTED], rows)


def _table(title: str, found: Sequence[Measured]) -> Table:
    heads = ("what", "clients", "per s", "p50 ms", "p95 ms", "max ms", "client CPU ms")
    rows = [(one.way, one.clients, one.rate, one.p50_ms, one.p95_ms, one.max_ms, one.client_cpu_ms) for one in found]
    return Table(title, heads, rows)


def _goals(submitted: Sequence[Measured], crowd: Measured) -> list[Goal]:
    by_way = {(one.way, one.clients): one for one in submitted}
    goals = []
    for clients in dict.fromkeys(one.clients for one in submitted):
        api, rest = by_way["api", clients], by_way["rest", clients]
        share, more = api.rate / rest.rate, api.p50_ms - rest.p50_ms
        many = "1 client" if clients == 1 else f"{clients} clients"
        goals.append(Goal(f"{many}: at least 0.9x slurmrestd's rate", f"{share:.2f}x", share >= 0.9))
        goals.append(Goal(f"{many}: at most +10 ms at p50", f"{more:+.1f} ms", more <= 10))
    (done,) = crowd.rounds
    told = f"{done.errors} errors, slowest {done.max_ms:.0f} ms" + (f"; {done.why}" if done.why else "")
    goals.append(Goal(f"{crowd.clients} clients held with no error", told, done.errors == 0))
    return goals
