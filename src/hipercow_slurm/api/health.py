"""``/v1/health``: does each thing we depend on answer; ``/v1/ready``: could this process serve if they did.

Anyone may ask, so no names, addresses or secrets are told, and an answer is kept for some seconds: a flood of
questions costs the others nothing. The log has the details. The kernel takes connections for a process that hangs, so
each is waited for until it does something. Slurm's controller answers only to somebody's token, and we have none of
our own: of it we know what people's requests have met.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hipercow_slurm import log
from hipercow_slurm.api.config import Config, with_realm
from hipercow_slurm.api.database import Database, Transaction
from hipercow_slurm.api.schemas_cluster import Health, Ready
from hipercow_slurm.errors import Error, UnavailableError
from hipercow_slurm.krb5 import creds, keytab
from hipercow_slurm.metrics import Check
from hipercow_slurm.slurm.rest import SlurmRest

_KEPT_S = 5.0
_CHECK_S = 3.0  # the operator's listener gives all of it five
_MET_S = 60.0  # for so long what somebody's request met is news

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
    "scheduler-unreachable": "answers, but Slurm behind it did not, when somebody last asked",
}

_Ask = Callable[[], Coroutine[Any, Any, object]]


class HealthCheck:
    """Asks all at once; each has three seconds, and is not asked again while it still hangs."""

    def __init__(self, conf: Config, database: Database, slurm: SlurmRest) -> None:
        self._conf = conf
        self._slurm = slurm
        self._service = with_realm(conf.api.service, conf.api.realm)
        self._threads = ThreadPoolExecutor(2, "health")  # one each for what may wait for a KDC or a disk
        self._under_way: dict[str, asyncio.Task[object]] = {}
        self._shared: dict[str, _Ask] = {
            "kdc": self._kdc,
            "signer": lambda: _hangs_up(asyncio.open_unix_connection(conf.signer.socket)),
            "cache": self._cache,
            "slurm": self._scheduler,
            "database": lambda: database.run(_write),
        }
        # What is wrong with this process alone: a load balancer should then take another one. Of what all share, it
        # could only make a page without reasons out of answers with reasons.
        self._own: dict[str, _Ask] = {
            "database": self._shared["database"],
            "keytab": lambda: self._blocking(lambda: keytab.check_service(conf.api.keytab, self._service)),
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
                found = await asyncio.gather(*(self._word(name, ask) for name, ask in asked.items()))
                words = dict(zip(asked, found, strict=True))
                self._kept[which] = time.monotonic() + _KEPT_S, words
            return words

    async def _word(self, name: str, ask: _Ask) -> str:
        """``ok``, or what is wrong in one word; the log has the rest."""
        task = self._under_way.get(name)
        if task is None or task.done():
            task = self._under_way[name] = asyncio.create_task(ask())
            task.add_done_callback(_seen)
        # Not cancelled when its time is over: a thread would go on, and a driver takes its time to let go.
        if task not in (await asyncio.wait({task}, timeout=_CHECK_S))[0]:
            word, why = "timeout", "no answer in time"
        else:
            try:
                task.result()
            except (Error, OSError) as error:  # a TimeoutError is an OSError
                word, why = error.code if isinstance(error, Error) else "unreachable", str(error)
                if isinstance(error, TimeoutError):
                    word = "timeout"
            else:
                return "ok"
        log.get().warning("health.degraded", check=name, code=word, why=why)
        return word

    async def _kdc(self) -> None:
        """Our own ticket from our own keytab: also tells whether the keytab still fits the KDC."""
        await self._blocking(lambda: creds.keytab_tgt(self._service, self._conf.api.keytab))

    async def _cache(self) -> None:
        """One of the caches answers."""
        servers = self._conf.cache.servers
        asked = [_hangs_up(asyncio.open_connection(server.host, server.port)) for server in servers]
        said = await asyncio.gather(*asked, return_exceptions=True)
        if None in said:
            return
        raise next((one for one in said if isinstance(one, TimeoutError)), None) or UnavailableError(
            "no credential cache takes connections"
        )

    async def _scheduler(self) -> None:
        """slurmrestd answers, and people's last request reached slurmctld."""
        await _hangs_up(asyncio.open_unix_connection(self._conf.slurm.socket))
        met = self._slurm.silent_at
        if met is not None and time.monotonic() - met < _MET_S:
            raise UnavailableError("slurmctld did not answer somebody's request", code="scheduler-unreachable")

    async def _blocking(self, act: Callable[[], object]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._threads, act)

    def close(self) -> None:
        """Ask nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


async def _write(transaction: Transaction) -> None:
    """What fails when the database cannot be written. An UPDATE of no row would be fine also on a full disk."""
    await transaction.change(
        "INSERT INTO last_view (one, at, seen) VALUES (0, 0, $1) ON CONFLICT (one) DO UPDATE SET seen = excluded.seen",
        os.urandom(transaction.ROOM),
    )


async def _hangs_up(connecting: Coroutine[Any, Any, tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    """Connect, say goodbye, and wait until the other side closes, as each of ours does and a process that hangs not.

    Raises:
        OSError: nothing listens. TimeoutError: it takes the connection and does nothing.
    """
    async with asyncio.timeout(_CHECK_S - 0.5):
        reader, writer = await connecting
        try:
            with contextlib.suppress(ConnectionError):  # it closed, whatever it left unread
                writer.write_eof()
                while await reader.read(4096):
                    pass
        finally:
            writer.transport.abort()


def _seen(task: asyncio.Task[object]) -> None:
    if not task.cancelled():
        task.exception()  # nobody may be waiting any more


def _sentence(name: str, word: str) -> str:
    return f"{_ABOUT[name]} {_WHY.get(word, 'does not work as it should')}"
