"""``python tests/fuzz/run.py TARGET [libFuzzer's options]``; see README.md."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["hipercow_slurm"]):
    from targets import TARGETS


def main() -> None:
    """Fuzz one target, from its own inputs and those of earlier runs."""
    name, *options = sys.argv[1:]
    function, begin = TARGETS[name]
    corpus = Path("build/fuzz") / name
    corpus.mkdir(parents=True, exist_ok=True)
    for one in begin:
        (corpus / hashlib.sha256(one).hexdigest()[:16]).write_bytes(one)
    atheris.Setup([sys.argv[0], str(corpus), *options], function)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
