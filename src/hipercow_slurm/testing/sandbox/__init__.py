"""The project's own cluster in a box: real KDC, Slurm, file servers and our programs, gone without a trace.

    with Sandbox(ticket_life="60s", renew_life="30m") as sandbox:
        sandbox.run("login", ["srun", "-N2", "hostname"], user="alice")

Needs root and the packages of tools/apt-packages.txt. README.md in this folder tells how it works.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hipercow_slurm.errors import RequestError, UnavailableError
from hipercow_slurm.testing.sandbox import control, launch, supervisor
from hipercow_slurm.testing.sandbox.control import ControlError, Service
from hipercow_slurm.testing.sandbox.enter import CommandError, Entrance
from hipercow_slurm.testing.sandbox.init import INFO
from hipercow_slurm.testing.sandbox.layout import NODES, Options

__all__ = ["ALL", "CommandError", "ControlError", "Sandbox", "Service"]

ALL = ("signer", "auksd", "api", "agent")
START_S, KERNEL_START_S, INSTALL_S, EMULATED_START_S = 60.0, 180.0, 240.0, 420.0


class Sandbox:
    """One sandbox: ``up()`` or ``with`` starts it, ``down()`` ends it, and so does the end of this process.

    Args:
        ticket_life, renew_life: of users' tickets, as kadmin reads them ("60s", "30m", "10h", "7d").
        nodes: names of the compute nodes that are namespaces of this machine.
        programs: which of our own programs to start (ALL by default).
        kernel_nodes: names of further compute nodes, each a machine with a Linux kernel of its own (User-Mode
            Linux), Kerberized NFS and CIFS mounts, and the agent; the login node then runs sshd too. Needs the
            packages of tools/apt-packages-acceptance.txt.
        slurm: the release of Slurm to run, "24.11" or "26.05" (see slurm_tree.py); this machine's own if left out.
        packages: folder with the Debian packages (``make deb``) to install on the hosts, whose programs are then run
            from their units; by default everything runs from the source tree.
        accounting: run slurmdbd and MariaDB, too (apt-packages-acceptance.txt); slurmctld forgets jobs soon then.
        two_realms: people have a realm of their own (PEOPLE.TEST), with its own KDC; one way of trust.
        node_packages: folder of the .deb files that nodes with a kernel of their own install, themselves, at boot.
        emulated: those nodes run a stock Debian kernel in QEMU instead: as slow as it is alike.
        name: for finding it again from another process; a random one if left out.
        owned: False lets it outlive this process (``hipercow-slurm sandbox up``).

    Attributes:
        passwords: user -> Kerberos password, new in each sandbox.
        path: its folder.
    """

    def __init__(
        self,
        *,
        ticket_life: str = "10h",
        renew_life: str = "7d",
        nodes: Sequence[str] = NODES,
        programs: Sequence[str] = ALL,
        kernel_nodes: Sequence[str] = (),
        slurm: str | None = None,
        packages: str | Path | None = None,
        accounting: bool = False,
        node_packages: Path | None = None,
        two_realms: bool = False,
        emulated: bool = False,
        name: str | None = None,
        owned: bool = True,
    ) -> None:
        unknown = set(programs) - set(ALL)
        if unknown:
            raise RequestError(f"no program {min(unknown)!r}; there are {', '.join(ALL)}")
        self.options = Options(
            ticket_life,
            renew_life,
            tuple(nodes),
            tuple(programs),
            tuple(kernel_nodes),
            slurm or "",
            str(packages or ""),
            accounting,
            str(node_packages or ""),
            two_realms,
            emulated,
        )
        if kernel_nodes and slurm:
            raise RequestError("nodes with a kernel of their own run this machine's Slurm")
        self.name = name
        self.passwords: dict[str, str] = {}
        self._owned = owned
        self._path: Path | None = None
        self._entrance: Entrance | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._started: list[subprocess.Popen[Any]] = []

    @classmethod
    def attach(cls, name: str) -> Sandbox:
        """The running sandbox of that name, started by whomever.

        Raises:
            UnavailableError: there is none.
        """
        root = supervisor.folder(name)
        if not (root / INFO).exists() or not supervisor.alive(root):
            raise UnavailableError(f"no sandbox {name!r} is up", code="no-sandbox", hint="hipercow-slurm sandbox up")
        sandbox = cls(name=name, owned=False)
        sandbox._attach(root)
        return sandbox

    @property
    def path(self) -> Path:
        """Its folder on this machine."""
        if self._path is None:
            raise RuntimeError("this sandbox is not up")
        return self._path

    def __enter__(self) -> Sandbox:
        return self.up()

    def __exit__(self, *_: object) -> None:
        self.down()

    def up(self, progress: Callable[[str], None] = lambda name: None) -> Sandbox:
        """Start everything and wait until every service is ready.

        Args:
            progress: called with the name of each thing that became ready.

        Raises:
            ConfigError: not root, or a package or the wanted Slurm is missing.
            UnavailableError: a service did not start; the message has the end of its log.
        """
        launch.check_machine(self.options)
        supervisor.sweep()
        spec = {
            "name": self.name,
            "owner": os.getpid(),
            "owned": self._owned,
            "options": asdict(self.options),
        }
        self._supervisor = subprocess.Popen(
            [sys.executable, "-m", "hipercow_slurm.testing.sandbox", json.dumps(spec)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
        )
        try:
            self._attach(self._follow(self._supervisor, progress))
        except BaseException:
            self.down()
            raise
        return self

    def _follow(self, process: subprocess.Popen[bytes], progress: Callable[[str], None]) -> Path:
        """Read progress until the sandbox is up; its folder."""
        root: Path | None = None
        options = self.options
        more_s = (
            (KERNEL_START_S, bool(options.kernel_nodes)),
            (INSTALL_S, bool(options.packages)),
            (EMULATED_START_S, options.emulated),
        )
        patience_s = START_S + sum(seconds for seconds, wanted in more_s if wanted)
        for event in launch.events(process, patience_s):
            match event:
                case {"event": "folder", "path": path}:
                    root = Path(path)
                case {"event": "ready", "name": name}:
                    progress(name)
                case {"event": "up"} if root is not None:
                    return root
                case {"event": "failed", "why": why}:
                    if os.environ.get("HIPERCOW_SLURM_TRACEBACK"):
                        print(event.get("trace", ""), file=sys.stderr)
                    raise UnavailableError(f"the sandbox did not come up: {why}", code="sandbox-failed")
        raise UnavailableError("the sandbox ended while it came up", code="sandbox-failed")

    def _attach(self, root: Path) -> None:
        info = json.loads((root / INFO).read_text())
        self._path = root
        self._entrance = Entrance.of(info)
        self.passwords = dict(info["passwords"])
        self.options = Options.from_json(info["options"])

    def down(self) -> None:
        """End everything and wait until nothing is left; harmless on a sandbox that is not up."""
        if self._path is not None:
            with contextlib.suppress(ControlError):
                control.ask(self._path, op="down", timeout_s=5)
        for started in self._started:
            # The kernel keeps a pid namespace until every dead member is waited for, and these are our children.
            started.kill()
            started.wait()
        self._started.clear()
        process, self._supervisor = self._supervisor, None
        if process is not None:
            if self._path is None:
                process.terminate()
            process.wait(30)
            if process.stdout is not None:
                process.stdout.close()
        deadline = time.monotonic() + 30
        while self._path is not None and self._path.exists():
            if time.monotonic() > deadline:
                raise UnavailableError(f"the sandbox's folder {self._path} is still there", code="sandbox-stuck")
            time.sleep(0.01)
        self._path = self._entrance = None

    def run(
        self,
        host: str,
        argv: Sequence[str],
        user: str = "root",
        env: Mapping[str, str] | None = None,
        input: str | None = None,
        timeout: float = 60,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host as a user, in that user's home, with a login's environment plus ``env``.

        Raises:
            CommandError: it failed and ``check`` is set.
            subprocess.TimeoutExpired: not done within ``timeout`` seconds; it has been killed.
        """
        result = self._inside().run(host, argv, user, env, input, timeout)
        if check and result.returncode != 0:
            raise CommandError(f"{user}@{host}", result)
        return result

    def popen(
        self,
        host: str,
        argv: Sequence[str],
        user: str = "root",
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.Popen[Any]:
        """Start a command like ``run``; ``options`` are those of subprocess.Popen."""
        process = self._inside().popen(host, argv, user, env, **options)
        self._started = [known for known in self._started if known.poll() is None] + [process]
        return process

    def read(self, host: str, path: str) -> str:
        """A file as root on that host sees it.

        Raises:
            CommandError: it cannot be read.
        """
        return self.run(host, ["cat", path]).stdout

    def service(self, name: str) -> Service:
        """One service, to stop, kill, pause, start or look at.

        Raises:
            KeyError: no service of that name.
        """
        return Service(self.path, name)

    def status(self) -> list[dict[str, Any]]:
        """One row per service: name, host, user, pid, state, exit_code."""
        return list(control.ask(self.path, op="status")["services"])

    def tail_logs(self, lines: int = 15) -> str:
        """The end of every log, for the message of a failed test."""
        parts = []
        for path in sorted((self.path / "log").glob("*.log")):
            text = path.read_text(errors="replace").splitlines()
            if text:
                parts.append("\n".join([f"==> {path.stem} <==", *text[-lines:]]))
        return "\n".join(parts)

    def _inside(self) -> Entrance:
        if self._entrance is None:
            raise RuntimeError("this sandbox is not up")
        return self._entrance
