"""A throw-away PostgreSQL server on a unix socket, for tests: initdb, start, stop, kill, one database each.

Debian's postgresql-15, run as its own user `postgres` when we are root (initdb refuses root).
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

ACCOUNT = "postgres"
PORT = 5432  # the socket's name only: nothing listens on TCP
START_S = 20.0


class Postgres:
    """One server under ``folder``; a context manager that starts and stops it.

    Args:
        folder: made when missing; its path must be short (a unix socket's name has 107 bytes).
        settings: lines for postgresql.conf.
    """

    def __init__(self, folder: Path, **settings: str | int) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(folder),
            "port": PORT,
            "max_connections": 100,
            "shared_buffers": "16MB",
            "timezone": "UTC",
            "lc_messages": "C",
            **settings,
        }
        self._bin = programs()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Make the cluster when there is none, start the server, wait until it answers."""
        if not self.data.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            _give(self.folder)
            self._run("initdb", "-D", str(self.data), "-A", "trust", "-U", ACCOUNT, "-E", "UTF8", "--no-locale")
            lines = [f"{name} = '{value}'\n" for name, value in self._settings.items()]
            with (self.data / "postgresql.conf").open("a") as conf:
                conf.writelines(lines)
        with (self.folder / "log").open("ab") as log:
            # Our own child, not pg_ctl's: where nobody reaps orphans, a killed one would stay and hold its pid file.
            command = self._as_account("postgres", "-D", str(self.data))
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
        end = time.monotonic() + START_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"PostgreSQL does not start:\n{self._tail()}")
            time.sleep(0.02)
        return self

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT ends it properly, SIGQUIT as if it had crashed."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(START_S)

    def kill(self) -> None:
        """kill -9 of the server's first process; the others notice and end."""
        self.stop(signal.SIGKILL)
        end = time.monotonic() + START_S
        while self._attached() and time.monotonic() < end:
            time.sleep(0.02)

    def pause(self) -> None:
        """Freeze every process of the server: connections stay, nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """End a ``pause``."""
        self._signal_all(signal.SIGCONT)

    @property
    def running(self) -> bool:
        """True if the server's first process is there."""
        return self._process is not None and self._process.poll() is None

    def database(self, *, tablespace: str = "pg_default") -> str:
        """The URL of a new, empty database."""
        name = "db" + uuid.uuid4().hex
        self.sql(f"CREATE DATABASE {name} TABLESPACE {tablespace}")
        return f"postgresql:///{name}?host={self.folder}&port={PORT}&user={ACCOUNT}"

    def sql(self, statement: str, url: str | None = None) -> str:
        """What psql prints for a statement, unaligned and without headers."""
        where = url or f"postgresql:///postgres?host={self.folder}&port={PORT}&user={ACCOUNT}"
        return self._run("psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", "-d", where, "-c", statement)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.running:
            self.stop(signal.SIGQUIT)

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            self._as_account(program, *arguments), capture_output=True, text=True, cwd="/", check=False, timeout=60
        )
        if done.returncode:
            raise RuntimeError(f"{program} ended with {done.returncode}:\n{done.stderr}\n{self._tail()}")
        return done.stdout.strip()

    def _as_account(self, program: str, *arguments: str) -> list[str]:
        command = [str(self._bin / program), *arguments]
        if os.geteuid() == 0:
            return ["setpriv", f"--reuid={ACCOUNT}", f"--regid={ACCOUNT}", "--init-groups", *command]
        return command

    def _answers(self) -> bool:
        command = self._as_account("pg_isready", "-q", "-h", str(self.folder), "-p", str(PORT))
        return subprocess.run(command, cwd="/", check=False, timeout=10).returncode == 0

    def _tail(self) -> str:
        log = self.folder / "log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else ""

    def _attached(self) -> list[int]:
        """Processes of this cluster: their working directory is its data directory."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if (entry / "cwd").readlink() == self.data and (entry / "comm").read_text().strip() == "postgres":
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in self._attached():
            os.kill(pid, number)


@contextmanager
def short_folder(prefix: str = "pg-") -> Iterator[Path]:
    """A new folder whose path is short enough for a unix socket, and which user ``postgres`` can reach."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def programs() -> Path:
    """The folder of the newest PostgreSQL here. Raises RuntimeError: none is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise RuntimeError("no PostgreSQL server is installed (Debian: postgresql)")
    return found[-1].parent


def _give(folder: Path) -> None:
    if os.geteuid() == 0:
        account = pwd.getpwnam(ACCOUNT)
        os.chown(folder, account.pw_uid, account.pw_gid)
