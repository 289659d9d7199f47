"""``hipercow-slurm auksd``: puts the parts together, runs them, takes them apart."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from hipercow_slurm import daemon, log, metrics
from hipercow_slurm.audit import AuditLog
from hipercow_slurm.auksd import acl, config, from_auks, importing, rules, running
from hipercow_slurm.auksd.accounts import Accounts
from hipercow_slurm.auksd.asking import renew_at_kdc
from hipercow_slurm.auksd.config import Config
from hipercow_slurm.auksd.connection import Answering
from hipercow_slurm.auksd.from_auks import FromAuks
from hipercow_slurm.auksd.fronts import Fronts
from hipercow_slurm.auksd.keykeeper import KeyKeeper
from hipercow_slurm.auksd.ledger import Ledger
from hipercow_slurm.auksd.metrics import AuksdMetrics
from hipercow_slurm.auksd.retention import Retention
from hipercow_slurm.auksd.running import Running
from hipercow_slurm.auksd.server import Server, allow_files
from hipercow_slurm.auksd.service import Service
from hipercow_slurm.auksd.sharing import make_renewer
from hipercow_slurm.auksd.vitals import Vitals
from hipercow_slurm.auksd.workers import Workers
from hipercow_slurm.errors import ConfigError
from hipercow_slurm.krb5 import krbcred
from hipercow_slurm.store.base import Store
from hipercow_slurm.store.choose import is_postgres, open_store
from hipercow_slurm.store.envelope import read_key_file

LOOKUP_THREADS = 4  # may all hang in NSS without anything else waiting
BULK_THREADS = 2  # dumps, counts
END_S = 5.0


def check(path: Path, *, state: Path | None = None) -> list[str]:
    """Read the configuration and all files it names; returns what an admin should look at.

    Raises:
        ConfigError: whatever would keep the daemon from starting, except a store in use.
    """
    found = config.load(path, state=state)
    allowed = rules.load(found)
    if not isinstance(found, FromAuks) or Path(found.auksd.key_file).exists():  # the first start makes it otherwise
        read_key_file(Path(found.auksd.key_file))
    _check_keytab(found.auksd.keytab)
    running.check_rules(found, allowed)
    found.audit.check()
    notes = found.notes if isinstance(found, FromAuks) else ()
    return [*_findings(found), *notes, *allowed.warnings]


async def take_over(path: Path, folder: Path, *, state: Path | None = None) -> list[importing.Taken]:
    """Import a CacheDir of AUKS into the store of ``path``, whose daemon must not be running.

    Raises:
        ConfigError, UnavailableError: as ``serve``; CredentialError: as ``importing.import_dir``.
    """
    os.umask(0o077)
    found = config.load(path, state=state)
    from_auks.prepare(found)
    store = await open_store(found.auksd.store, read_key_file(Path(found.auksd.key_file)))
    workers = Workers(LOOKUP_THREADS, "auksd")
    try:
        return await importing.import_dir(folder, store, Accounts(workers), workers)
    finally:
        workers.stop()
        await store.close()


async def serve(path: Path, stop: asyncio.Event, *, state: Path | None = None) -> None:
    """Run the cache with the configuration file ``path`` until ``stop`` is set; HUP and USR2 as in ``running.py``.

    Args:
        state: where the store is if the file is AUKS'.

    Raises:
        ConfigError: something named in the configuration is missing or wrong.
        UnavailableError: the address is taken.
    """
    os.umask(0o077)
    hup, usr2 = _on(signal.SIGHUP), _on(signal.SIGUSR2)  # from the start: unhandled they would end us
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # means nothing, and its default would end us
    found = config.load(path, state=state)
    section = found.auksd
    for finding in _findings(found):
        log.get().warning("auksd.config", why=finding)
    allowed = await asyncio.to_thread(rules.load, found)  # names of hosts are looked up
    running.log_warnings(allowed)
    running.check_rules(found, allowed)
    _check_keytab(section.keytab)
    audit = found.audit.opened("auksd")
    try:
        taking = importing.begin(found, first=from_auks.prepare(found) and not is_postgres(section.store))
        keys = read_key_file(Path(section.key_file))
        store = await open_store(section.store, keys, key_file=Path(section.key_file))
        keeper = KeyKeeper(store, Path(section.key_file), keys)
        try:
            await _run(path, state, found, allowed, store, keeper, audit, (stop, hup, usr2), taking)
        finally:
            await store.close()
    finally:
        if audit is not None:
            audit.close()
    log.get().info("auksd.stopped")


async def _run(
    path: Path,
    state: Path | None,
    found: Config,
    allowed: acl.Acl,
    store: Store,
    keeper: KeyKeeper,
    audit: AuditLog | None,
    events: tuple[asyncio.Event, asyncio.Event, asyncio.Event],
    taking: importing.Begun | None,
) -> None:
    stop, hup, usr2 = events
    section, renew = found.auksd, found.renew
    lookups, bulk = Workers(LOOKUP_THREADS, "nss"), Workers(BULK_THREADS, "bulk")
    accounts = Accounts(lookups)
    if taking is not None:
        await importing.finish(taking, store, accounts, lookups)
    shown = metrics.registry("auksd")
    vitals = Vitals(AuksdMetrics(shown) if found.metrics.listen else None)
    renewer = make_renewer(
        store,
        renew_at_kdc,
        threads=renew.threads,
        rate_per_s=renew.rate_per_s,
        timing=renew.timing(),
        observe=vitals.renewal,
        asked=vitals.asked_kdc,
    )
    jobs = running.make_jobs(found, vitals)
    ledger = Ledger(vitals, audit)
    retention = Retention(
        store,
        lambda: running.all_entries(store, bulk),
        jobs,
        found.retention.grace_s,
        lambda entry: service.forgotten(entry),
    )
    service = Service(store, allowed, accounts, renewer, bulk, krbcred.parse, jobs, ledger, touch=retention.touch)
    server = _server(section, service, bulk)
    parts = Running(
        path, state, found, store, service, server, renewer, retention, jobs, vitals, audit, bulk, _check_keytab
    )
    listener = metrics.Listener(found.metrics, shown, parts.health, before_scrape=parts.count)
    count = await renewer.load()
    showing = await listener.start()
    host, port = await server.start()
    parts.watch_slurm()
    log.get().info("auksd.listening", address=f"{host}:{port}", principal=section.principal, credentials=count)
    if showing:
        log.get().info("auksd.metrics", address=f"{showing[0]}:{showing[1]}")
    gc.freeze()  # what is there now stays: no need to walk through it again and again
    gc.set_threshold(20_000, 20, 50)
    daemon.ready()
    tasks = {
        asyncio.create_task(renewer.run() if renew.enabled else asyncio.Event().wait()),
        asyncio.create_task(retention.run()),
        asyncio.create_task(keeper.run()),
        asyncio.create_task(_each(hup, parts.reload)),
        asyncio.create_task(_each(usr2, parts.statistics)),
        asyncio.create_task(stop.wait()),
    }
    try:
        # All but the last end by themselves only with a bug; a cache that does not renew must not look healthy.
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await server.stop()
        await listener.aclose()
        await parts.stop()
        for task in tasks:
            task.cancel()
        ended, _ = await asyncio.wait(tasks, timeout=END_S)  # a stop ends, whatever a task does
        renewer.stop()
        lookups.stop()
        bulk.stop()
    for task in ended:
        if not task.cancelled() and (problem := task.exception()) is not None:
            raise problem


def _server(section: config.Auksd, service: Service, bulk: Workers) -> Server | Fronts:
    """What serves the port."""
    if section.processes > 1:
        return Fronts(section, service, bulk)
    server = Server(section, partial(Answering, service=service), bulk)
    server.most = allow_files(section.connections)
    return server


def _on(number: signal.Signals) -> asyncio.Event:
    """An event that the signal sets."""
    event = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(number, event.set)
    return event


async def _each(event: asyncio.Event, act: Callable[[], Awaitable[None] | None]) -> None:
    """``act`` whenever ``event`` was set; twice during one act is once more."""
    while True:
        await event.wait()
        event.clear()
        if (acting := act()) is not None:
            await acting


def _findings(found: Config) -> list[str]:
    return [*found.findings] if isinstance(found, FromAuks) else []


def _check_keytab(path: str) -> None:
    if not os.access(path.removeprefix("FILE:"), os.R_OK):
        raise ConfigError(
            f"cannot read the keytab {path}", code="keytab", hint="kadmin: ktadd -k " + path + " auks/HOST"
        )
