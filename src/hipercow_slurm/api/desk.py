"""A bounded number of threads for what people ask the KDC through us, and our own ticket that protects it.

Rule 1: as many questions at once as there are workers, a bounded number waiting; more are told to come back.
Rule 2: a question has its deadline; a thread that still hangs keeps its place, so hanging KDCs cost no memory.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from hipercow_slurm import log
from hipercow_slurm.api.config import Limits
from hipercow_slurm.api.problems import ThrottledError
from hipercow_slurm.errors import ConfigError, Error, UnavailableError
from hipercow_slurm.krb5 import creds
from hipercow_slurm.values import KrbCred

T = TypeVar("T")
_QUESTION_S = 30.0


class Desk:
    """Where questions to the KDC wait their turn."""

    def __init__(self, limits: Limits) -> None:
        workers = limits.login_workers or os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="login")
        self._places = workers + limits.login_queue

    async def ask(self, question: Callable[[], T], *, turned_away: Callable[[], None] = lambda: None) -> T:
        """Run ``question`` in a thread; ``turned_away`` is called instead if there is no place.

        Raises:
            ThrottledError: ``too-many-logins``. UnavailableError: ``kdc-unreachable``: no answer in 30 s.
        """
        if self._places <= 0:
            turned_away()
            raise ThrottledError("too many logins at this moment", code="too-many-logins", retry_after_s=2)
        self._places -= 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, question)
        future.add_done_callback(self._free_place)
        try:
            async with asyncio.timeout(_QUESTION_S):
                return await asyncio.shield(future)
        except TimeoutError:
            raise UnavailableError(
                f"the KDC did not answer within {_QUESTION_S:.0f} s", code="kdc-unreachable"
            ) from None

    def close(self) -> None:
        """Take no more questions."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _free_place(self, future: asyncio.Future[Any]) -> None:
        self._places += 1
        if not future.cancelled():
            future.exception()  # seen: nobody may be waiting any more


class Armor:
    """Our own TGT, as FAST armour around users' logins; used from the desk's threads.

    The KDC's answer inside of the armour proves that it is the genuine one, and nobody who listens can try passwords
    on what passed. Where our principal gets no TGT (Active Directory, unless it is made a user), there is none.
    """

    _LEFT_S = 120.0
    _AGAIN_S = 60.0

    def __init__(self, principal: str, keytab: str) -> None:
        self._principal = principal
        self._keytab = keytab
        self._lock = threading.Lock()
        self._ticket: KrbCred | None = None
        self._not_before = 0.0

    def ticket(self) -> KrbCred | None:
        """A TGT that is good for a while, or None where we get none. Blocking.

        Raises:
            UnavailableError: ``kdc-unreachable``.
        """
        with self._lock:
            if self._ticket is not None and self._ticket.times.endtime - time.time() > self._LEFT_S:
                return self._ticket
            if time.monotonic() < self._not_before:
                return None
            try:
                self._ticket = creds.keytab_tgt(self._principal, self._keytab)
            except UnavailableError:
                raise
            except Error as error:
                self._ticket, self._not_before = None, time.monotonic() + self._AGAIN_S
                level = log.get().error if isinstance(error, ConfigError) else log.get().warning
                level("login.without-armor", code=error.code, why=error.message)
            return self._ticket

    def forget(self, ticket: KrbCred) -> None:
        """The KDC did not take it (its keys were changed, say): the next gets another."""
        with self._lock:
            if self._ticket is ticket:
                self._ticket = None
