"""The daemon while it runs: what HUP replaces, what USR2 and /health tell.

Rule 1: a HUP reads and checks everything before it replaces anything; whatever is wrong leaves all as it was.
Rule 2: no connection notices. Rules count from the next request on, also on connections that are open already.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hipercow_slurm import log
from hipercow_slurm.audit import AuditLog
from hipercow_slurm.auksd import acl, config, rules
from hipercow_slurm.auksd.acl import Role
from hipercow_slurm.auksd.config import Config
from hipercow_slurm.auksd.fronts import Fronts
from hipercow_slurm.auksd.jobs import Jobs, check_names
from hipercow_slurm.auksd.renewer import Renewer
from hipercow_slurm.auksd.retention import Retention
from hipercow_slurm.auksd.server import Server
from hipercow_slurm.auksd.service import Service
from hipercow_slurm.auksd.vitals import Vitals
from hipercow_slurm.auksd.workers import Workers
from hipercow_slurm.errors import Error
from hipercow_slurm.metrics import Check
from hipercow_slurm.store.base import Entry, Store

FIXED = ("listen", "share_port", "processes", "store", "key_file", "import_dir")  # of [auksd]: a change needs a restart
FIXED_SECTIONS = ("renew", "audit", "metrics")
LATE_S = 60.0  # a renewal so late is worth an operator's look


def make_jobs(found: Config, vitals: Vitals) -> Jobs:
    """The job oracle a configuration means.

    Raises:
        ConfigError: pattern or table of section [nodes] is no good.
    """
    return Jobs(found.oracle, found.nodes.names() if found.nodes else None, observe=vitals.squeue)


def check_rules(found: Config, allowed: acl.Acl) -> None:
    """Refuse rules that the rest of the configuration does not support.

    Raises:
        ConfigError: ``nodes-missing``.
    """
    check_names(found.nodes.names() if found.nodes else None, needed=allowed.gives(Role.NODE))


def asks_slurm(found: Config, allowed: acl.Acl) -> bool:
    """True if slurmctld's answers decide anything."""
    return found.retention.grace_s is not None or allowed.gives(Role.NODE)


def log_warnings(allowed: acl.Acl) -> None:
    """Log what an operator should look at in the rules."""
    for warning in allowed.warnings:
        log.get().warning("auksd.acl", why=warning)


@dataclass
class Running:
    """The parts, put together by ``main``.

    Attributes:
        path, state: where the configuration was read from; see ``config.load``.
        found: the configuration in force.
    """

    path: Path
    state: Path | None
    found: Config
    store: Store
    service: Service
    server: Server | Fronts
    renewer: Renewer
    retention: Retention
    jobs: Jobs
    vitals: Vitals
    audit: AuditLog | None
    workers: Workers
    check_keytab: Callable[[str], None]
    _watching: asyncio.Task[None] | None = None

    def watch_slurm(self) -> None:
        """Have the job oracle looked after, if it is of use."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        if asks_slurm(self.found, self.service.acl):
            self._watching = asyncio.create_task(self.jobs.watch())

    async def reload(self) -> None:
        """HUP: configuration, rules, the audit log's file; a changed key file is noticed without (``keykeeper.py``)."""
        logger = log.get()
        try:
            found = await asyncio.to_thread(config.load, self.path, state=self.state)
            allowed = await asyncio.to_thread(rules.load, found)  # names of hosts are looked up
            check_rules(found, allowed)
            self.check_keytab(found.auksd.keytab)
        except Error as error:
            logger.error("auksd.reload_failed", code=error.code, why=error.message, hint=error.hint)
        except Exception:
            logger.exception("auksd.bug", during="reload")
        else:
            self._replace(found, allowed)
        self._reopen()

    def _replace(self, found: Config, allowed: acl.Acl) -> None:
        old, self.found = self.found, found
        fixed = [f"auksd.{key}" for key in FIXED if getattr(old.auksd, key) != getattr(found.auksd, key)]
        fixed += [name for name in FIXED_SECTIONS if getattr(old, name) != getattr(found, name)]
        log_warnings(allowed)
        self.service.acl = allowed
        self.server.config = found.auksd
        if (old.oracle, old.nodes) != (found.oracle, found.nodes):
            # Whoever waits for the old oracle still gets its answer; nobody else asks it.
            self.jobs = self.service.jobs = self.retention.jobs = make_jobs(found, self.vitals)
        self.retention.grace_s = found.retention.grace_s
        self.watch_slurm()
        log.get().info("auksd.reloaded", rules=len(allowed.rules), needs_restart=",".join(fixed) or None)

    def _reopen(self) -> None:
        if self.audit is None:
            return
        try:
            self.audit.reopen()
        except Error as error:
            log.get().error("auksd.reload_failed", code=error.code, why=error.message, hint=error.hint)

    async def statistics(self) -> None:
        """USR2: one log line of numbers."""
        await self._count_connections()
        log.get().info(
            "auksd.statistics",
            connections=len(self.server),
            connections_proven=self.server.proven,
            renewal_late_s=round(self.renewer.late_s(), 1),
            **self.vitals.statistics(),
        )

    async def health(self) -> Mapping[str, Check]:
        """What /health shows."""
        late_s = self.renewer.late_s()
        checks = {
            "store": await self._store_health(),
            "kdc": self.vitals.kdc_health(),
            "renewals": Check(late_s <= LATE_S, f"the most overdue one is {late_s:.0f} s late"),
        }
        if isinstance(self.server, Fronts):
            checks["fronts"] = self.server.health()
        if asks_slurm(self.found, self.service.acl):
            checks["oracle"] = self.jobs.health()
        if self.audit is not None:
            lost = self.audit.lost
            checks["audit"] = Check(not lost, f"{lost} lines lost" if lost else f"{self.audit.last.seq} lines")
        return checks

    async def _store_health(self) -> Check:
        try:
            await self.store.get(0)
        except Error as error:
            return Check(False, error.message)
        return self.vitals.store_health()

    async def count(self) -> None:
        """Before each scrape: the numbers that are counted only when somebody looks."""
        metrics = self.vitals.metrics
        assert metrics is not None
        entries = await all_entries(self.store, self.workers)
        metrics.count_tickets((entry.times.endtime for entry in entries), time.time())
        metrics.oldest_due.set(self.renewer.late_s())
        await self._count_connections()
        metrics.connections.set(len(self.server))

    async def _count_connections(self) -> None:
        if isinstance(self.server, Fronts):
            await self.server.count()

    async def stop(self) -> None:
        """Stop what ``watch_slurm`` began."""
        if self._watching is not None:
            self._watching.cancel()
        await self.jobs.aclose()


async def all_entries(store: Store, workers: Workers) -> list[Entry]:
    """``store.entries()``, off the event loop: 100 000 of them take a third of a second."""
    return await workers.run(lambda: [sealed.entry for sealed in store.dump()])
