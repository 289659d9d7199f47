"""The pages of docs/reference that are made from the code say what the code says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_pages_are_up_to_date():
    """A key, an error, a metric or an option that was added or renamed, and the page still has the old one."""
    done = subprocess.run([sys.executable, ROOT / "tools/reference", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr}\nrun `make reference` and commit what it changed"
