"""What slurmctld says about jobs, as the cache needs it: may this node fetch that ticket, and who still has a job.

Rule: an account that cannot see others' jobs (PrivateData) gets an empty answer instead of an error. For a node that
only means a refusal; for retention it would mean that everybody has gone, so there it counts as no answer.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from hipercow_slurm import log
from hipercow_slurm.errors import AccessError, ConfigError, Error, UnavailableError
from hipercow_slurm.metrics import Check
from hipercow_slurm.slurm.nodes import NodeNames, node_of_principal
from hipercow_slurm.slurm.oracle import Attempt, JobOracle, Settings

LOOK_AGAIN_S = 60.0  # PrivateData may be changed by an scontrol reconfigure


class Jobs:
    """Asks one oracle.

    Args:
        settings: the oracle's.
        names: from host principals to Slurm's node names; None: no principal is a node.
        observe: told of each squeue.
    """

    def __init__(
        self, settings: Settings, names: NodeNames | None, *, observe: Callable[[Attempt], None] = lambda attempt: None
    ) -> None:
        self._oracle = JobOracle(settings, observe=observe)
        self._names = names
        self._blind: str | None = None
        self._looked_at: float | None = None
        self._problem: str | None = None  # why we could not look

    async def check_on_node(self, principal: str, uid: int) -> str:
        """Refuse a node that has no job of ``uid`` now; the verdict's code if it has one.

        Raises:
            AccessError: ``not-a-node``, ``no-job-on-node``.
            UnavailableError: ``scheduler-unreachable``.
        """
        if self._names is None:
            raise AccessError(f"no rule says which node {principal} is", code="not-a-node", hint="section [nodes]")
        node = node_of_principal(principal, self._names)
        verdict = await self._oracle.has_job(uid, node)
        if verdict.allowed:
            return verdict.code
        if verdict.code == "scheduler-unreachable":
            raise UnavailableError(verdict.why, code=verdict.code)
        raise AccessError(verdict.why, code=verdict.code)

    def known_on_node(self, principal: str, uid: int) -> str | None:
        """The code of a yes that needs no question to slurmctld; None: ``check_on_node``."""
        if self._names is None:
            return None
        verdict = self._oracle.known(uid, node_of_principal(principal, self._names))
        return None if verdict is None else verdict.code

    async def uids(self, *, max_age_s: float) -> frozenset[int]:
        """Everyone with a job anywhere, pending ones too.

        Raises:
            UnavailableError: slurmctld does not answer, or would not show us others' jobs.
        """
        blind = await self.look()
        if blind is not None:
            raise UnavailableError(blind, code="scheduler-blind")
        return await self._oracle.uids_with_jobs(max_age_s=max_age_s)

    async def look(self) -> str | None:
        """Why squeue would not show us others' jobs, or None; asked of slurmctld at most once a minute.

        Raises:
            UnavailableError: slurmctld does not say.
        """
        now = time.monotonic()
        if self._looked_at is None or now - self._looked_at >= LOOK_AGAIN_S:
            before = self._blind
            try:
                self._blind = await self._oracle.blindness()
            except Error as error:
                self._problem = error.message
                raise
            self._looked_at, self._problem = now, None
            if self._blind is not None and self._blind != before:
                log.get().error("auksd.blind", why=self._blind)
        return self._blind

    async def watch(self, *, every_s: float = LOOK_AGAIN_S, retry_s: float = 10.0) -> None:
        """Look again and again, so that log and health tell of a blindness before a user does; until cancelled."""
        while True:
            try:
                await self.look()
                await asyncio.sleep(every_s)
            except Error:
                await asyncio.sleep(retry_s)

    def health(self) -> Check:
        """How the oracle is."""
        view = self._oracle.view
        if view.failed_at is not None:
            return Check(False, f"slurmctld does not answer: {view.why}")
        # A Slurm Operator sees all: once others' jobs have shown, the account can see them.
        if self._blind is not None and not (view.table and view.table.uids - {os.geteuid()}):
            return Check(False, self._blind)
        if view.table is not None:
            return Check(True, f"slurmctld answered {time.monotonic() - view.asked_at:.0f} s ago")
        if self._problem is not None:
            return Check(False, f"slurmctld does not answer: {self._problem}")
        return Check(True, "not asked yet")

    async def aclose(self) -> None:
        """Stop asking; whoever waits gets UnavailableError."""
        await self._oracle.aclose()


def check_names(names: NodeNames | None, *, needed: bool) -> None:
    """Refuse rules of role node where no principal could be mapped to a node.

    Raises:
        ConfigError: there is no section [nodes].
    """
    if needed and names is None:
        raise ConfigError(
            "a rule has role = node, but nothing says which node a principal is",
            code="nodes-missing",
            hint='[nodes] realm = "EXAMPLE.ORG", domains = ["cluster.example.org"]',
        )
