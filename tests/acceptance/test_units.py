"""The systemd units: systemd takes them, and they are as closed as docs/reference/systemd.md says."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = sorted((ROOT / "packaging/systemd").glob("*.service"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_is_as_closed_as_documented(unit):
    argv = ["systemd-analyze", "security", "--offline=yes", "--no-pager", unit]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    score = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert score, said
    page = (ROOT / "docs/reference/systemd.md").read_text()
    documented = re.search(rf"^\| `{unit.stem}` \| [^|]+ \| ([\d.]+) \|", page, re.M)
    assert documented, f"{unit.stem} is not in the table"
    assert score[1] == documented[1], said


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_understands_every_line(unit):
    said = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True).stderr
    about_us = [line for line in said.splitlines() if unit.name in line and "is not executable" not in line]
    assert not about_us, about_us


def test_there_is_one_for_each_program():
    assert [unit.stem for unit in UNITS] == [f"hipercow-slurm-{name}" for name in ("agent", "api", "auksd", "signer")]
