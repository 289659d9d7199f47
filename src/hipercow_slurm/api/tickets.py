"""What the credential cache holds for a user, and whether that outlives a job.

The cache is asked as the user, with the session's own ticket; the API has no right of its own there. Answers are
remembered for two seconds: a list of a hundred jobs costs one question.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from hipercow_slurm import log
from hipercow_slurm.api.schemas import Credential, rfc3339
from hipercow_slurm.api.session import Session, last_good
from hipercow_slurm.client.auks import AuksClient
from hipercow_slurm.errors import CredentialError, Error, UnavailableError
from hipercow_slurm.values import KrbCred, TicketTimes

State = Literal["ok", "expiring", "expired", "missing", "unknown"]
_REMEMBERED_S = 2.0
_SOON_S = 600  # a ticket that cannot be kept good for longer than this is about to end
_PATIENCE_S = 3.0  # whoever looks at jobs does not wait longer for what is only a remark on them
_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Filed:
    """What the cache said: ``times`` of the user's ticket there, None if there is none; not ``known`` if silent."""

    times: TicketTimes | None
    known: bool = True


_NEVER = (0.0, Filed(None, known=False))


class Tickets:
    """Asks and feeds the credential cache as the user."""

    def __init__(self, cache: AuksClient) -> None:
        self._cache = cache
        self._answers: dict[int, tuple[float, Filed]] = {}
        self._locks: dict[int, asyncio.Lock] = {}
        self._silent_until = 0.0

    async def add(self, uid: int, cred: KrbCred) -> None:
        """File ``cred``, proving with itself that it is the user's.

        Raises:
            UnavailableError: no cache answers. AccessError: the cache refuses.
        """
        async with self._lock(uid):  # a question asked meanwhile must not leave its older answer behind
            with _in_short():
                await self._cache.add(cred, auth=cred)
            self._answers.pop(uid, None)

    async def remove(self, session: Session) -> bool:
        """Take the user's ticket out of the cache; False if there was none.

        Raises:
            UnavailableError: no cache answers. AccessError: the cache refuses.
        """
        async with self._lock(session.uid):
            self._answers.pop(session.uid, None)
            with _in_short():
                return await self._cache.remove(session.uid, auth=session.cred)

    async def filed(self, session: Session) -> Filed:
        """What the cache holds for the session's user; a silent cache is an answer, not an error."""
        if time.monotonic() < self._silent_until:
            return Filed(None, known=False)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return Filed(await self._times(session))
        except (Error, TimeoutError) as error:
            self._silent_until = time.monotonic() + _REMEMBERED_S
            log.get().warning("cache.silent", principal=session.principal, why=str(error) or "no answer in time")
            return Filed(None, known=False)

    async def make_sure(self, session: Session) -> TicketTimes:
        """Before a submission: the cache holds a ticket at least as good as the session's.

        Raises:
            UnavailableError: no cache answers; the job would start without a ticket.
        """
        times = await self._times(session)
        if times is None or worse(times, session.cred.times, time.time()):
            await self.add(session.uid, session.cred)
            log.get().info("cache.filed", principal=session.principal, uid=session.uid)
            times = session.cred.times
        return times

    async def _times(self, session: Session) -> TicketTimes | None:
        """Ask once for all who want to know at this moment."""
        found = self._remembered(session.uid)
        if found is not None:
            return found.times
        async with self._lock(session.uid):
            if (found := self._remembered(session.uid)) is not None:  # somebody else has just asked
                return found.times
            with _in_short():
                cred = await self._cache.get(session.uid, auth=session.cred)
            # Another person's ticket under this uid would be a fault of the cache; it is not this user's ticket.
            times = cred.times if cred is not None and cred.client == session.principal else None
            self._answers[session.uid] = (time.monotonic() + _REMEMBERED_S, Filed(times))
            return times

    def _remembered(self, uid: int) -> Filed | None:
        """What the cache said a moment ago."""
        until, filed = self._answers.get(uid, _NEVER)
        return filed if until > time.monotonic() else None

    def _lock(self, uid: int) -> asyncio.Lock:
        if len(self._locks) >= _KEPT:
            self._locks.clear()
            self._answers.clear()
        return self._locks.setdefault(uid, asyncio.Lock())


@contextlib.contextmanager
def _in_short() -> Iterator[None]:
    """Which caches were asked, and what became of each, is the operator's business and goes to the log."""
    try:
        yield
    except UnavailableError as error:
        if error.code != "cache-unreachable":
            raise
        log.get().warning("cache.unreachable", why=error.message)
        raise UnavailableError(
            "no credential cache answers",
            code=error.code,
            hint="try again; an administrator should look at the credential cache",
        ) from error


def too_short(why: str) -> CredentialError:
    """Our refusal of a job that may run for longer than its owner's ticket can be kept good."""
    return CredentialError(
        f"the job may outlast your ticket: {why}",
        code="ticket-too-short",
        hint="give the job a shorter time limit, or log in again for a fresh ticket",
    )


def worse(filed: TicketTimes, ours: TicketTimes, now: float) -> bool:
    """Would our ticket serve the job better than the one filed? The cache renews its own, so ends may differ."""
    if filed.endtime <= now:
        return True
    if filed.renew_till != ours.renew_till:
        return filed.renew_till < ours.renew_till
    return filed.renew_till == 0 and filed.endtime < ours.endtime


def credential(filed: Filed, *, ends_by: int | None, over: bool, now: int) -> Credential:
    """Put ticket and job together.

    Args:
        filed: what the cache holds.
        ends_by: the job's latest end in epoch seconds; None if it has none or it is not known.
        over: the job has ended.
        now: epoch seconds.
    """
    times = filed.times
    if times is None:
        return _without(known=filed.known, over=over)
    covers = None if over or ends_by is None else times.endtime > now and last_good(times) >= ends_by
    state: State
    if times.endtime <= now:
        state = "expired"
    elif covers is False or (not over and last_good(times) - now < _SOON_S):
        state = "expiring"
    else:
        state = "ok"
    return Credential(
        state=state,
        valid_until=rfc3339(times.endtime),
        renewable_until=rfc3339(times.renew_till),
        covers_job=covers,
        sentence=_ENDED if over else _sentence(times, ends_by=ends_by, covers=covers, now=now),
    )


_ENDED = "The job has ended and needs no ticket any more."


def _sentence(times: TicketTimes, *, ends_by: int | None, covers: bool | None, now: int) -> str:
    if times.endtime <= now:
        return f"Your ticket expired at {rfc3339(times.endtime)}: log in again, so that the job can reach your files."
    good = f"Your ticket is kept good until {rfc3339(last_good(times))}"
    if covers is None:
        return f"{good}; how long the job may run is not known."
    if covers:
        return f"{good}; the job ends by {rfc3339(ends_by)} at the latest."
    return (
        f"{good}, but the job may run until {rfc3339(ends_by)}: log in again before then, "
        "or it can no longer reach your files."
    )


def _without(*, known: bool, over: bool) -> Credential:
    """The answer where there is no ticket to speak of."""
    if not known:
        sentence = "The credential cache does not answer, so it is not known until when the job's ticket is good."
    else:
        sentence = "The credential cache has no ticket of yours: log in again, so that the job can reach your files."
    return Credential(
        state="missing" if known else "unknown",
        valid_until=None,
        renewable_until=None,
        covers_job=False if known and not over else None,
        sentence=_ENDED if over else sentence,
    )
