"""The process on the machine's side of a sandbox: makes its folder, starts process 1, outlives it, cleans up.

    owner ------- dies --> supervisor ends process 1 and removes the folder
    supervisor -- dies --> process 1 ends everything and removes the folder
    process 1 --- dies --> the kernel ends everything, the supervisor removes the folder
    both die at once ----> the folder stays; the next sandbox on this machine removes it (``sweep``)

Run as ``python -m hipercow_slurm.testing.sandbox SPEC``, where SPEC is JSON: name, owner, options.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from hipercow_slurm.testing.sandbox import hosts, init, namespaces
from hipercow_slurm.testing.sandbox.layout import Options

PLACE = Path("/tmp")
PREFIX = "hipercow-sandbox-"
LOCK = "lock"
# What mkdtemp makes up has underscores, too.
_NAME = re.compile(r"[a-z0-9_][a-z0-9_-]{0,30}")


def folder(name: str) -> Path:
    """Where the sandbox of that name has its folder, whether it exists or not.

    Raises:
        ValueError: not a name.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name for a sandbox: small letters, digits, '-' and '_', at most 31")
    return PLACE / f"{PREFIX}{name}"


def alive(root: Path) -> bool:
    """Whether supervisor or process 1 of the sandbox in ``root`` still runs: they hold its lock."""
    try:
        fd = os.open(root / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def sweep() -> list[Path]:
    """Remove the folders of dead sandboxes; only root's own, closed folders count. Returns what was removed."""
    removed = []
    for root in PLACE.glob(f"{PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):
            found = root.lstat()
            young = time.time() - found.st_mtime < 60 and not (root / LOCK).exists()
            if found.st_uid == 0 and found.st_mode & 0o170077 == 0o040000 and not young and not alive(root):
                shutil.rmtree(root, ignore_errors=True)
                removed.append(root)
    return removed


def main(spec: dict[str, Any]) -> None:
    """Run one sandbox to its end."""
    root = _make_folder(spec["name"])
    try:
        _lock(root)
        init.report(event="folder", path=str(root))
        _let_go(2, str(root / "supervisor.log"))
        _supervise(root, spec)
    finally:
        _remove(root)


def _make_folder(name: object) -> Path:
    if isinstance(name, str):
        root = folder(name)
        try:
            root.mkdir(mode=0o700)
        except FileExistsError:
            raise FileExistsError(f"there is a sandbox {name!r} already ({root})") from None
        return root
    return Path(tempfile.mkdtemp(prefix=PREFIX, dir=PLACE))


def _lock(root: Path) -> None:
    """Take the lock for as long as this process or process 1 lives; it never exists without being held."""
    new = root / f"{LOCK}.new"
    fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    new.rename(root / LOCK)


def _supervise(root: Path, spec: dict[str, Any]) -> None:
    """Start process 1 and wait until it ends, its owner dies, or someone asks us to end."""
    options = Options.from_json(spec["options"])
    program = hosts.find_program()
    ours, theirs = socket.socketpair()
    namespaces.unshare(namespaces.NEWPID)
    pid = os.fork()
    if pid == 0:
        ours.close()
        init.main(root, options, program, theirs)
    theirs.close()
    _let_go(1)  # only process 1 reports from here on: its end must be the end of the report
    try:
        _wait(ours, spec)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _reap(pid)


def _let_go(fd: int, to: str = "/dev/null") -> None:
    """Close what we have from whoever started us, who may wait for its end."""
    null = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, fd)
    os.close(null)


def _wait(process_1: socket.socket, spec: dict[str, Any]) -> None:
    poll = select.poll()
    poll.register(process_1, select.POLLIN)
    owner = None
    if isinstance(spec["owner"], int):
        try:
            owner = os.pidfd_open(spec["owner"])
        except ProcessLookupError:
            return
        if os.getppid() != spec["owner"]:
            return  # it died before we looked, and the number may be someone else's by now
        poll.register(owner, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == owner:
                return
            if not process_1.recv(16):
                return
            if owner is not None and not spec["owned"]:
                poll.unregister(owner)  # up, and to stay when whoever started it has left
                os.close(owner)
                owner = None


def _reap(pid: int) -> None:
    """Wait for process 1, but not forever: a dead process that its parent outside never waits for holds it."""
    deadline = time.monotonic() + 2
    while os.waitpid(pid, os.WNOHANG) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)


def _remove(root: Path) -> None:
    """Remove the folder; processes that are just dying may still write to it for a moment."""
    for _ in range(50):
        shutil.rmtree(root, ignore_errors=True)
        if not root.exists():
            return
        time.sleep(0.05)


def _end(*_: object) -> None:
    sys.exit(0)  # through the finally clauses, which clean up


def run() -> None:
    """The program: one sandbox as the JSON in the first argument says."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        main(json.loads(sys.argv[1]))
    except Exception as problem:
        init.report(event="failed", why=str(problem), trace=traceback.format_exc())
        sys.exit(1)
