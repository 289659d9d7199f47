"""Slow proofs and those that need something from outside: run by ``make acceptance``, not part of the default suite.

``proof(what, evidence)`` is one line of the run's report, which is printed at the end, also of a parallel run.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kernel_cluster import NODES, RENEW_LIFE_S, TICKET_LIFE_S, Cluster

from hipercow_slurm.testing.sandbox import Sandbox

sys.path.insert(0, str(Path(__file__).parent.parent / "kdc"))

# AUKS' own programs, where somebody has them: see test_peer_auks.py.
collect_ignore = [] if os.environ.get("PEER_AUKS") else ["test_peer_auks.py"]

_LINES: list[str] = []
_STARTED = time.monotonic()


@pytest.fixture
def proof(request: pytest.FixtureRequest) -> Callable[[str, object], None]:
    """Call it with what was checked and the evidence."""

    def note(what: str, evidence: object) -> None:
        request.node.user_properties.append(("proof", f"[{time.strftime('%H:%M:%S')}] {what:<46} {evidence}"))

    return note


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect the lines where the run is reported: with xdist, in the process that starts the workers."""
    if report.when == "call":
        _LINES.extend(str(value) for name, value in report.user_properties if name == "proof")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print every proof."""
    if _LINES:
        terminalreporter.section("proofs")
        for line in sorted(_LINES):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Two nodes with real kernels that have installed our packages, tickets of 40 s, for the whole run."""
    packages = Path(__file__).parents[2] / "dist"
    assert list(packages.glob("*.deb")), "make deb"
    with Sandbox(
        ticket_life=f"{TICKET_LIFE_S}s",
        renew_life=f"{RENEW_LIFE_S}s",
        nodes=(),
        kernel_nodes=NODES,
        node_packages=packages,
    ) as sandbox:
        failed_before = request.session.testsfailed
        yield Cluster(sandbox)
        if request.session.testsfailed > failed_before:
            print(sandbox.tail_logs())


@pytest.fixture(scope="session")
def debs() -> Path:
    """The folder with the Debian packages of this tree, built now (two minutes), once by all workers of a run."""
    project = Path(__file__).parents[2]
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    (project / "build").mkdir(exist_ok=True)
    with (project / "build/debs-of-run").open("a+") as built:
        fcntl.flock(built, fcntl.LOCK_EX)
        built.seek(0)
        if built.read() != run:
            subprocess.run(["make", "-s", "deb"], cwd=project, check=True, timeout=900)
            built.truncate(0)
            built.write(run)
    return project / "dist"
