"""The daemons that are measured: ours, and the one named by PEER_AUKSD."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from hipercow_slurm.krb5.ccache import file_v4
from hipercow_slurm.store.envelope import read_key_file
from hipercow_slurm.store.sqlite import SqliteStore
from hipercow_slurm.testing.bench import process
from hipercow_slurm.testing.bench.site import ACL, FIRST_UID, SERVICE, Site
from hipercow_slurm.testing.ports import free_port
from hipercow_slurm.values import KrbCred

START_S = 300.0
STOP_S = 30.0
CHUNK = 2000  # credentials given to the store at once: it makes large transactions of them

OURS_TOML = """[auksd]
listen = "127.0.0.1:{port}"
principal = "{service}"
keytab = "{keytab}"
acl = "{folder}/auksd.acl"
store = "{folder}/credentials.db"
key_file = "{folder}/auksd.key"
{extra}
[renew]
{renew}
"""

# What its own example has, and its defaults: ten workers, replay cache on.
PEER_CONF = """common {{
    PrimaryHost = "localhost" ;
    PrimaryAddress = "127.0.0.1" ;
    PrimaryPort = {port} ;
    PrimaryPrincipal = "{service}" ;
}}
auksd {{
    PrimaryKeytab = "{keytab}" ;
    CacheDir = "{folder}/cache" ;
    ACLFile = "{folder}/auks.acl" ;
    LogFile = "{folder}/auksd.log" ;
    LogLevel = 1 ;
}}
"""


class Process:
    """A daemon as a child process, with its log in ``folder``."""

    name = ""

    def __init__(self, site: Site, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.site = site
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """What to run."""
        raise NotImplementedError

    def fill(self, count: int) -> None:
        """Give it the credentials of the first ``count`` accounts, while it does not run."""
        raise NotImplementedError

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.folder / "log"

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> float:
        """Start it; seconds until it takes connections.

        Raises:
            RuntimeError: it ended, or does not listen in time.
        """
        env = {**os.environ, **self.site.realm.env, **self.site.tools.env(), "KRB5RCACHEDIR": str(self.folder)}
        begin = time.monotonic()
        with self.log.open("ab") as log:
            command = self.site.tools.inside(self.command())
            self._process = subprocess.Popen(command, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        while not _listens(self.port):
            if self._process.poll() is not None or time.monotonic() - begin > START_S:
                self.stop()
                raise RuntimeError(f"{self.name} did not start: {self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.005)
        return time.monotonic() - begin

    def stop(self) -> None:
        """End it."""
        started, self._process = self._process, None
        if started is None:
            return
        started.terminate()
        try:
            started.wait(STOP_S)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()

    def cpu_s(self) -> float:
        """CPU seconds so far."""
        return process.cpu_s(self.pid)


class Ours(Process):
    """``hipercow-slurm auksd``; ``extra`` is lines of section [auksd], ``renew`` of that one."""

    name = "ours"

    def __init__(self, site: Site, folder: Path, *, extra: str = "", renew: str = "") -> None:
        super().__init__(site, folder)
        (folder / "auksd.acl").write_text(ACL)
        key = folder / "auksd.key"
        key.touch(mode=0o600)
        key.write_text(secrets.token_hex(32))
        values = {"port": self.port, "service": SERVICE, "keytab": site.folder / "auksd.keytab"}
        (folder / "auksd.toml").write_text(OURS_TOML.format(**values, folder=folder, extra=extra, renew=renew))

    def command(self) -> list[str]:
        """See ``Process``."""
        return [sys.executable, "-m", "hipercow_slurm", "auksd", "--config", str(self.folder / "auksd.toml")]

    def fill(self, count: int) -> None:
        """Put credentials into the store through the daemon's own store, encrypted with its key."""
        self.put((FIRST_UID + number, self.site.cred(number)) for number in range(count))

    def put(self, creds: Iterable[tuple[int, KrbCred]]) -> None:
        """Store (uid, credential) pairs while the daemon does not run."""
        asyncio.run(_put(self.folder, list(creds)))


class Peer(Process):
    """The daemon at ``PEER_AUKSD``, configured as its own example and defaults say."""

    name = "peer"

    def __init__(self, site: Site, folder: Path, program: str) -> None:
        super().__init__(site, folder)
        self.program = program
        (folder / "cache").mkdir()
        (folder / "auks.acl").write_text(ACL)
        values = {"port": self.port, "service": SERVICE, "keytab": site.folder / "auksd.keytab"}
        (folder / "auks.conf").write_text(PEER_CONF.format(**values, folder=folder))

    def command(self) -> list[str]:
        """See ``Process``."""
        return [self.program, "-F", "-f", str(self.folder / "auks.conf")]

    def fill(self, count: int) -> None:
        """Write the credential files it reads when it starts."""
        for number in range(count):
            (self.folder / f"cache/aukscc_{FIRST_UID + number}").write_bytes(file_v4(self.site.cred(number)))


def peer_program() -> str | None:
    """The program at PEER_AUKSD, if the person wants one beside ours.

    Raises:
        RuntimeError: it is no program.
    """
    program = os.environ.get("PEER_AUKSD")
    if program and not os.access(program, os.X_OK):
        raise RuntimeError(f"PEER_AUKSD={program} is not a program")
    return program or None


def makers(site: Site) -> dict[str, Callable[[Path], Process]]:
    """How to make each daemon of this run, by name."""
    found: dict[str, Callable[[Path], Process]] = {"ours": lambda folder: Ours(site, folder)}
    if program := peer_program():
        found["peer"] = lambda folder: Peer(site, folder, program)
    return found


async def _put(folder: Path, creds: list[tuple[int, KrbCred]]) -> None:
    store = SqliteStore(folder / "credentials.db", read_key_file(folder / "auksd.key"))
    try:
        for begin in range(0, len(creds), CHUNK):
            await asyncio.gather(
                *(store.put(uid, cred, lambda old, new: True) for uid, cred in creds[begin : begin + CHUNK])
            )
    finally:
        await store.close()


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
