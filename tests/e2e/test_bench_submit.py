"""The benchmark of submissions runs: a tiny round of everything it measures, in the shared sandbox."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from hipercow_slurm.testing.bench import process, submit, submit_probe
from hipercow_slurm.testing.bench.submit_proxy import nginx
from hipercow_slurm.testing.sandbox import Sandbox

pytestmark = pytest.mark.e2e


def test_every_part_of_it_runs(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    """Would notice an API, a slurmrestd or an sbatch that refuses what the benchmark sends."""
    submit_probe.build_load(sandbox)
    goals = submit.measure(sandbox, submit.TINY)
    many = submit.measure_many(sandbox, submit.TINY)
    printed = capsys.readouterr().out
    for title in ("Submissions (held jobs)", "CPU ms per submission, by service", "Logins, and polls", "in one call"):
        assert title in printed, printed
    assert [goal.text.split(":")[0] for goal in many] == ["1 client, 20 jobs in a call", "4 clients, 20 jobs in a call"]
    crowd = goals[-1]
    assert crowd.text.startswith("3 clients held") and crowd.met is True, goals


def test_the_cpu_of_each_service_is_found(sandbox: Sandbox) -> None:
    """The services have other process ids inside; a wrong mapping would charge the API for Slurm's work."""
    with nginx(sandbox):
        found = submit_probe.service_cpu(sandbox)
    assert set(submit.COUNTED) <= set(found), found
    assert all(seconds > 0 for name, seconds in found.items() if name != "nginx"), found


def test_each_way_goes_the_way_it_says(sandbox: Sandbox) -> None:
    """Would have caught: polls of a job's status through the API, counted as submissions through nginx."""
    submit_probe.build_load(sandbox)
    probe = submit_probe.Probe(sandbox)
    probe.log_in()
    with nginx(sandbox):
        found = {way: probe.rounds({way: 40}, (2,), 1)[0] for way in ("rest", "proxy", "api", "api-bulk")}
    used = {way: {name: one.cpu_ms(name) for name in ("nginx", "api")} for way, one in found.items()}
    assert {way: max(cpu, key=lambda name: cpu[name]) for way, cpu in used.items() if way != "rest"} == {
        "proxy": "nginx",
        "api": "api",
        "api-bulk": "api",
    }, used
    assert used["proxy"]["nginx"] > 0.02 > used["rest"]["nginx"], used
    assert all(one.cpu_ms("slurmctld") > 0.1 for one in found.values()), "each makes jobs"


def test_slurm_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """Would notice a slurmctld that does not come up with its state in memory, or services that share CPUs anyway."""
    with Sandbox() as own:
        submit.prepare(own)
        submit.measure_apart(own, submit.TINY)
        assert "Slurm on CPUs of its own" in capsys.readouterr().out
        kind = own.run("head", ["stat", "-f", "-c", "%T", submit_probe.SLURM_STATE]).stdout.strip()
        assert kind == "tmpfs" and own.run("head", ["ls", submit_probe.SLURM_STATE]).stdout.split(), kind
        (api,) = (pid for name, pid in submit_probe.services(own) if name == "api")
        assert len(process.family(api)) == 1, "one process"
        with submit_probe.apart(own):
            cpus = {name: threads_cpus(pid) for name, pid in submit_probe.services(own)}
        assert cpus["slurmctld"] == cpus["slurmrestd"], cpus
        assert not cpus["slurmctld"] & set().union(*(cpus[name] for name in cpus if name not in submit_probe.SLURM)), (
            cpus
        )
        after = {name: threads_cpus(pid) for name, pid in submit_probe.services(own)}
    assert set(map(frozenset, after.values())) == {frozenset(os.sched_getaffinity(0))}, after


def threads_cpus(pid: int) -> set[int]:
    """The CPUs that some thread of a service may run on."""
    found: set[int] = set()
    for one in process.family(pid):
        for task in Path(f"/proc/{one}/task").iterdir():
            with contextlib.suppress(ProcessLookupError):
                found |= os.sched_getaffinity(int(task.name))
    return found


def test_a_refused_request_is_no_number(sandbox: Sandbox) -> None:
    """Would notice a load generator that does not look at the answers: refusals are fast."""
    submit_probe.build_load(sandbox)
    probe = submit_probe.Probe(sandbox)  # without a session
    with pytest.raises(RuntimeError, match=r"4 errors, the first: answered 401 .*not-authenticated"):
        probe.rounds({"api": 3}, (1,), 1)
