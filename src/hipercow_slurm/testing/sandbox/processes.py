"""Starting processes on hosts and learning of their end, as the first process of a pid namespace must.

Process 1 inherits every orphan of the sandbox and has to reap them all, so nothing here uses ``subprocess``,
whose own waiting would compete with that.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from hipercow_slurm.testing.sandbox.namespaces import HostNamespaces


def on_host(host: HostNamespaces, holder: int | str = 1) -> list[str]:
    """What to put before a command to run it on a host; ``holder`` is the process that has the descriptors."""
    return [
        "/usr/bin/nsenter",
        f"--mount=/proc/{holder}/fd/{host.mount}",
        f"--uts=/proc/{holder}/fd/{host.uts}",
    ]


def as_user(user: str) -> list[str]:
    """What to put before a command to run it as ``user`` with that user's groups and nothing of root's."""
    if user == "root":
        return []
    return ["/usr/bin/setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]


class Processes:
    """The children of this process. Needs a running event loop; make one per process.

    ``adopt(pid)`` makes a future for the exit status of a child that was forked before.
    """

    def __init__(self) -> None:
        self._exits: dict[int, asyncio.Future[int]] = {}
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def start(self, argv: Sequence[str], env: Mapping[str, str], log: Path) -> tuple[int, asyncio.Future[int]]:
        """Start a process in a session of its own with its output appended to ``log``; pid and future exit code.

        Raises:
            OSError: it cannot be started.
        """
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            pid = os.posix_spawn(
                argv[0],
                list(argv),
                dict(env),
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD),
            )
        finally:
            os.close(output)
        return pid, self.adopt(pid)

    def adopt(self, pid: int) -> asyncio.Future[int]:
        """The future exit code of child ``pid`` (negative: died of that signal)."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._exits[pid] = future
        self._reap()
        return future

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            future = self._exits.pop(pid, None)
            if future is not None and not future.done():
                future.set_result(os.waitstatus_to_exitcode(status))
