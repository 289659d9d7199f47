"""Submitting without ever making a second job by accident.

Rule 1: a submission with an Idempotency-Key is on disk, with a marker that also travels in the job's comment,
before Slurm is asked; without a key nobody can ask for it again, and it is noted with Slurm's answer. Rule 2: when
the answer was lost (Slurm silent, this process killed), the user's jobs are searched for the marker before Slurm is
asked again. Rule 3: where even that cannot tell, we say so and do not guess:

    age of the lost attempt      marker found    marker not found
    up to the settling time      that job        wait: slurmctld may still be busy with it
    up to Slurm's MinJobAge      that job        it was never made: ask again
    older                        that job        it may have come and gone: refuse (submit-unknown)
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from typing import Literal

import msgspec

from hipercow_slurm import log
from hipercow_slurm.api import submissions_db
from hipercow_slurm.api.accounts import Account
from hipercow_slurm.api.config import Config
from hipercow_slurm.api.database import Database
from hipercow_slurm.api.history import asked
from hipercow_slurm.api.job_spec import Planned, plan
from hipercow_slurm.api.partitions import Partitions, default_limit
from hipercow_slurm.api.problems import current_request_id
from hipercow_slurm.api.schemas import JobBody, rfc3339
from hipercow_slurm.api.session import Session, last_good
from hipercow_slurm.api.slurm_tokens import SlurmTokens
from hipercow_slurm.api.submissions_db import Submission
from hipercow_slurm.api.tickets import Tickets, too_short
from hipercow_slurm.api.trail import tell
from hipercow_slurm.errors import Error, RequestError, SchedulerError, UnavailableError
from hipercow_slurm.slurm.model import Job, JobSpec, Submitted
from hipercow_slurm.slurm.rest import SlurmRest
from hipercow_slurm.values import TicketTimes

_STAMP_S = 3.0  # a submission that was filed this long ago is stamped anew before Slurm is asked
_POLL_S = 0.5
_POLLS = 6  # how often a request looks for a lost job before it asks its caller to come back
_SEARCH_S = 6.0  # and for how long it begins another look: with a Slurm that hangs, each takes its whole deadline


class Made(msgspec.Struct, frozen=True):
    """A job that exists now.

    Attributes:
        warnings: what the user should know besides.
        ticket: what the cache holds for the user; None: not asked, as the job was made earlier.
    """

    job_id: int
    planned: Planned
    warnings: tuple[str, ...] = ()
    ticket: TicketTimes | None = None


class Submitter:
    """Makes jobs, each at most once."""

    def __init__(
        self,
        conf: Config,
        database: Database,
        slurm: SlurmRest,
        tokens: SlurmTokens,
        tickets: Tickets,
        partitions: Partitions,
    ) -> None:
        self._conf = conf.jobs
        self._database = database
        self._slurm = slurm
        self._tokens = tokens
        self._tickets = tickets
        self._partitions = partitions
        self._settled_s = conf.slurm.timeout_s + 5
        self._min_job_age_s = conf.slurm.min_job_age_s
        self._under_way: dict[tuple[str, str], asyncio.Event] = {}  # set when the request with this key is over

    async def submit(self, session: Session, account: Account, body: JobBody, idempotency_key: str | None) -> Made:
        """Make the job that ``body`` describes; with a key that was used before, the job it made then.

        Raises:
            RequestError: the job cannot run; ``idempotency-key-reused`` (422): the key made another job.
            SchedulerError: Slurm's refusal in its words; ``submit-unknown`` (504): no one can tell.
            UnavailableError: Slurm, the signer or the credential cache do not answer; no job was made.
        """
        marker = submissions_db.new_marker()
        planned = plan(body, account, comment=_comment(marker), allowed=self._conf)
        row = Submission(
            marker=marker,
            principal=session.principal,
            idempotency_key=idempotency_key,
            digest=_digest(body),
            attempted_at=int(time.time()),
            uid=session.uid,
            request_id=current_request_id(),
            working_directory=planned.working_directory,
            output=planned.output,
            error=planned.error,
            asked=asked(planned.spec),
        )
        begun = time.monotonic()
        if idempotency_key is None:
            return await self._first(session, row, planned, begun)
        name = (session.principal, idempotency_key)
        while (before := self._under_way.get(name)) is not None:
            await before.wait()
        over = self._under_way[name] = asyncio.Event()
        try:
            filed, age_s = await self._database.run(submissions_db.reserve(row), small=True)
            if filed.marker == marker:
                return await self._first(session, filed, planned, begun)
            repeated = plan(body, account, comment=_comment(filed.marker), allowed=self._conf)
            return await self._again(session, filed, row, repeated, age_s)
        finally:
            del self._under_way[name]
            over.set()

    async def _first(self, session: Session, row: Submission, planned: Planned, begun: float) -> Made:
        """Ask Slurm; afterwards the row says what came of it. It was stamped after ``begun`` (monotonic seconds)."""
        try:
            times = await self._tickets.make_sure(session)
            await self._tokens.of(session)
            if self._conf.uncovered == "refuse":
                await self._refuse_uncovered(session, planned.spec, times)
        except Error:
            await self._unmade(row)
            raise
        if row.idempotency_key is not None and time.monotonic() - begun > _STAMP_S:
            row = await self._stamped(row)  # or it could look settled to another process while Slurm is asked
        try:
            submitted = await self._tokens.call(session, lambda who: self._slurm.submit(who, planned.spec))
        except Error as error:
            if error.code != "submit-unknown":
                await self._unmade(row)
                raise
            try:
                found = await self._search(session, row.marker)
            except UnavailableError:
                found = None
            if found is None:
                log.get().warning("job.unknown", principal=session.principal, marker=row.marker, why=error.message)
                raise
            submitted = Submitted(found)
        return self._made(session, row, planned, submitted, times)

    async def _stamped(self, row: Submission) -> Submission:
        """The row with the present time.

        Raises:
            UnavailableError: ``submit-unsettled``: another process asks Slurm about it, or knows what came of it.
        """
        stamped = await self._database.run(submissions_db.attempt(row), small=True)
        if stamped is None:
            raise _unsettled()
        return stamped

    async def _unmade(self, row: Submission) -> None:
        """Slurm certainly has no such job: the key is free again."""
        if row.idempotency_key is not None:
            await self._database.run(submissions_db.refused(row.marker), small=True)

    async def _refuse_uncovered(self, session: Session, spec: JobSpec, times: TicketTimes) -> None:
        """Raise if the job may run for longer than its owner's ticket can be kept good.

        Raises:
            CredentialError: ``ticket-too-short`` (403).
        """
        limit = spec.time_limit_min
        begin = max(int(time.time()), spec.begin_time or 0)
        for fresh in (False, True):
            if spec.time_limit_min is None:
                limit = default_limit(await self._partitions.of(session, fresh=fresh), spec.partition)
            if limit is not None and begin + 60 * limit <= last_good(times):
                break
        else:
            until = "without a time limit" if limit is None else f"until {rfc3339(begin + 60 * limit)}"
            raise too_short(f"it can be kept good until {rfc3339(last_good(times))}, and the job may run {until}")

    async def _again(self, session: Session, filed: Submission, row: Submission, planned: Planned, age_s: int) -> Made:
        """The key is known: give its job, or find out what became of it."""
        if filed.digest != row.digest:
            raise RequestError(
                "this Idempotency-Key was used for another submission",
                code="idempotency-key-reused",
                status=422,
                hint="use a fresh key for each job",
            )
        if filed.job_id is not None:
            return Made(filed.job_id, planned, planned.warnings)
        begun = time.monotonic()
        found = await self._search(session, filed.marker)
        if found is not None:
            return self._made(session, filed, planned, Submitted(found))
        age = age_s + time.monotonic() - begun
        fate = fate_of(age, settled_s=self._settled_s, min_job_age_s=self._min_job_age_s)
        if fate == "wait":
            raise _unsettled()
        if fate == "unknown":
            raise SchedulerError(
                "the answer to the first attempt was lost, and by now its job may have come and gone",
                code="submit-unknown",
                status=504,
                hint="look at the job's results; to run it again, use a fresh Idempotency-Key",
            )
        begun = time.monotonic()
        return await self._first(session, await self._stamped(filed), planned, begun)

    def _made(
        self,
        session: Session,
        row: Submission,
        planned: Planned,
        submitted: Submitted,
        ticket: TicketTimes | None = None,
    ) -> Made:
        """Note the job that exists, whatever happens to our record of it.

        Nobody waits for the note: if we are killed before it is there, whoever comes with the key again finds the job
        by its marker, as if the answer had been lost.
        """
        log.info(
            "job.submitted",
            {
                "principal": session.principal,
                "uid": session.uid,
                "job_id": submitted.job_id,
                "marker": row.marker,
                "working_directory": planned.working_directory,
                "request_id": current_request_id(),
            },
        )
        tell(job_id=submitted.job_id)
        if row.idempotency_key is None:
            note = submissions_db.record(msgspec.structs.replace(row, job_id=submitted.job_id))
        else:
            note = submissions_db.answered(row.marker, submitted.job_id)
        self._database.tell(note, f"job {submitted.job_id}, marker {row.marker}")
        message = (submitted.message,) if submitted.message else ()
        return Made(submitted.job_id, planned, planned.warnings + message, ticket)

    async def _search(self, session: Session, marker: str) -> int | None:
        """The job with this marker among the user's; looks a few times, as Slurm may be slow to show it.

        Raises:
            UnavailableError: Slurm did not answer the last time: that the job is not there is not known.
        """
        end = time.monotonic() + _SEARCH_S
        for attempt in range(_POLLS):
            if attempt:
                await asyncio.sleep(_POLL_S)
            try:
                jobs = await self._tokens.call(session, self._slurm.jobs)
            except UnavailableError:
                if attempt == _POLLS - 1 or time.monotonic() > end:
                    raise
                continue
            found = find(jobs, _comment_begins(marker))
            if found is not None or time.monotonic() > end:
                return found
        return None


def _unsettled() -> UnavailableError:
    return UnavailableError(
        "the first attempt with this Idempotency-Key is not settled yet",
        code="submit-unsettled",
        hint="repeat the request with the same key",
    )


def find(jobs: list[Job], comment: str) -> int | None:
    """The id of the job whose comment begins so; of an array, the array's."""
    ours: Callable[[Job], bool] = lambda job: (job.comment or "").split(" ", 1)[0] == comment  # noqa: E731
    ids = [job.array_job_id or job.job_id for job in jobs if ours(job)]
    return min(ids) if ids else None


def fate_of(age_s: float, *, settled_s: float, min_job_age_s: float) -> Literal["wait", "ask-again", "unknown"]:
    """What to do about a lost attempt whose job is not to be seen (table above)."""
    if age_s <= settled_s:
        return "wait"
    return "ask-again" if age_s < min_job_age_s else "unknown"


def _comment_begins(marker: str) -> str:
    return f"hipercow-slurm:{marker}"


def _comment(marker: str) -> str:
    return f"{_comment_begins(marker)} request={current_request_id()}"


def _digest(body: JobBody) -> bytes:
    """The same job gives the same digest however its JSON was spaced and ordered, and whether it says the obvious."""
    same = body if body.hold else msgspec.structs.replace(body, hold=None)
    return hashlib.sha256(msgspec.json.encode(same, order="deterministic")).digest()
