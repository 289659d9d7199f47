"""Makes the blocking client (client/sync) from the asynchronous one (client/aio): `python tools/make_sync.py`.

With --check it changes nothing and fails where the two differ; tests/unit/test_make_sync.py runs that.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import unasync

ROOT = Path(__file__).parents[1] / "src/hipercow_slurm/client"
WRITTEN_BY_HAND = {"__init__.py", "means.py"}
NOTE = "# Made from client/aio by tools/make_sync.py: change it there.\n"
NAMES = {
    "aio": "sync",
    "AsyncClient": "Client",
    "AsyncCalls": "Calls",
    "AsyncConnection": "Connection",
    "AsyncJob": "Job",
    "AsyncRetrying": "Retrying",
    "AsyncLock": "Lock",
    "AsyncCall": "Call",
    "AsyncPatient": "Patient",
    "AsyncTail": "Tail",
    "asleep": "sleep",
    "in_thread": "directly",
    "aclose": "close",
    "aiter_bytes": "iter_bytes",
}


def made(into: Path) -> dict[str, str]:
    """The blocking files' names and text, made in the folder ``into``."""
    sources = [path for path in sorted((ROOT / "aio").glob("*.py")) if path.name not in WRITTEN_BY_HAND]
    rule = unasync.Rule(f"{ROOT}/aio/", f"{into}/", additional_replacements=NAMES)
    unasync.unasync_files([str(path) for path in sources], [rule])
    return {path.name: _finished(path) for path in sorted(into.glob("*.py"))}


def _finished(path: Path) -> str:
    """The file with its names in docstrings replaced, too, and formatted as one of the package's own."""
    text = path.read_text()
    for name in sorted(NAMES, key=len, reverse=True):
        text = text.replace(f"``{name}", f"``{NAMES[name]}")
    text = NOTE + text
    for step in (["check", "-q", "--fix", "--select", "I"], ["format", "-q"]):
        command = [sys.executable, "-m", "ruff", *step, "--stdin-filename", str(ROOT / "sync" / path.name), "-"]
        text = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout
    return text


def main() -> None:
    """Write the files, or complain."""
    with tempfile.TemporaryDirectory() as folder:
        files = made(Path(folder))
    stale = [name for name, text in files.items() if _text(ROOT / "sync" / name) != text]
    if "--check" in sys.argv:
        sys.exit(f"stale: {', '.join(stale)}; run tools/make_sync.py" if stale else 0)
    for name in stale:
        (ROOT / "sync" / name).write_text(files[name])


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    main()
