"""The benchmark of the cache runs: a tiny round of everything it measures, against a real KDC and a real daemon."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from hipercow_slurm.testing.bench import agent, auksd, auksd_ops, site
from hipercow_slurm.testing.bench.auksd_ops import Measured, Shape
from hipercow_slurm.testing.bench.servers import FIRST_UID, Ours
from hipercow_slurm.testing.bench.tools import Asked


def test_every_part_of_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Would notice a daemon that changed its configuration, its log, its store or its wire under the benchmark."""
    goals = auksd.run(auksd.TINY, tmp_path)
    printed = capsys.readouterr().out
    for title in ("Operations", "Memory, start and dump", "Renewals, all due at once"):
        assert title in printed, printed
    assert len(goals) == 10, goals
    burst = goals[-1]
    assert burst.met is True and " of 50 at " in burst.measured, burst


def test_the_agents_part_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Would notice an agent that changed its configuration, its socket or its answers under the benchmark."""
    goals = agent.run(agent.TINY, tmp_path)
    printed = capsys.readouterr().out
    assert "The agent with many jobs" in printed and "A storm: 20 steps" in printed, printed
    assert "A storm through the real plugin" in printed and "20 steps" in printed and "5 jobs" in printed, printed
    assert len(goals) == 3 + 2 and all(goal.met is not None for goal in goals[2:]), goals


def test_the_load_generator_notices_a_refusal(tmp_path: Path) -> None:
    """Numbers of refused requests would look splendid."""
    with site.make(tmp_path, 3) as found:
        server = Ours(found, tmp_path / "ours")
        server.fill(2)
        server.start()
        try:
            good = found.load(server.port, Asked("get", count=2, items=2))
            assert (good.done, good.errors) == (2, 0), good
            with pytest.raises(RuntimeError, match="1 operations failed, 2 were good"):
                found.load(server.port, Asked("get", count=3, items=3))
        finally:
            server.stop()


def test_accounts_exist_for_the_daemon_alone(tmp_path: Path) -> None:
    """An add is filed under the uid the C library gives, and the machine has no such accounts."""
    with site.make(tmp_path, 1) as found:
        command = found.tools.inside(["python3", "-c", "import pwd; print(pwd.getpwnam('bench000007').pw_uid)"])
        env = {**os.environ, **found.tools.env()}
        assert subprocess.check_output(command, env=env, text=True).strip() == str(FIRST_UID + 7)
    assert subprocess.run(["getent", "passwd", "bench000007"], capture_output=True).returncode == 2


def test_goals_are_judged_by_medians() -> None:
    """A lucky round meets nothing, and without a peer there is nothing to say."""

    def rounds(*rates: float) -> list[Measured]:
        return [Measured(rate, 100 / rate, 1, 1, 1, 1) for rate in rates]

    shape = Shape(64, 1)
    results = {("ours", shape, "get"): rounds(900, 100, 100), ("peer", shape, "get"): rounds(50, 50, 50)}
    rate, cpu, long, adds = auksd_ops.goals(results)
    assert (rate.measured, rate.met) == ("2.00x", False), rate
    assert (cpu.measured, cpu.met) == ("0.50x", False), cpu
    assert long.met is None and adds.met is None
