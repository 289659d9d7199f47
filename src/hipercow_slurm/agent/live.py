"""Which jobs have processes on this node: those with a slurmstepd.

A slurmstepd names itself ``slurmstepd: [JOBID.STEP]`` and lives as long as a process of its step, so this needs
neither slurmctld nor the place of slurmd's spool directory. An allocation without any step here at the moment has none:
nobody here needs its ticket, and its next step asks for it again.
"""

from __future__ import annotations

import re
from pathlib import Path

_TITLE = re.compile(rb"slurmstepd: \[(\d{1,10})[.\]]")


def jobs(proc: Path = Path("/proc")) -> set[int]:
    """Ids of the jobs with at least one slurmstepd."""
    found: set[int] = set()
    for folder in proc.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            title = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # it ended meanwhile
        if match := _TITLE.match(title):
            found.add(int(match[1]))
    return found
