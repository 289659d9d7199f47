"""Requests against the services of a sandbox, counted: latencies by whoever makes them, CPU by service.

What a benchmark wants of the sandbox besides: Slurm with its state in memory and on CPUs of its own, one API process.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from hipercow_slurm.testing.bench import process
from hipercow_slurm.testing.bench.submit_load import HTTP_LOAD, Ask, Done
from hipercow_slurm.testing.bench.tools import HERE, WARNINGS
from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.sandbox.init import INFO
from hipercow_slurm.testing.sandbox.layout import API, CONFIG, HEAD, LOGIN

USER = "alice"
SLURM = ("slurmctld", "slurmrestd")
PROXY = "nginx"
MAX_JOBS = 60_000  # that slurmctld holds, ended ones included; its default is 10 000
SLURM_STATE = "/var/lib/slurm/slurmctld"
LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Measured:
    """The rounds of one way with so many clients; ``cpu`` is each service's seconds in a round.

    Latencies are those of requests; all else is for each job, of which a request may make many.
    """

    way: str
    clients: int
    rounds: tuple[Done, ...]
    cpu: tuple[dict[str, float], ...]

    @property
    def rate(self) -> float:
        """Jobs, logins or polls per second, median."""
        return median(_made(one) / one.seconds for one in self.rounds)

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
        """CPU of whoever made the requests, for each."""
        return median(one.client_cpu_s / _made(one) * 1e3 for one in self.rounds)

    def cpu_ms(self, service: str) -> float:
        """CPU of a service, for each."""
        each = zip(self.rounds, self.cpu, strict=True)
        return median(cpu.get(service, 0.0) / _made(done) * 1e3 for done, cpu in each)


def _made(done: Done) -> int:
    return done.done * done.each


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


def state_in_memory(sandbox: Sandbox) -> None:
    """Let slurmctld begin anew with its state in a tmpfs, and with room for all the jobs of a run.

    It makes a folder and two files for each job. On ext4 that costs it up to 0.8 ms more where many files were deleted
    in the minutes before (the inodes of those are not taken again at once, but looked through each time), which says
    something of what ran before and nothing of the two ways that are compared.
    """
    slurmctld = sandbox.service("slurmctld")
    slurmctld.stop()
    sandbox.run(HEAD, ["mount", "-t", "tmpfs", "-o", "mode=0700,uid=slurm,gid=slurm", "tmpfs", SLURM_STATE])
    sandbox.run(HEAD, ["sh", "-c", f"echo MaxJobCount={MAX_JOBS} >> /etc/slurm/slurm.conf"])
    slurmctld.start()


def one_process(sandbox: Sandbox) -> None:
    """Let the API be one process, as ``api.toml`` gives it when left alone; a sandbox has two."""
    api = sandbox.service("api")
    api.stop()
    sandbox.run(HEAD, ["sed", "-i", "s/^processes = .*/processes = 1/", f"{CONFIG}/api.toml"])
    api.start()


@contextlib.contextmanager
def apart(sandbox: Sandbox) -> Iterator[None]:
    """slurmctld and slurmrestd on the first half of the CPUs; all else of the sandbox, and this process, on the rest.

    Raises:
        RuntimeError: this machine has one CPU.
    """
    every = sorted(os.sched_getaffinity(0))
    slurms, others = set(every[: len(every) // 2]), set(every[len(every) // 2 :])
    if not slurms:
        raise RuntimeError("one CPU cannot be divided")
    top = _pid(sandbox)
    slurm_pids = {one for name, pid in services(sandbox) if name in SLURM for one in process.family(pid)}
    try:
        for pid in (os.getpid(), *process.family(top)):
            process.keep_on(pid, slurms if pid in slurm_pids else others)
        yield
    finally:
        for pid in (os.getpid(), *process.family(top)):
            process.keep_on(pid, set(every))


def service_cpu(sandbox: Sandbox) -> dict[str, float]:
    """CPU seconds of each service of a sandbox so far."""
    return {name: process.cpu_s(pid) for name, pid in services(sandbox)}


def services(sandbox: Sandbox) -> list[tuple[str, int]]:
    """Name and process id, as this machine counts, of each service that runs, and of the benchmark's nginx."""
    names = {row["pid"]: row["name"] for row in sandbox.status()}
    found = []
    for pid in process.family(_pid(sandbox)):
        name = names.get(process.pid_inside(pid))
        if name is not None or process.name(pid) == PROXY:
            found.append((name or PROXY, pid))
    return found


def _pid(sandbox: Sandbox) -> int:
    return int(json.loads((sandbox.path / INFO).read_text())["pid"])
