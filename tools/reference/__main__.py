"""Writes docs/reference/{cli,config,errors,metrics,wire}.md from the code: ``python tools/reference [--check]``.

``--check`` writes nothing, and fails if a page is not what it would write; ``make test`` runs it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import commands
import configuration
import errors_page
import metrics_page
import wire_page

FOLDER = Path(__file__).parents[2] / "docs/reference"
PAGES = {
    "cli.md": commands.page,
    "config.md": configuration.page,
    "errors.md": errors_page.page,
    "metrics.md": metrics_page.page,
    "wire.md": wire_page.page,
}
NOTE = "<!-- Made from the code by `make reference`: do not edit. -->\n"


def main() -> None:
    """Write the pages, or compare them."""
    stale = []
    for name, make in PAGES.items():
        path, text = FOLDER / name, NOTE + make().rstrip() + "\n"
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(text)
    if stale and "--check" in sys.argv:
        sys.exit(f"docs/reference: {', '.join(stale)} not up to date with the code; run: make reference")


if __name__ == "__main__":
    main()
