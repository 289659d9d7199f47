"""Several API processes behind one port, and the one that looks after them.

Each of them is a whole API with a listening socket of its own (SO_REUSEPORT: the kernel shares connections out);
what they must know together is in the database. Rule 1: the supervisor serves nobody and holds the address, so that
nobody else gets it while a worker is started anew. Rule 2: a worker that dies is replaced, and one that cannot start
ends all of it with its error. Rule 3: no worker outlives the supervisor, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from hipercow_slurm import daemon, log
from hipercow_slurm.api import server
from hipercow_slurm.api.config import Config
from hipercow_slurm.errors import ConfigError

_READY_S = 60.0
_END_S = 15.0
_AGAIN_S = 1.0


async def supervise(config_path: Path, conf: Config, stop: asyncio.Event) -> None:
    """Run ``[api] processes`` workers until ``stop`` is set. HUP goes on to each of them.

    Raises:
        ConfigError: the address cannot be used, or a worker does not start (its log line says why).
    """
    address = server.bound(conf.api.listen, shared=True)
    workers = [_Worker(config_path, number) for number in range(conf.api.processes)]

    def reload() -> None:
        for one in workers:
            one.reload()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
    stopping = asyncio.create_task(stop.wait())
    tasks = [asyncio.create_task(one.run()) for one in workers]
    try:
        async with asyncio.timeout(_READY_S):
            starting = asyncio.create_task(_all_started(workers))
            await asyncio.wait([starting, stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        if starting.done() and not stop.is_set():
            daemon.ready()
            log.get().info("api.workers", processes=len(workers))
        starting.cancel()
        await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    except TimeoutError:
        raise ConfigError(f"the API's processes did not start within {_READY_S:.0f} s") from None
    finally:
        stopping.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        address.close()


async def _all_started(workers: list[_Worker]) -> None:
    for one in workers:
        await one.started.wait()


async def _readable(pipe: int) -> None:
    """Wait until there is something to read, or the end."""
    loop, answered = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pipe, answered.set)
    try:
        await answered.wait()
    finally:
        loop.remove_reader(pipe)


class _Worker:
    """One process, started anew when it dies."""

    def __init__(self, config_path: Path, number: int) -> None:
        self._config_path = config_path
        self._number = number
        self._process: asyncio.subprocess.Process | None = None
        self.started = asyncio.Event()
        self._serves = False
        self._reload_due = False

    async def run(self) -> None:
        """Keep the process running until cancelled, then end it.

        Raises:
            ConfigError: it ended by itself before it ever served.
        """
        try:
            while True:
                await self._once()
                await asyncio.sleep(_AGAIN_S)
        finally:
            await self._end()

    async def _once(self) -> None:
        """Start the process and wait for its end."""
        self._serves = self._reload_due = False
        reading, writing = os.pipe()
        command = (sys.executable, "-P", "-m", "hipercow_slurm", "api", "--config", str(self._config_path))
        try:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *command,
                    "--worker",
                    f"{self._number}:{writing}",
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=[writing],
                )
            finally:
                os.close(writing)
            await _readable(reading)
            if os.read(reading, 1):  # else it closed the pipe by its end
                self.started.set()
                self._serves = True
                if self._reload_due:
                    self.signal(signal.SIGHUP)
        finally:
            os.close(reading)
        status = await self._process.wait()
        if not self.started.is_set() and status >= 0:  # killed, it may do better the next time
            raise ConfigError(f"API process {self._number} ended with {status} before it served")
        log.get().error("api.worker-died", number=self._number, status=status)

    def reload(self) -> None:
        """HUP, which ends a process that is not ready for it; one that starts may have read the old files already."""
        if self._serves:
            self.signal(signal.SIGHUP)
        else:
            self._reload_due = True

    def signal(self, number: int) -> None:
        """Pass a signal on."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _end(self) -> None:
        if self._process is None or self._process.returncode is not None:
            return
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_END_S):
                await self._process.wait()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self._process.wait()


class Place:
    """A worker's place: its number, and the pipe to its supervisor."""

    def __init__(self, text: str) -> None:
        number, _, pipe = text.partition(":")
        self.number, self._pipe = int(number), int(pipe)
        daemon.die_with_parent(signal.SIGTERM)
        os.set_inheritable(self._pipe, False)

    def ready(self) -> None:
        """This worker answers requests now."""
        os.write(self._pipe, b"1")
        os.close(self._pipe)
