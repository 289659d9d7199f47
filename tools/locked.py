"""Prints the part of requirements.lock that some extras need: ``python tools/locked.py postgres --without agent``.

The lock file is one for everything, tools and tests among it; a package for a site ships only what runs there, in the
same versions and with the same hashes. Run it with the Python of ``.venv``: what needs what is read from there.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def closure(wanted: Iterable[Requirement]) -> set[str]:
    """Names of the distributions that these need, and so on, on this platform; ours is not among them."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    todo = list(wanted)
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        found.add(name)
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for text in requires(name) or ():
                further = Requirement(text)
                if further.marker is None or further.marker.evaluate({"extra": extra}):
                    todo.append(further)
    return found - {"hipercow-slurm"}


def of_extras(extras: Iterable[str]) -> set[str]:
    """The closure of ``hipercow-slurm[extras]``."""
    return closure([Requirement(f"hipercow-slurm[{','.join(extras)}]")])


def entries(lock: str) -> dict[str, str]:
    """Name -> its lines in the lock file, hashes included."""
    blocks = re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)
    return {canonicalize_name(re.split(r"[=\s;]", block)[0]): block for block in blocks if block[:1].isalnum()}


def main() -> None:
    """Print it, or say which distribution is not in the lock file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="+")
    parser.add_argument("--without", nargs="*", default=[], metavar="EXTRA")
    arguments = parser.parse_args()
    locked = entries((ROOT / "requirements.lock").read_text())
    names = of_extras(arguments.extras) - (of_extras(arguments.without) if arguments.without else set())
    if missing := names - locked.keys():
        sys.exit(f"requirements.lock lacks {', '.join(sorted(missing))}")
    sys.stdout.write("".join(locked[name] for name in sorted(names)))


if __name__ == "__main__":
    main()
