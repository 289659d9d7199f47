"""The control socket of a sandbox: one JSON object per line and direction, in a folder only root can enter.

{"op": "status"}                                       -> {"ok": true, "services": [...]}
{"op": "service", "name": "kdc", "action": "stop"}     -> {"ok": true} | {"ok": false, "error": "..."}
{"op": "down"}                                         -> {"ok": true}, and everything ends
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

from hipercow_slurm.testing.sandbox.manager import Manager, ServiceError

SOCKET = "control.sock"
REQUEST_S = 60.0


class ControlError(Exception):
    """The sandbox refused, or is not there any more."""


async def serve(root: Path, manager: Manager, down: asyncio.Event) -> None:
    """Listen on the control socket; ``down`` is set when someone asks for the end."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                writer.write(json.dumps(await _answer(manager, down, line)).encode() + b"\n")
                await writer.drain()
        writer.close()

    await asyncio.start_unix_server(talk, path=str(root / SOCKET))


async def _answer(manager: Manager, down: asyncio.Event, line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
        match request["op"]:
            case "status":
                return {"ok": True, "services": manager.status()}
            case "service":
                await manager.act(request["name"], request["action"])
                return {"ok": True}
            case "down":
                # The answer should leave before the process does.
                asyncio.get_running_loop().call_later(0.05, down.set)
                return {"ok": True}
            case other:
                return {"ok": False, "error": f"no operation {other!r}"}
    except (ServiceError, ValueError, KeyError, OSError) as error:
        return {"ok": False, "error": str(error)}


def ask(root: Path, timeout_s: float = REQUEST_S, **request: Any) -> dict[str, Any]:
    """Send one request and return its answer.

    Raises:
        ControlError: refused, no sandbox there, or no answer in time.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        try:
            sock.connect(os.fspath(root / SOCKET))
            sock.sendall(json.dumps(request).encode() + b"\n")
            line = sock.makefile("rb").readline()
        except OSError as error:
            raise ControlError(f"the sandbox in {root} does not answer: {error}") from error
    if not line:
        raise ControlError(f"the sandbox in {root} ended before it answered")
    answer: dict[str, Any] = json.loads(line)
    if not answer.pop("ok"):
        raise ControlError(answer["error"])
    return answer


class Service:
    """One service of a running sandbox, by name ("kdc", "slurmctld", "slurmd@c1", "agent@c2", "api" ...).

    Every action waits for its effect and raises ControlError, with the end of the log, if there is none.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self._root = root
        self._row()  # an unknown name is an error here, not at first use

    def start(self) -> None:
        """Start it and wait until it is ready."""
        self._act("start")

    def stop(self) -> None:
        """SIGTERM, and wait for its end; an error if it needed SIGKILL after 10 s."""
        self._act("stop")

    def kill(self) -> None:
        """SIGKILL to its main process, and wait for its end."""
        self._act("kill")

    def restart(self) -> None:
        """Stop (if it runs) and start."""
        self._act("restart")

    def pause(self) -> None:
        """SIGSTOP: its ports stay open and nothing answers."""
        self._act("pause")

    def resume(self) -> None:
        """Undo pause()."""
        self._act("resume")

    def log(self) -> str:
        """What it has printed since the sandbox is up, over all its restarts."""
        with contextlib.suppress(FileNotFoundError):
            return (self._root / "log" / f"{self.name}.log").read_text(errors="replace")
        return ""

    @property
    def pid(self) -> int | None:
        """Its process id as commands inside the sandbox see it; None while it does not run."""
        pid = self._row()["pid"]
        return None if pid is None else int(pid)

    @property
    def alive(self) -> bool:
        """Whether it runs (paused counts)."""
        return self.pid is not None

    def _act(self, action: str) -> None:
        ask(self._root, op="service", name=self.name, action=action)

    def _row(self) -> dict[str, Any]:
        rows = ask(self._root, op="status")["services"]
        for row in rows:
            if row["name"] == self.name:
                return dict(row)
        raise KeyError(f"no service {self.name!r}; there are {', '.join(row['name'] for row in rows)}")
