"""The launch part of the benchmark runs: two launches of everything, in a real sandbox."""

from __future__ import annotations

import pytest

from hipercow_slurm.testing.bench import launch


def test_it_runs_and_restores_what_it_changed(capsys: pytest.CaptureFixture[str]) -> None:
    """Would notice a plugin or a sandbox that changed under the benchmark."""
    goals = launch.run(launch.TINY)
    printed = capsys.readouterr().out
    assert "Launches (1 rounds, in turn)" in printed and "ours, agent down" in printed, printed
    judged = [goal for goal in goals if goal.met is not None]
    assert len(judged) == 2 * len(launch.WAYS) and len(goals) == 3 * len(launch.WAYS), goals
