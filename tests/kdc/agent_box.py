"""A real agent process with its files under one folder, for tests to ask, stop and kill."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auksd_box import Auksd, login, make_realm

from hipercow_slurm.client.auks import Server
from hipercow_slurm.client.auks_blocking import BlockingAuksClient
from hipercow_slurm.krb5 import ccache as ccaches
from hipercow_slurm.testing.realm import Realm

START_S = 15.0
# Says what it was asked by whoever runs it, so that a test can ask as another user.
ASK = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(sys.argv[2].encode()+b'\\n'); print(s.makefile().readline(),end='')"  # noqa: E501


class Agent:
    """One node: ``tmp`` is its /tmp. ``settings`` go into section [agent]."""

    def __init__(self, folder: Path, caches: Sequence[Server], **settings: object) -> None:
        self.folder = folder
        self.tmp = folder / "tmp"
        folder.mkdir(exist_ok=True)
        self.tmp.mkdir()
        self.tmp.chmod(0o1777)
        self.socket = folder / "agent.sock"
        self.process: subprocess.Popen[bytes] | None = None
        values: dict[str, object] = {
            "socket": str(self.socket),
            "ccache": f"{self.tmp}/krb5cc_%u_%j",
            "state_dir": str(folder / "state"),
            "principal": "host/node.test@REALM.TEST",
            "minimum_uid": 2,
            "poll_s": 2.0,
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in (values | settings).items()]
        servers = [f'{{ host = "{one.host}", port = {one.port}, principal = "{one.principal}" }}' for one in caches]
        self.config = folder / "agent.toml"
        self.config.write_text("[agent]\n" + "\n".join(lines) + f"\n[cache]\nservers = [{', '.join(servers)}]\n")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        path = self.folder / "agent.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def lines(self, event: str) -> list[str]:
        return [line for line in self.log.splitlines() if re.search(rf"\bevent={re.escape(event)}(\s|$)", line)]

    def path(self, uid: int, job_id: int) -> Path:
        return self.tmp / f"krb5cc_{uid}_{job_id}"

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self.tmp.iterdir())

    def launch(self) -> subprocess.Popen[bytes]:
        with (self.folder / "agent.log").open("ab") as log:
            command = [sys.executable, "-m", "hipercow_slurm", "agent", "--config", str(self.config)]
            return subprocess.Popen(command, stdout=log, stderr=log)

    def start(self) -> Agent:
        already = len(self.lines("agent.ready"))
        self.process = self.launch()
        process = self.process

        def ready() -> bool:
            assert process.poll() is None, f"the agent ended with {process.returncode}:\n{self.log}"
            return len(self.lines("agent.ready")) > already

        until("the agent is ready", ready, START_S)
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return self.process.wait(10)

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def __enter__(self) -> Agent:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop(signal.SIGKILL)

    def ask(self, request: str, timeout_s: float = 10.0) -> str:
        """One request as root, as the plugin does; the reply without its newline."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(timeout_s)
            sock.connect(str(self.socket))
            sock.sendall(request.encode() + b"\n")
            return sock.makefile().readline().rstrip("\n")

    def ask_as(self, uid: int, request: str) -> str:
        command = [sys.executable, "-I", "-c", ASK, str(self.socket), request]
        done = subprocess.run(command, user=uid, group=uid, extra_groups=[], capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done.stderr
        return done.stdout.rstrip("\n")

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ask("status"))
        return found

    def proc(self, name: str, key: str) -> int:
        """A number of /proc/PID/``name``."""
        text = Path(f"/proc/{self.pid}/{name}").read_text()
        match = re.search(rf"^{key}:\s+(\d+)", text, flags=re.MULTILINE)
        assert match, text
        return int(match[1])


def until(what: str, check: Callable[[], object], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        time.sleep(0.02)


def as_user(uid: int, *command: str, ccache: Path) -> subprocess.CompletedProcess[str]:
    """Run one of MIT's tools as a job of ``uid`` would."""
    environment = {"PATH": "/usr/bin:/bin", "KRB5CCNAME": f"FILE:{ccache}", "KRB5_CONFIG": os.environ["KRB5_CONFIG"]}
    return subprocess.run(
        command, user=uid, group=uid, extra_groups=[], env=environment, capture_output=True, text=True, timeout=20
    )


def endtime(ccache: Path) -> int:
    """Endtime of the TGT in a FILE ccache."""
    return ccaches.read_tgt(f"FILE:{ccache}").times.endtime


@dataclass
class Site:
    """A realm and its cache; ``folder`` has the keytabs."""

    folder: Path
    realm: Realm
    auksd: Auksd

    def login(self, user: str) -> None:
        """As the API or the uploader does."""
        BlockingAuksClient([self.auksd.server]).add(login(self.folder, user))

    def agent(self, name: str, **settings: object) -> Agent:
        return Agent(self.folder / name, [self.auksd.server], **{"keytab": str(self.folder / "node.keytab")} | settings)


def make_site(**realm_options: str) -> Iterator[Site]:
    """One at a time: this process lives in its realm. The tests' users reach it (not so pytest's own folders)."""
    with tempfile.TemporaryDirectory(prefix="hipercow-slurm-agent-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with make_realm(folder, **realm_options) as realm:
            (folder / "realm").chmod(0o755)
            with Auksd(folder / "auksd", folder, renew="margin_s = 1.0") as auksd:
                yield Site(folder, realm, auksd)
