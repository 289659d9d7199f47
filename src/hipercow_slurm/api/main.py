"""``hipercow-slurm api``: start, serve until told to stop, stop."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
from pathlib import Path

from hipercow_slurm import daemon, log, metrics
from hipercow_slurm.api import app, config, processes, server, services
from hipercow_slurm.api.binding import EndPoint
from hipercow_slurm.api.metrics import ApiMetrics
from hipercow_slurm.api.trail import Trail
from hipercow_slurm.errors import ConfigError

_PR_SET_DUMPABLE = 4


async def serve(config_path: Path, stop: asyncio.Event, worker: str | None = None) -> None:
    """Run the API of this configuration until ``stop`` is set; ``worker`` is this process's place among several.

    Raises:
        ConfigError: something in the configuration cannot work; nothing was served.
    """
    conf = config.load(config_path)
    place = None if worker is None else processes.Place(worker)
    if place is None and conf.api.processes > 1:
        server.tls_context(conf.api.certificate, conf.api.key)
        await processes.supervise(config_path, conf, stop)
        return
    if os.geteuid() == 0:
        log.get().warning("api.is-root", hint="run it as a user of its own; it needs no privilege")
    hide_memory()
    os.umask(0o077)
    started = asyncio.Event()
    shown = metrics.registry("api")
    counted = ApiMetrics(shown)
    tls = server.tls_context(conf.api.certificate, conf.api.key)
    seen = EndPoint(conf.api.certificate)
    trail = Trail(conf.audit.opened("api", number=place.number if place else 0))

    def reload() -> None:
        trail.reopen()
        if server.reload_tls(tls, conf):
            seen.load()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(trail.close)
        parts = await stack.enter_async_context(services.running(conf, counted, trail, seen))

        async def count() -> None:
            counted.sessions.set(parts.sessions.opened)

        listener = metrics.Listener(
            conf.metrics_of(place.number if place else 0), shown, parts.health.checks, before_scrape=count
        )
        await listener.start()
        try:
            serving = asyncio.create_task(server.serve(app.make(parts), conf, tls, stop, started, counted.no_place))
            starting = asyncio.create_task(started.wait())
            await asyncio.wait({serving, starting}, return_when=asyncio.FIRST_COMPLETED)
            if started.is_set():
                _settle_garbage()
                (place or daemon).ready()
            starting.cancel()
            await serving
        finally:
            await listener.aclose()


def _settle_garbage() -> None:
    """What is there after the start stays: the collector need not walk through it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 20, 50)


def hide_memory() -> None:
    """Nobody but root may read our memory or trace us: it holds keys of users' tickets.

    Raises:
        ConfigError: the kernel refuses (it never does).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise ConfigError(f"prctl(PR_SET_DUMPABLE): {os.strerror(ctypes.get_errno())}")
