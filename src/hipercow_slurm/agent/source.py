"""Where tickets come from: the credential cache, asked over the AUKS wire as this host."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import Protocol

from hipercow_slurm import log
from hipercow_slurm.agent import host_key
from hipercow_slurm.agent.config import CacheServer
from hipercow_slurm.client.auks import AuksClient, Limits, Server
from hipercow_slurm.errors import Error, UnavailableError
from hipercow_slurm.values import KrbCred

KEYTAB_S = 15.0
RETRY_S = 30.0  # while the one in hand is good
RETRY_WITHOUT_S = 1.0  # many uids ask at once: one of them tries, the others hear how it went
SPARE_S = 5
# One try of each server: when to try again is the keeper's to decide.
LIMITS = Limits(connect_s=2.0, read_s=5.0, kdc_s=10.0, total_s=15.0, rounds=1)


class Source(Protocol):
    """What the keeper needs; the cache today, the KDC or another cache behind the same call later."""

    async def get(self, uid: int) -> KrbCred | None:
        """The ticket of ``uid``; None if there is none.

        Raises:
            UnavailableError: it cannot be asked now.
            Error: it refuses to say.
        """
        ...


class HostTicket:
    """This host's own TGT from its keytab: in memory only, replaced at half its life, kept while it is good.

    Args:
        principal: ``host/c1.example.org``; ``keytab`` holds its key.
    """

    def __init__(self, principal: str, keytab: str) -> None:
        self.principal = principal
        self._keytab = keytab
        self._cred: KrbCred | None = None
        self._failure: Error | None = None
        self._not_before = 0.0
        self._one_at_a_time = asyncio.Lock()

    @property
    def endtime(self) -> int | None:
        """When the ticket in hand ends; None before the first."""
        return self._cred.times.endtime if self._cred else None

    async def warm(self) -> None:
        """Get the first ticket before the first job needs it; trouble is said in the log. Never ends by itself."""
        with contextlib.suppress(Error):
            await self.current()
        await asyncio.Event().wait()

    async def current(self) -> KrbCred:
        """A ticket that is good now.

        Raises:
            Error: there is none and none can be had.
        """
        async with self._one_at_a_time:
            now = time.time()
            cred = self._cred
            if cred is not None and self._fresh(cred, now):
                return cred
            left = cred.times.endtime - now - SPARE_S if cred is not None else 0.0
            if self._failure is None or time.monotonic() >= self._not_before:
                await self._replace(retry_s=max(RETRY_WITHOUT_S, min(RETRY_S, left / 2)))
            if self._failure is None:
                assert self._cred is not None
                return self._cred
            if cred is None or left <= 0:
                raise self._failure.with_traceback(None)  # raised many times, it would grow a traceback without end
            return cred

    async def _replace(self, *, retry_s: float) -> None:
        """Get a new one; if that fails, remember why, and that it is not to be tried again before ``retry_s``."""
        try:
            self._cred = await self._new()
        except Error as error:
            self._failure, self._not_before = error, time.monotonic() + retry_s
            log.get().warning("agent.host_ticket_failed", code=error.code, why=error.message)
            return
        self._failure = None
        log.get().info("agent.host_ticket", principal=self.principal, endtime=self._cred.times.endtime)

    async def _new(self) -> KrbCred:
        try:
            async with asyncio.timeout(KEYTAB_S):
                return await host_key.fetch(self.principal, self._keytab)
        except TimeoutError as error:
            raise UnavailableError(
                f"no ticket for {self.principal} within {KEYTAB_S:.0f} s", code="kdc-unreachable"
            ) from error

    @staticmethod
    def _fresh(cred: KrbCred, now: float) -> bool:
        return cred.times.endtime - now > (cred.times.endtime - cred.times.starttime) / 2


class CacheSource:
    """The credential cache, asked as this host: ours or CEA's auksd, whichever of ``servers`` answers first."""

    def __init__(self, servers: Sequence[CacheServer], host: HostTicket) -> None:
        self._host = host
        self._client = AuksClient(
            [Server(one.host, one.principal, one.port, one.nat) for one in servers], limits=LIMITS
        )

    async def get(self, uid: int) -> KrbCred | None:
        """See ``Source``. None also if the cache refuses it to this host: AUKS tells the two apart in its log only."""
        return await self._client.get(uid, auth=await self._host.current())
