"""Part ``agent`` of the benchmark: what the node agent costs with many jobs, and in a storm of steps.

A real agent, a real credential cache with as many users, one job per user: the worst case, because the cache is asked
per user. The jobs have no processes here, so looking for those (once a minute) is not part of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hipercow_slurm.testing.bench import process, site, steps
from hipercow_slurm.testing.bench.servers import Ours
from hipercow_slurm.testing.bench.site import ADMIN, FIRST_UID, SERVICE, Site
from hipercow_slurm.testing.bench.table import Goal, Table, show

TOML = """[agent]
socket = "{folder}/agent.sock"
ccache = "{folder}/tmp/krb5cc_%u_%j"
state_dir = "{folder}/state"
keytab = "{keytab}"
principal = "{principal}"
policy = "warn"
poll_s = {poll_s}
sweep_s = 3600
answer_s = 60
[cache]
servers = [{{ host = "localhost", port = {port}, principal = "{service}" }}]
"""
MOST_MB = 35.0
START_S = 60.0
ANSWER_S = 90.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    Attributes:
        jobs: how many jobs on the node, in turn.
        watch_s: how long the agent is watched with them; its poll interval is ``poll_s``.
        storm_s: how long steps come at ``rate`` a second.
        settle_s: a new agent looks twice in its first ten seconds for jobs that have gone.
        storms: launches through the real plugin.
    """

    jobs: tuple[int, ...]
    watch_s: float
    poll_s: float
    storm_s: float
    rate: int
    settle_s: float = 12.0
    storms: tuple[steps.Storm, ...] = ()


FULL = Plan(
    (0, 100, 1000), 30.0, 30.0, 20.0, 200, storms=(steps.Storm("step", 200, 4000, 10), steps.Storm("job", 20, 400, 10))
)
QUICK = Plan(
    (0, 100), 10.0, 5.0, 5.0, 200, storms=(steps.Storm("step", 200, 1000, 10), steps.Storm("job", 20, 100, 10))
)
TINY = Plan((3,), 1.0, 1.0, 1.0, 20, 0.0, (steps.Storm("step", 20, 20, 3), steps.Storm("job", 5, 5, 3)))


@dataclass(frozen=True, slots=True)
class Load:
    """With ``jobs`` jobs: memory, and per minute CPU seconds and wake-ups (of any thread), asked and not.

    Attributes:
        start_ms: median and greatest time of a job's start, one after the other.
        idle_wakeups: with nothing due: no question within the time watched.
    """

    jobs: int
    rss_mb: float
    start_ms: tuple[float, float]
    cpu_s: float
    wakeups: float
    idle_wakeups: float


@dataclass(frozen=True, slots=True)
class Storm:
    """Steps at a fixed rate: how long each waited for the agent, and the agent's share of a CPU."""

    steps: int
    median_ms: float
    p99_ms: float
    max_ms: float
    cpu_share: float


class Agent:
    """``hipercow-slurm agent`` in ``folder``, asking the cache at ``port``."""

    def __init__(self, found: Site, folder: Path, port: int, poll_s: float) -> None:
        folder.mkdir()
        (folder / "tmp").mkdir()
        (folder / "tmp").chmod(0o1777)
        values = {"keytab": found.folder / "admin.keytab", "principal": ADMIN, "service": SERVICE}
        (folder / "agent.toml").write_text(TOML.format(folder=folder, port=port, poll_s=poll_s, **values))
        self.socket = folder / "agent.sock"
        self.folder = folder
        log = (folder / "log").open("wb")
        command = [sys.executable, "-m", "hipercow_slurm", "agent", "--config", str(folder / "agent.toml")]
        self._process = subprocess.Popen(command, env={**os.environ, **found.realm.env}, stdout=log, stderr=log)
        log.close()
        begin = time.monotonic()
        while not self.socket.exists():
            if self._process.poll() is not None or time.monotonic() - begin > START_S:
                self.stop()
                raise RuntimeError(f"the agent did not start: {(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.01)

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)

    def ask(self, request: str) -> float:
        """One request on a connection of its own, as the plugin does; seconds until its answer.

        Raises:
            RuntimeError: the answer is not ``ok``.
        """
        begin = time.monotonic()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(ANSWER_S)
            sock.connect(str(self.socket))
            sock.sendall(request.encode() + b"\n")
            reply = sock.makefile("rb").readline()
        _check(request, reply)
        return time.monotonic() - begin

    def wakeups(self) -> int:
        """How often any of its threads went to sleep of its own so far."""
        total = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            for line in (task / "status").read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches:"):
                    total += int(line.split()[1])
        return total


def run(plan: Plan, folder: Path) -> list[Goal]:
    """Measure, print the tables, return the goals."""
    most = max(plan.jobs)
    with site.make(folder, most) as found:
        cache = Ours(found, folder / "cache")
        cache.fill(most)
        cache.start()
        try:
            loads = [_load(found, folder, cache.port, plan, jobs) for jobs in plan.jobs]
            storm = _storm(found, folder, cache.port, plan)
            storms = list(_storms(found, folder, cache.port, plan))
        finally:
            cache.stop()
    _show(loads, storm, plan)
    steps.show_storms(storms)
    return [*_goals(loads, storm, plan), *steps.goals(storms)]


