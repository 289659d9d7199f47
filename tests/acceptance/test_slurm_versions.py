"""The end-to-end tests, and the plugin in its scripted host, with other releases of Slurm than this machine's.

The releases are real ones out of Debian 13 and sid (testing/slurm_tree.py, built by `make slurm-trees`).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
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
PATIENCE_S = 1500


@pytest.mark.parametrize("release", slurm_tree.RELEASES)
def test_the_same_suite_passes_with_every_slurm(release: str, proof: Callable[[str, object], None]) -> None:
    """What 22.05 does says little about the next release: REST versions, states, hooks and words change."""
    version = slurm_tree.find(release).version
    targets = ["tests/spank", *(f"tests/e2e/test_{name}.py" for name in FILES)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "", "-p", "no:cacheprovider", *targets],
        cwd=ROOT,
        env={**os.environ, "HIPERCOW_SLURM_TEST_SLURM": release},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    told = done.stdout[-12000:] + done.stderr[-2000:]
    counted = re.search(r"^(\d+) passed.* in [\d.]+s", done.stdout, re.MULTILINE)
    assert done.returncode == 0 and counted, told
    # Not the machine's own Slurm under another name: what the report's header says, the sandbox was asked.
    assert int(counted[1]) > 100, told
    proof(f"Slurm {version}", f"{counted[0]}")
