"""``python -m hipercow_slurm.testing.bench [PART ...] [--quick] [--folder DIR]``: run parts and print their goals.

The folder decides which disk "durable" means; the default is a temporary one under /var/tmp.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from hipercow_slurm.testing.bench import agent, auksd, launch, submit, table


def _auksd(folder: Path, *, quick: bool) -> None:
    table.show_goals(auksd.run(auksd.QUICK if quick else auksd.FULL, folder))


def _launch(_folder: Path, *, quick: bool) -> None:
    table.show_goals(launch.run(launch.QUICK if quick else launch.FULL))


def _agent(folder: Path, *, quick: bool) -> None:
    table.show_goals(agent.run(agent.QUICK if quick else agent.FULL, folder))


def _submit(_folder: Path, *, quick: bool) -> None:
    submit.run(submit.QUICK if quick else submit.FULL)


PARTS: dict[str, Callable[..., None]] = {"auksd": _auksd, "submit": _submit, "launch": _launch, "agent": _agent}


def main() -> int:
    """Run the parts named (all by default); 0 even if a goal is missed: that is for the reader to judge."""
    parser = argparse.ArgumentParser(prog="python -m hipercow_slurm.testing.bench", description=__doc__)
    parser.add_argument("part", nargs="*", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="about a minute: does it run, not how fast")
    parser.add_argument("--folder", default="/var/tmp", help="where to make the temporary folder")
    asked = parser.parse_args()
    unknown = set(asked.part) - set(PARTS)
    if unknown:
        parser.error(f"no part {min(unknown)!r}; there are {', '.join(PARTS)}")
    if os.geteuid() != 0:
        parser.error("needs root: the daemons run in a mount namespace of their own")
    print(f"machine: {_cpu()}, {os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()}")
    print(f"load average before: {os.getloadavg()[0]:.2f}")
    for part in asked.part or PARTS:
        with tempfile.TemporaryDirectory(prefix="hipercow-bench-", dir=asked.folder) as folder:
            print(f"\n# {part}")
            PARTS[part](Path(folder), quick=asked.quick)
    return 0


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())
