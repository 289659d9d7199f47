"""A job's program: works on files below a folder, over and over, and tells at what second which operation failed how.

    watch_files.py SECONDS FOLDER LOG [paths]

Every half second: ``append`` (write and fsync, on a file open since the start), ``reread`` (from a file open since
the start, past the page cache), ``open`` (open and read that file anew) and ``create`` (make, write and remove a
file). With ``paths`` the open files rest meanwhile, and are used at the start and at the end; ``open`` and ``create``
move no content. LOG lies on the node's own disk: one JSON line per change of an operation's result, and a summary at
the end, which also goes to standard output. Needs nothing but Python.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import sys
import time
from pathlib import Path


class Watch:
    """Counts what happened to each operation."""

    def __init__(self, log) -> None:
        self.log = log
        self.started = time.monotonic()
        self.last = {}
        self.count = {}
        self.errors = {}
        self.slowest = {}
        self.at = {}

    def do(self, name, operation) -> None:
        """Run one operation and note its result, its duration, and when its result changed."""
        before = time.monotonic()
        try:
            operation()
            result = "ok"
        except OSError as error:
            result = errno.errorcode.get(error.errno, str(error.errno))
        now = time.monotonic()
        self.count[name] = self.count.get(name, 0) + 1
        if result != "ok":
            self.errors.setdefault(name, {}).setdefault(result, 0)
            self.errors[name][result] += 1
        self.slowest[name] = max(self.slowest.get(name, 0), round(now - before, 2))
        if self.last.get(name) != result:
            self.last[name] = result
            self.note(at=round(before - self.started, 1), wall=round(time.time(), 1), op=name, result=result)

    def all(self, operations) -> None:
        """One after the other."""
        for name, operation in operations.items():
            self.do(name, operation)

    def note(self, **what) -> None:
        self.log.write(json.dumps(what) + "\n")
        self.log.flush()


def main(seconds: float, folder: str, log, *, paths: bool) -> dict:
    """Work until ``seconds`` are over; what happened."""
    job = os.environ.get("SLURM_JOB_ID", "0")
    watch = Watch(log)
    buffer = mmap.mmap(-1, 4096)
    target = f"{folder}/watched-{job}"
    appended = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(appended, b"x" * 4096)
    os.fsync(appended)
    direct = os.O_DIRECT
    try:
        kept = os.open(target, os.O_RDONLY | direct)
    except OSError:
        direct = 0
        kept = os.open(target, os.O_RDONLY)

    def append() -> None:
        os.write(appended, b"y" * 64)
        os.fsync(appended)

    def reread() -> None:
        os.preadv(kept, [buffer], 0)

    def open_() -> None:
        fd = os.open(target, os.O_RDONLY | direct)
        try:
            if not paths:
                os.preadv(fd, [buffer], 0)
        finally:
            os.close(fd)

    def create() -> None:
        name = f"{folder}/new-{job}"
        fd = os.open(name, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            if not paths:
                os.write(fd, b"z" * 64)
        finally:
            os.close(fd)
        Path(name).unlink()

    of_files, of_paths = {"append": append, "reread": reread}, {"open": open_, "create": create}
    watch.all(of_files | of_paths)
    while time.monotonic() - watch.started < seconds:
        began = time.monotonic()
        watch.all(of_paths if paths else of_files | of_paths)
        time.sleep(max(0.05, 0.5 - (time.monotonic() - began)))
    watch.all(of_files)
    done = {
        "seconds": round(time.monotonic() - watch.started),
        "size": os.fstat(appended).st_size if watch.last["append"] == "ok" else None,
        "count": watch.count,
        "errors": watch.errors,
        "slowest_s": watch.slowest,
    }
    with contextlib.suppress(OSError):
        os.close(appended)
        Path(target).unlink()
    return done


if __name__ == "__main__":
    with open(sys.argv[3], "a", buffering=1) as log:
        result = main(float(sys.argv[1]), sys.argv[2], log, paths=sys.argv[4:] == ["paths"])
        log.write(json.dumps({"done": result}) + "\n")
    with contextlib.suppress(OSError):
        print(json.dumps(result))
    sys.exit(1 if result["errors"] else 0)
