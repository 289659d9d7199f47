"""The end-to-end tests, and the plugin in its scripted host, with other releases of Slurm than this machine's.

The releases are real ones out of Debian 13 and sid (testing/slurm_tree.py, built by `make slurm-trees`).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hipercow_slurm.testing import slurm_tree

ROOT = Path(__file__).parents[2]
# Whatever of tests/e2e meets Slurm. The others are about the sandbox itself, this repository or the benchmark.
FILES = (
    *(
        "slurmrestd",
        "slurmrestd_reads",
        "job_routes",
        "as_sbatch",
        "api",
        "api_cluster",
        "api_files",
        "api_hosts_on_slurm",
    ),
    *("commands", "hipercow", "tutorial", "canary"),
    *("chain", "node_side", "node_words", "node_role", "oracle", "outages", "api_outages", "retention"),
)
PATIENCE_S = 2400


@pytest.mark.parametrize("release", slurm_tree.RELEASES)
def test_the_same_suite_passes_with_every_slurm(release: str, proof: Callable[[str, object], None]) -> None:
    """What 22.05 does says little about the next release: REST versions, states, hooks and words change."""
    version = slurm_tree.find(release).version
    targets = ["tests/spank", *(f"tests/e2e/test_{name}.py" for name in FILES)]
    # Not the machine's own Slurm under another name: what the report's header says, the sandbox was asked.
    counted = passed(targets, marked="", release=release)
    assert int(counted[1]) > 100, counted[0]
    proof(f"Slurm {version}", f"{counted[0]}")


def test_what_is_too_slow_for_the_default_suite(proof: Callable[[str, object], None]) -> None:
    """Nobody else runs the tests marked ``slow`` with this machine's own Slurm: they would rot."""
    counted = passed(["tests/e2e", "tests/kdc"], marked="slow")
    assert int(counted[1]) >= 6, counted[0]
    proof("tests marked slow", f"{counted[0]}")


def passed(targets: Sequence[str], *, marked: str, release: str | None = None) -> re.Match[str]:
    """The last line of a run in which nothing failed; its first group is how many tests there were."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", marked, "-p", "no:cacheprovider", *targets],
        cwd=ROOT,
        env={**os.environ, **({"HIPERCOW_SLURM_TEST_SLURM": release} if release else {})},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    told = done.stdout[-12000:] + done.stderr[-2000:]
    counted = re.search(r"^(\d+) passed.* in [\d.]+s", done.stdout, re.MULTILINE)
    assert done.returncode == 0 and counted, told
    return counted
