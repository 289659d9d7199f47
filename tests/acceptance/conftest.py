"""Slow proofs and those that need something from outside: run by ``make acceptance``, not part of the default suite."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "kdc"))

# AUKS' own programs, where somebody has them: see test_peer_auks.py.
collect_ignore = [] if os.environ.get("PEER_AUKS") else ["test_peer_auks.py"]
