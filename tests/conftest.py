"""Fixtures and the report header. Each concern of its own lives in a plugin module ``tests/fix_*.py``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest_plugins = ["fix_sandbox", "fix_postgres"]

# How long an example takes depends on what else the machine does, and no test of ours is about that.
hypothesis.settings.register_profile("any-machine", deadline=None)
hypothesis.settings.load_profile("any-machine")

# A shell ignores Ctrl-C for what it runs in the background, and so would every program that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# name -> command that prints a version; what the suite runs on is part of its evidence
REAL_PARTS: dict[str, list[str]] = {
    "krb5-kdc": ["dpkg-query", "-W", "-f=${Version}", "krb5-kdc"],
    "slurm": ["slurmctld", "-V"],
    "slurmrestd": ["slurmrestd", "-V"],
    "munge": ["munged", "--version"],
    "nfs-ganesha": ["dpkg-query", "-W", "-f=${Version}", "nfs-ganesha"],
    "samba": ["smbd", "--version"],
    "libkrb5": ["dpkg-query", "-W", "-f=${Version}", "libkrb5-3"],
    "postgresql": ["dpkg-query", "-W", "-f=${Version}", "postgresql-15"],
    "kernel": ["uname", "-r"],
}


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Print the versions of the real parts; one that is missing stands out (and its tests fail)."""
    return [f"{name}: {_version(command)}" for name, command in REAL_PARTS.items()]


def _version(command: list[str]) -> str:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    program = shutil.which(command[0], path=path)
    if program is None:
        return "MISSING (run `make setup` as root)"
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=20, check=False)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else f"MISSING ({command[0]} exit {done.returncode})"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the tests that use a sandbox a file is the unit: its tests stay in one worker, and in that worker's sandbox.

    First of all hooks, because pytest-xdist reads the marks in its own.
    """
    for item in items:
        if "sandbox" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group(item.path.name))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Groups hold: pytest-xdist marks them in the tests' ids, which a pytest too new for it does not show."""
    if session.config.getoption("dist", "no") != "loadgroup" or not hasattr(session.config, "workerinput"):
        return
    lost = [item.nodeid for item in session.items if item.get_closest_marker("xdist_group") and "@" not in item.nodeid]
    if lost:
        raise pytest.UsageError(f"pytest {pytest.__version__} and pytest-xdist do not keep groups together: {lost[0]}")
