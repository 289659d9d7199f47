"""The blocking client is the asynchronous one, made blocking: nobody changes the one without the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MAKE = Path(__file__).parents[2] / "tools/make_sync.py"


def test_the_blocking_client_is_made_from_the_asynchronous_one() -> None:
    """A fix in client/aio that was not carried over, or one made by hand in client/sync."""
    done = subprocess.run([sys.executable, str(MAKE), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
