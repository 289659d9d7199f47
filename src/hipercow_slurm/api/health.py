"""``/v1/health``: does each thing we depend on answer; ``/v1/ready``: could this process serve if they did.

Anyone may ask, so no names, addresses or secrets are told, and an answer is kept for some seconds: a flood of
questions costs the others nothing. The log has the details.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from hipercow_slurm import log
from hipercow_slurm.api.config import Config, with_realm
from hipercow_slurm.api.database import Database, Transaction
from hipercow_slurm.api.schemas_cluster import Health, Ready
from hipercow_slurm.errors import Error, UnavailableError
from hipercow_slurm.krb5 import creds, keytab
from hipercow_slurm.metrics import Check

_KEPT_S = 5.0
_CHECK_S = 3.0  # the operator's listener gives all of it five

_ABOUT = {
    "kdc": "the KDC",
    "signer": "the signer of Slurm tokens",
    "cache": "the credential cache",
    "slurm": "slurmrestd",
    "database": "the session database",
    "keytab": "the keytab",
}
_WHY = {
    "unreachable": "takes no connections",
    "unavailable": "takes no connections",
    "timeout": "does not answer within three seconds",
    "kdc-unreachable": "does not answer",
    "keytab": "cannot be read, or its keys are not those of the KDC",
    "clock-skew": "has another time than this host",
    "database-failed": "cannot be written",
    "kdc-refused": "refuses this service a ticket",
}

_Ask = Callable[[], Awaitable[object]]


class HealthCheck:
    """Asks all at once; each has three seconds."""

    def __init__(self, conf: Config, database: Database) -> None:
        self._conf = conf
        self._service = with_realm(conf.api.service, conf.api.realm)
        self._shared: dict[str, _Ask] = {
            "kdc": self._kdc,
            "signer": lambda: _connects_unix(conf.signer.socket),
            "cache": self._cache,
            "slurm": lambda: _connects_unix(conf.slurm.socket),
            "database": lambda: database.run(_write_nothing),
        }
        # What is wrong with this process alone: a load balancer should then take another one. Of what all share, it
        # could only make a page without reasons out of answers with reasons.
        self._own: dict[str, _Ask] = {
            "database": self._shared["database"],
            "keytab": lambda: asyncio.to_thread(keytab.check_service, conf.api.keytab, self._service),
        }
        self._kept: dict[str, tuple[float, dict[str, str]]] = {}
        self._asking = {which: asyncio.Lock() for which in ("shared", "own")}

    async def report(self) -> Health:
        """ok, or degraded with what does not answer, and why."""
        words = await self._words("shared", self._shared)
        bad = {name: _sentence(name, word) for name, word in words.items() if word != "ok"}
        return Health(status="degraded" if bad else "ok", checks=words, reasons=bad)

    async def ready(self) -> Ready:
        """Could this process serve?"""
        words = await self._words("own", self._own)
        bad = {name: _sentence(name, word) for name, word in words.items() if word != "ok"}
        return Ready(ready=not bad, reasons=bad)

    async def checks(self) -> Mapping[str, Check]:
        """Both, for the operator's listener."""
        both = await asyncio.gather(self._words("shared", self._shared), self._words("own", self._own))
        words = {**both[0], **both[1]}
        return {
            name: Check(word == "ok", "answers" if word == "ok" else _sentence(name, word))
            for name, word in words.items()
        }

    async def _words(self, which: str, asked: dict[str, _Ask]) -> dict[str, str]:
        async with self._asking[which]:
            until, words = self._kept.get(which, (0.0, {}))
            if until < time.monotonic():
                found = await asyncio.gather(*(_word(name, ask) for name, ask in asked.items()))
                words = dict(zip(asked, found, strict=True))
                self._kept[which] = time.monotonic() + _KEPT_S, words
            return words

    async def _kdc(self) -> None:
        """Our own ticket from our own keytab: also tells whether the keytab still fits the KDC."""
        await asyncio.to_thread(creds.keytab_tgt, self._service, self._conf.api.keytab)

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


async def _write_nothing(transaction: Transaction) -> None:
    """What fails when the database cannot be written."""
    await transaction.change("UPDATE session SET uid = uid WHERE 1 = 0")


async def _connects_unix(path: str) -> None:
    _, writer = await asyncio.open_unix_connection(path)
    writer.close()


async def _word(name: str, ask: _Ask) -> str:
    """``ok``, or what is wrong in one word; the log has the rest."""
    try:
        async with asyncio.timeout(_CHECK_S):
            await ask()
    except (Error, OSError) as error:  # a TimeoutError is an OSError
        word = error.code if isinstance(error, Error) else "unreachable"
        if isinstance(error, TimeoutError):
            word = "timeout"
        log.get().warning("health.degraded", check=name, code=word, why=str(error))
        return word
    return "ok"


def _sentence(name: str, word: str) -> str:
    return f"{_ABOUT[name]} {_WHY.get(word, 'does not work as it should')}"