def _load(found: Site, folder: Path, port: int, plan: Plan, jobs: int) -> Load:
    agent = Agent(found, folder / f"jobs-{jobs}", port, 3600)
    try:
        times = _start(agent, jobs)
        time.sleep(plan.settle_s)
        idle, _ = _watch(agent, min(plan.watch_s, 10.0))
    finally:
        agent.stop()
    agent = Agent(found, folder / f"polls-{jobs}", port, plan.poll_s)
    try:
        _start(agent, jobs)
        wakeups, cpu = _watch(agent, plan.watch_s)
        rss = process.rss_mib(agent.pid) * process.MIB / 1e6
    finally:
        agent.stop()
    return Load(jobs, rss, times, cpu, wakeups, idle)


def _start(agent: Agent, jobs: int) -> tuple[float, float]:
    times = sorted(agent.ask(f"start {_job(n)} {FIRST_UID + n} {FIRST_UID + n}") * 1e3 for n in range(jobs))
    return (times[len(times) // 2], times[-1]) if times else (0.0, 0.0)


def _job(number: int) -> int:
    """Numbers of jobs that no slurmstepd of this machine has."""
    return 4_000_000_000 + number


def _watch(agent: Agent, seconds: float) -> tuple[float, float]:
    """Wake-ups and CPU seconds per minute."""
    wakeups, cpu, begin = agent.wakeups(), process.cpu_s(agent.pid), time.monotonic()
    time.sleep(seconds)
    minutes = (time.monotonic() - begin) / 60
    return (agent.wakeups() - wakeups) / minutes, (process.cpu_s(agent.pid) - cpu) / minutes


def _storm(found: Site, folder: Path, port: int, plan: Plan) -> Storm:
    """Steps of ten jobs come at a fixed rate, whether or not those before were answered."""
    agent = Agent(found, folder / "storm", port, plan.poll_s)
    jobs = min(10, max(plan.jobs))
    try:
        _start(agent, jobs)
        cpu, begin = process.cpu_s(agent.pid), time.monotonic()
        times = sorted(asyncio.run(_steps(agent.socket, jobs, plan)))
        share = (process.cpu_s(agent.pid) - cpu) / (time.monotonic() - begin)
    finally:
        agent.stop()
    ms = [one * 1e3 for one in times]
    return Storm(len(ms), ms[len(ms) // 2], ms[len(ms) * 99 // 100], ms[-1], share)


def _storms(found: Site, folder: Path, port: int, plan: Plan) -> Iterator[tuple[steps.Storm, str, steps.Found]]:
    """Through the real plugin: without it, with it, and with an agent that is not there, each kind in turn."""
    pieces = steps.build(folder)
    agent = Agent(found, folder / "plugin", port, plan.poll_s)
    try:
        _start(agent, max(storm.jobs for storm in plan.storms))
        for storm in plan.storms:
            first = _job(0) if storm.kind == "step" else _job(1000)
            for name, socket in ((steps.NONE, None), (steps.OURS, agent.socket), (steps.DOWN, folder / "nobody")):
                aim = {"first_job": first, "first_uid": FIRST_UID, "agent": agent.pid}
                yield storm, name, steps.measure(pieces, storm, socket=socket, **aim)
    finally:
        agent.stop()


async def _steps(path: Path, jobs: int, plan: Plan) -> list[float]:
    loop, tasks = asyncio.get_running_loop(), []
    begin = loop.time()
    for number in range(int(plan.rate * plan.storm_s)):
        await asyncio.sleep(max(0.0, begin + number / plan.rate - loop.time()))
        uid = FIRST_UID + number % jobs
        tasks.append(asyncio.create_task(_step(path, f"ccache {_job(number % jobs)} {uid} {uid}")))
    return list(await asyncio.gather(*tasks))


async def _step(path: Path, request: str) -> float:
    begin = time.monotonic()
    async with asyncio.timeout(ANSWER_S):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(request.encode() + b"\n")
        _check(request, await reader.readline())
        writer.close()
    return time.monotonic() - begin


def _check(request: str, reply: bytes) -> None:
    if not reply.startswith(b"ok "):
        raise RuntimeError(f"{request}: {json.dumps(reply.decode(errors='replace'))}")


def _show(loads: Sequence[Load], storm: Storm, plan: Plan) -> None:
    heads = ("jobs, each of another user", "RSS MB", "start ms", "max", "CPU s/min", "wake-ups/min", "nothing due")
    rows: list[Sequence[object]] = [
        (one.jobs, one.rss_mb, *one.start_ms, one.cpu_s, one.wakeups, one.idle_wakeups) for one in loads
    ]
    show(Table(f"The agent with many jobs (the cache is asked every {plan.poll_s:g} s)", heads, rows))
    share = f"{storm.cpu_share:.0%}"
    row = (storm.steps, storm.median_ms, storm.p99_ms, storm.max_ms, share)
    title = f"A storm: {plan.rate} steps a second ask the agent"
    show(Table(title, ("steps", "median ms", "p99 ms", "max ms", "of one CPU"), [row]))


def _goals(loads: Sequence[Load], storm: Storm, plan: Plan) -> list[Goal]:
    hundred = next((one for one in loads if one.jobs == 100), None)
    rss, idle = (hundred.rss_mb, hundred.idle_wakeups) if hundred else (None, None)
    return [
        Goal(
            f"100 jobs: at most {MOST_MB:g} MB resident",
            "not in this run" if rss is None else f"{rss:.1f} MB",
            None if rss is None else rss <= MOST_MB,
        ),
        Goal(
            "nothing due: no wake-ups",
            "not in this run" if idle is None else f"{idle:.0f} a minute",
            None if idle is None else idle == 0,
        ),
        Goal(
            f"{plan.rate} steps/s: a step waits at most 5 ms (median), a twentieth of srun's own 100 ms",
            f"{storm.median_ms:.1f} ms",
            storm.median_ms <= 5,
        ),
    ]
