"""A storm of launches through the real SPANK plugin and a real agent: 200 steps a second, each a process.

A launch by slurmd costs 30 ms of CPU with and without a plugin, so a machine with two processors makes about 60 a
second (part ``launch``). Here the same processes are forked and the same hooks called without the rest of Slurm, at the
rate that the promise names. Measured beside it: the same processes without a plugin, and with the agent down.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hipercow_slurm.testing.bench import process
from hipercow_slurm.testing.bench.table import Goal, Table, show
from hipercow_slurm.testing.bench.tools import HERE, WARNINGS

SPANK = HERE.parents[3] / "spank"
STEP_MS = 30.0  # what a step takes without a plugin, most of it CPU: part launch
NONE, OURS, DOWN = "no plugin", "ours", "ours, agent down"


@dataclass(frozen=True, slots=True)
class Pieces:
    """Compiled: the program that launches, and the plugin."""

    launcher: Path
    plugin: Path


@dataclass(frozen=True, slots=True)
class Storm:
    """Launches of one kind at one rate.

    Attributes:
        kind: ``step`` or ``job``; see steps.c.
        rate: launches a second; ``count`` of them.
        jobs: how many jobs the steps belong to, or users the jobs.
    """

    kind: str
    rate: int
    count: int
    jobs: int


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a storm.

    Attributes:
        ms: time in all hooks of each launch, loading the plugin included; sorted.
        cpu_ms: of the processes, per launch.
        late_ms: how far behind its time the last launch began: whether the machine could keep the rate.
        agent_share: of one processor, while it lasted.
    """

    ms: Sequence[float]
    cpu_ms: float
    late_ms: float
    agent_share: float

    def part(self, of: float) -> float:
        """A quantile, in ms."""
        return self.ms[min(len(self.ms) - 1, int(len(self.ms) * of))]


def build(folder: Path) -> Pieces:
    """Compile both into ``folder``.

    Raises:
        RuntimeError: with what the compiler said.
    """
    launcher = folder / "steps"
    for command in (
        ["cc", *WARNINGS, "-rdynamic", str(HERE / "steps.c"), "-o", str(launcher), "-ldl"],
        ["make", "-s", "-C", str(SPANK), f"OUT={folder}"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(f"cannot compile (is libslurm-dev installed?):\n{done.stderr}")
    return Pieces(launcher, folder / "hipercow_slurm.so")


def measure(pieces: Pieces, storm: Storm, *, socket: Path | None, first_job: int, first_uid: int, agent: int) -> Found:
    """One storm.

    Args:
        socket: the agent's; None: no plugin at all.
        first_job, first_uid: jobs and users are numbered from these on.
        agent: its process.

    Raises:
        RuntimeError: it failed, or a launch was without its ticket though an agent was there.
    """
    plugin = str(pieces.plugin) if socket else "-"
    words = (storm.kind, storm.rate, storm.count, first_job, first_uid, storm.jobs, f"socket={socket}", "policy=allow")
    before = process.cpu_s(agent)
    done = subprocess.run([str(pieces.launcher), plugin, *map(str, words)], capture_output=True, text=True, timeout=300)
    used = process.cpu_s(agent) - before
    if done.returncode:
        raise RuntimeError(f"the launcher ended with {done.returncode}: {done.stderr}")
    said = json.loads(done.stdout)
    if len(said["ms"]) != storm.count or (socket and socket.exists() and said["failed"]):
        raise RuntimeError(f"{len(said['ms'])} of {storm.count} launches, {said['failed']} without a ticket")
    return Found(
        sorted(said["ms"]), said["cpu_s"] * 1e3 / storm.count, said["late_ms"], used * storm.rate / storm.count
    )


def show_storms(storms: Sequence[tuple[Storm, str, Found]]) -> None:
    """The table."""
    heads = (
        "launches",
        "a second",
        "configuration",
        "hooks: median ms",
        "p99 ms",
        "max ms",
        "CPU ms",
        "late ms",
        "agent",
    )
    rows: list[Sequence[object]] = [
        (
            f"{storm.count} {storm.kind}s", storm.rate, name, found.part(0.5), found.part(0.99), found.ms[-1],
            found.cpu_ms, found.late_ms, f"{found.agent_share:.0%}",
        )
        for storm, name, found in storms
    ]  # fmt: skip
    show(
        Table(
            "A storm through the real plugin: each launch its own processes and hooks, without the rest of Slurm",
            heads,
            rows,
        )
    )


def goals(storms: Sequence[tuple[Storm, str, Found]]) -> Iterator[Goal]:
    """Slowed measurably is more than a tenth of what a step takes anyway. Jobs, whose prolog waits for a disk and the
    cache, are judged in part ``launch``."""
    for storm, name, found in storms:
        if name == NONE or storm.kind != "step":
            continue
        text = f"{storm.rate} steps/s through the plugin, {name}: at most a tenth of a step's own {STEP_MS:g} ms"
        kept = found.late_ms < 1e3
        measured = f"{found.part(0.5):.1f} ms (p99 {found.part(0.99):.1f})"
        measured += "" if kept else ", the rate was not kept"
        yield Goal(text, measured, kept and found.part(0.5) <= STEP_MS / 10)
