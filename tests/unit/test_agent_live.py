"""Which jobs have processes here: read from /proc as Slurm's own processes name themselves."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from hipercow_slurm.agent import live


def test_titles(tmp_path: Path) -> None:
    titles = {
        "1": b"/sbin/init\0",
        "10": b"slurmstepd: [42.batch]\0",
        "11": b"slurmstepd: [42.0]",
        "12": b"slurmstepd: [43.extern]\0",
        "13": b"/usr/sbin/slurmstepd spank prolog\0",
        "14": b"vi slurmstepd: [99.0]\0",
        "15": b"slurmstepd: [x.0]\0",
        "16": b"",
        "self": b"slurmstepd: [77.0]\0",
    }
    for name, title in titles.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "cmdline").write_bytes(title)
    (tmp_path / "20").mkdir()  # it ended while we looked
    assert live.jobs(tmp_path) == {42, 43}


def test_a_real_process() -> None:
    process = subprocess.Popen(["slurmstepd: [4294967000.batch]", "30"], executable="/usr/bin/sleep")
    try:
        deadline = time.monotonic() + 5
        while 4294967000 not in live.jobs():
            assert time.monotonic() < deadline, "not found in /proc"
    finally:
        process.kill()
        process.wait()
    assert 4294967000 not in live.jobs()
