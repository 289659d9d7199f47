"""Starts services in the order of their needs, watches them, and does to them what the control socket asks.

States of a service: ``waiting`` (for its needs) -> ``starting`` -> ``running`` <-> ``paused``; then ``stopped`` (it
was told to end) or ``dead`` (it ended by itself or was killed). Nothing is restarted by itself: a test must see it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hipercow_slurm.testing.sandbox import layout
from hipercow_slurm.testing.sandbox.hosts import Tree
from hipercow_slurm.testing.sandbox.namespaces import HostNamespaces
from hipercow_slurm.testing.sandbox.processes import Processes, as_user, on_host
from hipercow_slurm.testing.sandbox.services import Probe, Service

STOP_S = 10.0
PROBE_EVERY_S = 0.02
_SEEN_BY_SLURMCTLD = 'sinfo -h -n "$0" -o %T | grep -Eqx "idle|mixed|allocated|completing"'


class ServiceError(Exception):
    """A service or step could not be started or stopped; the message holds the end of its log."""


@dataclass
class _Running:
    """The state of one service."""

    service: Service
    state: str = "waiting"
    pid: int = 0
    exit: asyncio.Future[int] | None = None
    exit_code: int | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    ready: asyncio.Event = field(default_factory=asyncio.Event)


class Manager:
    """All services of one sandbox.

    Args:
        services: the table.
        steps: preparation steps under way: name -> pid of the forked child that does it.
        report: called with the name of everything that became ready.
    """

    def __init__(
        self,
        tree: Tree,
        hosts: Mapping[str, HostNamespaces],
        services: tuple[Service, ...],
        steps: Mapping[str, int],
        report: Callable[[str], None],
    ) -> None:
        self._tree = tree
        self._hosts = hosts
        self._report = report
        self._processes = Processes()
        self._all = {service.name: _Running(service) for service in services}
        self._steps = {name: self._processes.adopt(pid) for name, pid in steps.items()}
        self._step_done = {name: asyncio.Event() for name in steps}

    async def start_all(self) -> None:
        """Start every service as soon as what it needs is ready; returns when all are.

        Raises:
            ServiceError: one failed; the others are left as they are.
        """
        async with asyncio.TaskGroup() as group:
            for name in self._steps:
                group.create_task(self._finish_step(name))
            for running in self._all.values():
                group.create_task(self._start_in_turn(running))

    async def act(self, name: str, action: str) -> None:
        """start, stop, kill, restart, pause or resume the service ``name``.

        Raises:
            ServiceError: unknown service or action, or it did not obey.
        """
        if name not in self._all:
            raise ServiceError(f"no service {name!r}; there are {', '.join(self._all)}")
        running = self._all[name]
        actions: dict[str, Callable[[_Running], Awaitable[None]]] = {
            "start": self._start,
            "stop": self._stop,
            "kill": self._kill,
            "restart": self._restart,
            "pause": self._pause,
            "resume": self._resume,
        }
        if action not in actions:
            raise ServiceError(f"no action {action!r}; there are {', '.join(actions)}")
        async with running.lock:
            await actions[action](running)

    def status(self) -> list[dict[str, Any]]:
        """One row per service."""
        return [
            {
                "name": name,
                "host": running.service.host,
                "user": running.service.user,
                "pid": running.pid if running.state in ("starting", "running", "paused") else None,
                "state": running.state,
                "exit_code": running.exit_code,
            }
            for name, running in self._all.items()
        ]

    async def _finish_step(self, name: str) -> None:
        code = await self._steps[name]
        if code != 0:
            raise ServiceError(f"preparing {name} failed: {self._log_end(name)}")
        self._step_done[name].set()
        self._report(name)

    async def _start_in_turn(self, running: _Running) -> None:
        for need in running.service.needs:
            if need in self._step_done:
                await self._step_done[need].wait()
            elif need in self._all:  # else: a sandbox without that program
                await self._all[need].ready.wait()
        async with running.lock:
            await self._start(running)
        self._report(running.service.name)

    async def _start(self, running: _Running) -> None:
        service = running.service
        if running.state in ("starting", "running", "paused"):
            raise ServiceError(f"{service.name} runs already, pid {running.pid}")
        argv = [*on_host(self._hosts[service.host]), *as_user(service.user), *service.argv]
        running.pid, running.exit = self._processes.start(argv, service.environment, self.log(service.name))
        running.state, running.exit_code = "starting", None
        running.exit.add_done_callback(lambda future: self._ended(running, future))
        deadline = time.monotonic() + service.start_s
        while not await self._answers(service.ready, running.pid):
            self._check_broken(service)
            if running.exit.done():
                raise ServiceError(
                    f"{service.name} ended at start with {running.exit.result()}: {self._log_end(service.name)}"
                )
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"{service.name} not ready after {service.start_s:.0f} s: {self._log_end(service.name)}"
                )
            await asyncio.sleep(PROBE_EVERY_S)
        self._check_broken(service)
        if running.state == "starting":
            running.state = "running"
        running.ready.set()

    def _ended(self, running: _Running, future: asyncio.Future[int]) -> None:
        if running.exit is not future:
            return
        running.exit_code = future.result()
        running.state = "stopped" if running.state == "stopping" else "dead"

    async def _stop(self, running: _Running) -> None:
        if running.exit is None or running.exit.done():
            return
        running.state = "stopping"
        self._signal(running, signal.SIGTERM)
        self._signal(running, signal.SIGCONT)
        try:
            await asyncio.wait_for(asyncio.shield(running.exit), STOP_S)
        except TimeoutError:
            self._signal(running, signal.SIGKILL)
            await running.exit
            raise ServiceError(
                f"{running.service.name} did not end within {STOP_S:.0f} s of SIGTERM and was killed"
            ) from None

    async def _kill(self, running: _Running) -> None:
        self._require(running)
        (self._signal_group if running.service.machine else self._signal)(running, signal.SIGKILL)
        assert running.exit is not None
        await running.exit

    async def _restart(self, running: _Running) -> None:
        await self._stop(running)
        await self._start(running)

    async def _pause(self, running: _Running) -> None:
        self._require(running)
        self._signal_group(running, signal.SIGSTOP)
        running.state = "paused"

    async def _resume(self, running: _Running) -> None:
        self._require(running)
        self._signal_group(running, signal.SIGCONT)
        running.state = "running"

    def _require(self, running: _Running) -> None:
        if running.exit is None or running.exit.done():
            raise ServiceError(f"{running.service.name} does not run ({running.state})")

    def _check_broken(self, service: Service) -> None:
        if service.broken and service.broken in self.log(service.name).read_text(errors="replace"):
            raise ServiceError(f"{service.name} came up broken: {self._log_end(service.name)}")

    def _signal(self, running: _Running, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, number)

    def _signal_group(self, running: _Running, number: signal.Signals) -> None:
        """A paused service is paused with its worker processes; job steps have groups of their own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, number)

    def log(self, name: str) -> Path:
        """The log file of a service or step."""
        return self._tree.log / f"{name}.log"

    def _log_end(self, name: str, lines: int = 25) -> str:
        with contextlib.suppress(OSError):
            text = self.log(name).read_text(errors="replace")
            return "\n" + "\n".join(text.splitlines()[-lines:])
        return "(no log)"

    async def _answers(self, probe: Probe, pid: int) -> bool:
        if probe.kind == "unix":
            return await _accepts(f"/proc/{pid}/root{probe.what}")
        if probe.kind == "tcp" or (probe.port and not _listens(probe.port)):
            return _listens(probe.port)
        argv = [*on_host(self._hosts[layout.HEAD]), "sh", "-c", _SEEN_BY_SLURMCTLD, probe.what]
        env = self._all["slurmctld"].service.environment
        _, code = self._processes.start(argv, env, self.log("probe"))
        if await code == 0:
            return True
        await asyncio.sleep(0.1)
        return False


def _listens(port: int) -> bool:
    """Whether any socket of this network namespace listens on the TCP port (/proc/net/tcp, state 0A)."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                    return True
    return False


async def _accepts(path: str) -> bool:
    try:
        _, writer = await asyncio.wait_for(asyncio.open_unix_connection(path), 1)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
