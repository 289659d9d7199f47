"""One request to slurmrestd: with which version of its API, over which connection, and what its failing means.

slurmrestd authenticates each request by itself, so one pool serves all users (measured: alice, bob and nobody on
one connection). It stops accepting at 124 open connections and never times them out, hence the bound; it
answers a chunked body with 406, hence bodies of known length only.

Rule 1: the token goes into one header and nowhere else. Rule 2: a slurmctld that is known to be silent
(``silence.py``) is not asked; what is only read waits for it no longer than that takes to know.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from hipercow_slurm.errors import Error, RequestError
from hipercow_slurm.slurm import answers, link, versions
from hipercow_slurm.slurm.answers import Answer
from hipercow_slurm.slurm.family import Family
from hipercow_slurm.slurm.link import Pool
from hipercow_slurm.slurm.silence import Silence

T = TypeVar("T")

JOB_LIMIT = 8 * 1024 * 1024  # bytes; one job is 4 kB, an array answers with all its tasks


class Who(Protocol):
    """Whom a request is for: what the signer's client returns has this form."""

    @property
    def localname(self) -> str: ...

    @property
    def token(self) -> str: ...


class Asking:
    """slurmrestd, asked for somebody.

    Args:
        socket: path of slurmrestd's unix socket.
        family: the adapter of its API's version, by somebody who knows; None: asked for with the first request, and
            again when slurmrestd no longer serves it.
        timeout_s: for one whole call, waiting for a free connection included.
        ping_after_s: after so long we ask whether slurmctld is there; if it is not, a read ends.
        connections: at most this many at a time, and one more for that question.
    """

    def __init__(
        self, socket: str, family: Family | None, *, timeout_s: float, ping_after_s: float, connections: int
    ) -> None:
        self._pool = Pool(socket, connections)
        self._ping_pool = Pool(socket, 1)
        self._silence: Silence[Who] = Silence(self._is_there, ping_after_s)
        self._timeout_s = timeout_s
        self._family = family
        self._choosing = asyncio.Lock()

    def close(self) -> None:
        """Hang up, and ask nothing more."""
        self._silence.close()
        self._pool.close()
        self._ping_pool.close()

    @property
    def silent_at(self) -> float | None:
        """When (``time.monotonic``) slurmctld did not answer the last call; None: it did."""
        return self._silence.since

    async def twice(self, who: Who, once: Callable[[Family], Awaitable[T]]) -> T:
        """Ask again if the token seems refused: slurmctld dying at that moment looks the same, once."""
        try:
            return await self.served(who, once)
        except Error as error:
            if error.code != "slurm-token-refused":
                raise
            return await self.served(who, once)

    async def served(self, who: Who, act: Callable[[Family], Awaitable[T]]) -> T:
        """Act with the version slurmrestd speaks, and note whether slurmctld answered."""
        if self._silence.since is not None and not await self._silence.is_over(who):
            raise answers.unreachable("it does not answer at this moment")
        try:
            result = await self._acted(who, act)
        except RequestError:  # mostly ours, before Slurm was asked
            raise
        except Error as error:
            if _silent(error):
                self._silence.met()
            else:
                self._silence.heard()
            raise
        self._silence.heard()
        return result

    async def chosen(self, who: Who) -> Family:
        """The newest version that slurmrestd and we know."""
        if self._family is not None:
            return self._family
        async with self._choosing:
            if self._family is None:
                answer = await self.ask(who, "GET", versions.PATH, versions.LIMIT)
                self._family = versions.newest(answer)
            return self._family

    async def ask(
        self,
        who: Who,
        method: str,
        path: str,
        limit: int,
        *,
        body: bytes | None = None,
        sent: Sent | None = None,
        pool: Pool | None = None,
    ) -> Answer:
        """One HTTP request and its whole answer, of at most ``limit`` bytes; on ``pool`` it asks for the others."""
        headers = {"X-SLURM-USER-NAME": who.localname, "X-SLURM-USER-TOKEN": who.token}
        if body is not None:
            headers["Content-Type"] = "application/json"
        request = link.request(method, path, headers, body)
        begin = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout_s) as deadline:
                if pool is not None:
                    reply = await pool.exchange(request, limit, sent or Sent(), who.localname)
                else:
                    # What changes something is waited for: whether it was done would not be known.
                    with self._silence.doubt(who, deadline if method == "GET" else None):
                        reply = await self._pool.exchange(request, limit, sent or Sent(), who.localname)
        except TimeoutError as error:
            waited_s = time.monotonic() - begin
            raise answers.unreachable(f"no answer from slurmrestd in {waited_s:.0f} s") from error
        except link.TooLongError as error:
            raise answers.unreadable(str(error)) from error
        except link.HungUpError as error:
            raise answers.unreachable(f"slurmrestd: {error}") from error
        except OSError as error:
            raise answers.unreachable(f"slurmrestd: {error.strerror or type(error).__name__}") from error
        return Answer(reply.status, reply.content_type, reply.body, time.monotonic() - begin)

    async def _acted(self, who: Who, act: Callable[[Family], Awaitable[T]]) -> T:
        """Another slurmrestd may stand at the socket since last time."""
        family = await self.chosen(who)
        try:
            return await act(family)
        except Error as error:
            if error.code != answers.NOT_SERVED:
                raise
            if self._family is family:
                self._family = None
            return await act(await self.chosen(who))

    async def _is_there(self, who: Who) -> bool:
        """Does slurmctld answer? True also where that is not what is wrong."""
        try:
            family = await self.chosen(who)
            family.read_ping(await self.ask(who, "GET", family.ping_path(), JOB_LIMIT, pool=self._ping_pool))
        except Error as error:
            return not _silent(error)
        return True


class Sent:
    """Whether anything of a request was written: called by the pool when it is about to."""

    yes = False

    def __call__(self) -> None:
        self.yes = True


def _silent(error: Error) -> bool:
    """slurmrestd said that slurmctld does not answer, or waited for it too long itself; not: slurmrestd is down."""
    while isinstance(error.__cause__, Error):
        error = error.__cause__
    heard = error.__cause__ is None or isinstance(error.__cause__, TimeoutError)
    return heard and error.code == "scheduler-unreachable"
