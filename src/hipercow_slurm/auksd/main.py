"""``hipercow-slurm auksd``: puts the parts together, runs them, takes them apart."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from pathlib import Path

from hipercow_slurm import daemon, log
from hipercow_slurm.auksd import acl, config, from_auks, importing, rules
from hipercow_slurm.auksd.accounts import Accounts
from hipercow_slurm.auksd.config import Config
from hipercow_slurm.auksd.from_auks import FromAuks
from hipercow_slurm.auksd.renewer import Renewer, renew_at_kdc
from hipercow_slurm.auksd.server import Server
from hipercow_slurm.auksd.service import Service
from hipercow_slurm.auksd.workers import Workers
from hipercow_slurm.errors import ConfigError
from hipercow_slurm.krb5 import krbcred
from hipercow_slurm.krb5.auth import Acceptor
from hipercow_slurm.store.envelope import read_key_file
from hipercow_slurm.store.sqlite import SqliteStore

LOOKUP_THREADS = 4
RESERVED_FILES = 64  # descriptors that are not connections


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
    store = SqliteStore(Path(found.auksd.store), read_key_file(Path(found.auksd.key_file)))
    workers = Workers(LOOKUP_THREADS, "auksd")
    try:
        return await importing.import_dir(folder, store, Accounts(workers), workers)
    finally:
        workers.stop()
        await store.close()


async def serve(path: Path, stop: asyncio.Event, *, state: Path | None = None) -> None:
    """Run the cache with the configuration file ``path`` until ``stop`` is set.

    Args:
        state: where the store is if the file is AUKS'.

    Raises:
        ConfigError: something named in the configuration is missing or wrong.
        UnavailableError: the address is taken.
    """
    os.umask(0o077)
    found = config.load(path, state=state)
    section = found.auksd
    for finding in _findings(found):
        log.get().warning("auksd.config", why=finding)
    allowed = await asyncio.to_thread(rules.load, found)  # names of hosts are looked up
    for warning in allowed.warnings:
        log.get().warning("auksd.acl", why=warning)
    _check_keytab(section.keytab)
    _allow_files(section.connections)
    taking = importing.begin(found, first=from_auks.prepare(found))
    store = SqliteStore(Path(section.store), read_key_file(Path(section.key_file)))
    try:
        await _run(found, allowed, store, stop, taking)
    finally:
        await store.close()
    log.get().info("auksd.stopped")


async def _run(
    found: Config, allowed: acl.Acl, store: SqliteStore, stop: asyncio.Event, taking: importing.Begun | None
) -> None:
    section, renew = found.auksd, found.renew
    workers = Workers(LOOKUP_THREADS, "auksd")
    accounts = Accounts(workers)
    if taking is not None:
        await importing.finish(taking, store, accounts, workers)
    renewer = Renewer(store, renew_at_kdc, threads=renew.threads, rate_per_s=renew.rate_per_s, timing=renew.timing())
    service = Service(store, allowed, accounts, renewer, workers, krbcred.parse)
    server = Server(section, service, lambda ours, theirs: _acceptor(section, ours, theirs), workers)
    count = await renewer.load()
    host, port = await server.start()
    log.get().info("auksd.listening", address=f"{host}:{port}", principal=section.principal, credentials=count)
    daemon.ready()
    renewing = asyncio.create_task(renewer.run() if renew.enabled else asyncio.Event().wait())
    stopping = asyncio.create_task(stop.wait())
    try:
        # The renewer ends by itself only with a bug; a cache that does not renew must not look healthy.
        await asyncio.wait({renewing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await server.stop()
        stopping.cancel()
        renewing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await renewing
        renewer.stop()
        workers.stop()


def _findings(found: Config) -> list[str]:
    return [*found.findings] if isinstance(found, FromAuks) else []


def _acceptor(section: config.Auksd, ours: bytes, theirs: bytes) -> Acceptor:
    return Acceptor(section.keytab, section.principal, local=ours, remote=theirs)


def _check_keytab(path: str) -> None:
    if not os.access(path.removeprefix("FILE:"), os.R_OK):
        raise ConfigError(
            f"cannot read the keytab {path}", code="keytab", hint="kadmin: ktadd -k " + path + " auks/HOST"
        )


def _allow_files(connections: int) -> None:
    """Raise the soft limit of open files to what the connections need; say so if it is not enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + RESERVED_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.get().warning("auksd.files", limit=allowed, wanted=wanted)
