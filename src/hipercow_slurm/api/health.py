"""``GET /v1/health``: does each thing we depend on answer; no names, no addresses, no secrets.

Anyone may ask, so an answer is kept for some seconds: a flood of questions costs the others nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from hipercow_slurm import log
from hipercow_slurm.api.config import Config, with_realm
from hipercow_slurm.api.schemas import Health
from hipercow_slurm.errors import Error, UnavailableError
from hipercow_slurm.krb5 import creds

_KEPT_S = 5.0
_CHECK_S = 5.0

Check = Callable[[], Awaitable[None]]


class HealthCheck:
    """Asks all dependencies at once; each has five seconds."""

    def __init__(self, conf: Config) -> None:
        self._conf = conf
        self._checks: dict[str, Check] = {
            "kdc": self._kdc,
            "signer": lambda: _connects_unix(conf.signer.socket),
            "cache": self._cache,
            "slurm": lambda: _connects_unix(conf.slurm.socket),
        }
        self._kept: tuple[float, Health] | None = None
        self._asking = asyncio.Lock()

    async def report(self) -> Health:
        """ok, or degraded with what does not answer."""
        async with self._asking:
            if self._kept is None or self._kept[0] < time.monotonic():
                words = await asyncio.gather(*(_word(name, check) for name, check in self._checks.items()))
                checks = dict(zip(self._checks, words, strict=True))
                good = all(word == "ok" for word in words)
                self._kept = (time.monotonic() + _KEPT_S, Health(status="ok" if good else "degraded", checks=checks))
            return self._kept[1]

    async def _kdc(self) -> None:
        """Our own ticket from our own keytab: also tells whether the keytab still fits the KDC."""
        api = self._conf.api
        await asyncio.to_thread(creds.keytab_tgt, with_realm(api.service, api.realm), api.keytab)

    async def _cache(self) -> None:
        """One of the caches takes connections."""
        for server in self._conf.cache.servers:
            try:
                _, writer = await asyncio.open_connection(server.host, server.port)
            except OSError:
                continue
            writer.close()
            return
        raise UnavailableError("no credential cache takes connections")


async def _connects_unix(path: str) -> None:
    _, writer = await asyncio.open_unix_connection(path)
    writer.close()


async def _word(name: str, check: Check) -> str:
    """``ok``, or what is wrong in one word; the log has the rest."""
    try:
        async with asyncio.timeout(_CHECK_S):
            await check()
    except (Error, OSError, TimeoutError) as error:
        word = error.code if isinstance(error, Error) else "unreachable"
        log.get().warning("health.degraded", check=name, code=word, why=str(error))
        return word
    return "ok"
