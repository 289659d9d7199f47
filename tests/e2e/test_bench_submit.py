"""The benchmark of submissions runs: a tiny round of everything it measures, in the shared sandbox."""

from __future__ import annotations

import pytest

from hipercow_slurm.testing.bench import submit
from hipercow_slurm.testing.sandbox import Sandbox

pytestmark = pytest.mark.e2e


def test_every_part_of_it_runs(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """Would notice an API, a slurmrestd or an sbatch that refuses what the benchmark sends."""
    goals = submit.measure(sandbox, submit.TINY)
    printed = capsys.readouterr().out
    for title in ("Submissions (held jobs)", "CPU ms per submission, by service", "Logins, and polls"):
        assert title in printed, printed
    crowd = goals[-1]
    assert crowd.text.startswith("3 clients held") and crowd.met is True, goals


def test_the_cpu_of_each_service_is_found(sandbox: Sandbox) -> None:
    """The services have other process ids inside; a wrong mapping would charge the API for Slurm's work."""
    found = submit.service_cpu(sandbox)
    assert set(submit.COUNTED) <= set(found), found
    assert all(seconds > 0 for seconds in found.values()), found


def test_a_refused_request_is_no_number(sandbox: Sandbox) -> None:
    """Would notice a load generator that does not look at the answers: refusals are fast."""
    submit.build_load(sandbox)
    probe = submit.Probe(sandbox)  # without a session
    with pytest.raises(RuntimeError, match=r"4 errors, the first: answered 401 .*not-authenticated"):
        probe.rounds({"api": 3}, (1,), 1)
