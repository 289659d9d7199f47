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
from kernel_cluster import MANY_FOLDER, MANY_JOBS, NODES, RENEW_LIFE_S, TICKET_LIFE_S, Cluster

from hipercow_slurm.testing.sandbox import Sandbox

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "kdc"))

# AUKS' own programs, where somebody has them: see test_peer_auks.py.
collect_ignore = [] if os.environ.get("PEER_AUKS") else ["test_peer_auks.py"]

# Tests of a file stay in one worker, but for these files, whose tests have nothing in common.
SEPARATE = {"test_slurm_versions.py", "test_kills.py"}
# Workers take what comes first, so what takes long does: with the longest at the end one worker would work alone.
# Those of the kernel are one group, in this order: many jobs run beside what waits for tickets to end, until something
# that they need is broken.
ORDER = (
    *("test_kernel_cifs.py", "test_kernel_story.py", "test_kernel_many.py", "test_kernel_broken.py"),
    *("test_kernel_faults.py", "test_kernel_places.py", "test_kernel_dirty_pages.py", "test_kernel_hipercow.py"),
    "test_kernel_power.py",
    "test_kernel_cifs_end.py",
    *("test_slurm_versions.py", "test_node_logins.py", "test_hipercow_slow.py", "test_kernel_stock.py"),
    *("test_packages_cluster.py", "test_kills.py", "test_packages.py", "test_node_slurms.py"),
    *("test_kernel_realms.py", "test_hipercow_r.py"),
)
_LINES: list[str] = []
_STARTED = time.monotonic()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group by file and begin with what takes longest (make acceptance says --no-loadscope-reorder)."""
    for item in items:
        if item.path.parent == HERE and item.path.name not in SEPARATE and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.name))
    items.sort(key=lambda item: ORDER.index(item.path.name) if item.path.name in ORDER else len(ORDER))


@pytest.fixture
def proof(request: pytest.FixtureRequest) -> Callable[[str, object], None]:
    """Call it with what was checked and the evidence."""

    def note(what: str, evidence: object) -> None:
        request.node.user_properties.append(("proof", f"[{time.strftime('%H:%M:%S')}] {what:<46} {evidence}"))

    return note


class _AsItGoes:
    """Tells each proof and each failure when it is known, not after half an hour; the proofs once more at the end.

    With xdist in the process that starts the workers.
    """

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        lines = [str(value) for name, value in report.user_properties if name == "proof"]
        if report.when == "call":
            _LINES.extend(lines)
            for line in lines:
                self._terminal.write_line(line)
        if report.failed:
            self._terminal.write_line(f"FAILED at {time.strftime('%H:%M:%S')}: {report.nodeid} ({report.when})")
            self._terminal.write_line(report.longreprtext[-6000:])


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Register it where there is a terminal; xdist's workers have none."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:
        config.pluginmanager.register(_AsItGoes(terminal))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print every proof."""
    if _LINES:
        terminalreporter.section("proofs")
        for line in sorted(_LINES):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, debs: Path) -> Iterator[Cluster]:
    """Two nodes with real kernels that have installed our packages, tickets of 40 s, for the whole run."""
    with Sandbox(
        ticket_life=f"{TICKET_LIFE_S}s",
        renew_life=f"{RENEW_LIFE_S}s",
        nodes=(),
        kernel_nodes=NODES,
        node_packages=debs,
    ) as sandbox:
        failed_before = request.session.testsfailed
        yield Cluster(sandbox)
        if request.session.testsfailed > failed_before:
            print(sandbox.tail_logs())


@pytest.fixture(scope="session")
def many_jobs(cluster: Cluster) -> list[int]:
    """dave's 1 000 short jobs, one after the other on each node, beside other tests and giving way to their jobs: the
    ids of the arrays. See test_kernel_many.py."""
    cluster.sandbox.run("files", ["install", "-d", "-o", "dave", "-m", "700", MANY_FOLDER])
    laptop = cluster.dave.laptop
    laptop.login()
    script = "#!/bin/sh\ncp /data/dave/secret /data/dave/many/$SLURM_JOB_ID\n"
    each = (f"--array=1-{MANY_JOBS // len(NODES)}%2", "--nice=1000", "-o", "/dev/null", "-J", "many", "-t", "5")
    return [laptop.submit(script, *each, "-w", node) for node in NODES]


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
