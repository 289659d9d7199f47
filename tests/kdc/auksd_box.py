"""A real auksd process in a real realm, for tests to talk to, stop and kill.

AUKSD_EXTRA="processes = 2" pytest tests/kdc/test_auksd*.py runs every daemon of these tests with that line in [auksd].
The accounts are ones every Debian has: who owns a credential is decided by getpwnam, and that is not replaced here.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hipercow_slurm.client.auks import AuksClient, Limits, Server
from hipercow_slurm.krb5 import creds
from hipercow_slurm.testing.ports import free_port
from hipercow_slurm.testing.realm import Realm
from hipercow_slurm.values import KrbCred

PASSWORD = "pass word 1"
SERVICE = "auks/head.test"
USERS = ("games", "news", "backup")
NOBODY = "nosuchaccount"  # a principal without a local account
START_S = 60.0
EVERYWHERE = os.environ.get("AUKSD_EXTRA", "")

ACL = r"""
rule { principal = ^host/[a-z0-9.]+@REALM\.TEST$ ; host = * ; role = admin ; }
rule { principal = ^backup@REALM\.TEST$ ; host = * ; role = guest ; }
rule { principal = ^(games|news|nosuchaccount)@REALM\.TEST$ ; host = * ; role = user ; }
"""


def uid_of(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


@contextlib.contextmanager
def make_realm(folder: Path, **options: Any) -> Iterator[Realm]:
    """A realm with the users, a node and the cache's service; keytabs beside it."""
    with Realm(folder / "realm", **options) as realm:
        for user in (*USERS, NOBODY, "stranger"):
            realm.add_user(user, PASSWORD)
        for service in (SERVICE, "host/node.test"):
            realm.add_service(service)
        realm.keytab(folder / "auksd.keytab", SERVICE)
        realm.keytab(folder / "node.keytab", "host/node.test")
        with realm.activated():
            yield realm


def login(folder: Path, user: str, **options: int) -> KrbCred:
    """A TGT of ``user``."""
    keytab = str(folder / "auksd.keytab")
    return creds.password_tgt(user, bytearray(PASSWORD.encode()), keytab=keytab, service=SERVICE, **options)


class Auksd:
    """One auksd: its files under ``folder``, its keytab from ``realm_folder``.

    Args:
        extra: further lines for section [auksd]; ``renew``: lines of section [renew].
        store: a PostgreSQL URL, or a path; ``key_file``: one that exists, to be shared with other instances.
    """

    def __init__(
        self,
        folder: Path,
        realm_folder: Path,
        *,
        extra: str = "",
        renew: str = "",
        store: str | None = None,
        key_file: Path | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "auksd.acl").write_text(ACL)
        self.key_file = key_file or folder / "auksd.key"
        if not self.key_file.exists():
            self.key_file.write_text(os.urandom(32).hex() + "\n")
            self.key_file.chmod(0o600)
        self.port = free_port()
        self.config = folder / "auksd.toml"
        self.config.write_text(
            f"""[auksd]
listen = "127.0.0.1:{self.port}"
principal = "{SERVICE}@REALM.TEST"
keytab = "{realm_folder / "auksd.keytab"}"
acl = "{folder / "auksd.acl"}"
store = "{store or folder / "creds.db"}"
key_file = "{self.key_file}"
{extra}
{EVERYWHERE}
[renew]
{renew}
"""
        )

    @property
    def log(self) -> str:
        return (self.folder / "auksd.log").read_text(errors="replace")

    @property
    def server(self) -> Server:
        return Server("127.0.0.1", f"{SERVICE}@REALM.TEST", self.port)

    def client(self, **limits: float) -> AuksClient:
        return AuksClient([self.server], limits=Limits(**{"rounds": 1, "read_s": 5.0, **limits}))

    def start(self) -> Auksd:
        """Start it and wait until it listens."""
        already = len(self.lines("auksd.listening"))
        with (self.folder / "auksd.log").open("ab") as log:
            command = [sys.executable, "-m", "hipercow_slurm", "auksd", "--config", str(self.config)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        end = time.monotonic() + START_S
        while len(self.lines("auksd.listening")) == already:
            assert self.process.poll() is None, f"auksd ended with {self.process.returncode}:\n{self.log}"
            assert time.monotonic() < end, f"auksd does not listen after {START_S} s:\n{self.log}"
            time.sleep(0.01)
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return self.process.wait(30)

    def fronts(self, number: int = 2) -> list[int]:
        """The pids of its front processes, once there are so many that serve."""
        assert self.process is not None
        pid, end = self.process.pid, time.monotonic() + START_S
        while True:
            found = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
            serving = [one for one in found if self._listens(one)]
            if len(serving) == number:
                return serving
            assert time.monotonic() < end, f"{serving} of {found} serve:\n{self.log}"
            time.sleep(0.02)

    def _listens(self, pid: int) -> bool:
        """It has come so far as to watch the listening socket, which it was born with."""
        with contextlib.suppress(OSError):
            inode = next(
                line.split()[9]
                for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
                if line.split()[3] == "0A" and int(line.split()[1].split(":")[1], 16) == self.port
            )
            handles = [one for one in Path(f"/proc/{pid}/fd").iterdir() if one.readlink().name == f"socket:[{inode}]"]
            for info in Path(f"/proc/{pid}/fdinfo").iterdir():
                text = info.read_text()
                if any(re.search(rf"^tfd:\s+{one.name}\s", text, re.MULTILINE) for one in handles):
                    return True
        return False

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def lines(self, event: str, **fields: object) -> list[str]:
        """Log lines of an event with these fields."""
        if not (self.folder / "auksd.log").exists():
            return []
        wanted = [f"event={event}", *(f"{key}={value}" for key, value in fields.items())]
        return [
            line for line in self.log.splitlines() if all(re.search(rf"\b{re.escape(w)}(\s|$)", line) for w in wanted)
        ]

    def __enter__(self) -> Auksd:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop(signal.SIGKILL)
