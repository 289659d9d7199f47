"""The user's jobs as the user sees them: Slurm's facts, our record of what was asked, and the ticket's outlook."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from hipercow_slurm import log
from hipercow_slurm.api import config
from hipercow_slurm.api.accounts import Accounts
from hipercow_slurm.api.history import UNKNOWN, History
from hipercow_slurm.api.job_list import Wanted, page
from hipercow_slurm.api.partitions import Partitions
from hipercow_slurm.api.schemas import Credential, JobAnswer, JobBody, JobList, rfc3339
from hipercow_slurm.api.session import Session
from hipercow_slurm.api.slurm_tokens import SlurmTokens
from hipercow_slurm.api.submitting import Made, Submitter
from hipercow_slurm.api.tickets import Filed, Tickets, credential, too_short
from hipercow_slurm.errors import Error, RequestError, SchedulerError, UnavailableError
from hipercow_slurm.slurm import outputs
from hipercow_slurm.slurm.check import TIME_LIMIT
from hipercow_slurm.slurm.model import ENDED, Job, Past
from hipercow_slurm.slurm.rest import SlurmRest

_SAME_S = 300  # from our asking to slurmctld's taking: its answer had to come within that time


class Jobs:
    """What a session may do with jobs: its own user's only."""

    def __init__(
        self,
        conf: config.Jobs,
        accounts: Accounts,
        slurm: SlurmRest,
        tokens: SlurmTokens,
        tickets: Tickets,
        submitter: Submitter,
        history: History,
        partitions: Partitions,
        *,
        accounting: bool = False,
    ) -> None:
        self._conf = conf
        self._accounts = accounts
        self._slurm = slurm
        self._tokens = tokens
        self._tickets = tickets
        self._submitter = submitter
        self._history = history
        self._partitions = partitions
        self._accounting = accounting

    async def submit(self, session: Session, body: JobBody, idempotency_key: str | None) -> JobAnswer:
        """Make a job (see ``Submitter.submit``) and show it, with warnings if its ticket may not last."""
        account = await self._accounts.of(session.principal)
        made = await self._submitter.submit(session, account, body, idempotency_key)
        warnings = made.warnings
        if made.ticket is not None:
            # Slurm is not asked to say again what it was just told: that would double the cost of a submission.
            filed = Filed(made.ticket)
            job = _new(made, session, *await self._partitions.completed(session, made.planned.spec))
        else:
            filed = await self._tickets.filed(session)
            job = await self._found(session, made)
        answer = self._shown(job, filed, warnings)
        if answer.credential.covers_job is False and self._conf.uncovered != "allow":
            answer = self._shown(job, filed, (*warnings, answer.credential.sentence))
        return answer

    async def _found(self, session: Session, made: Made) -> Job:
        """A job that was made earlier."""
        try:
            return await self.find(session, made.job_id)
        except Error as error:
            # The job is made; that Slurm does not show it just now is no reason to tell its owner otherwise.
            log.get().warning("job.not-shown", job_id=made.job_id, code=error.code, why=error.message)
            spec = made.planned.spec
            return _new(made, session, spec.partition or "", spec.time_limit_min)

    async def find(self, session: Session, job_id: int) -> Job:
        """One job of the user's, also one that only our own record still has.

        While Slurm does not answer, that is one of which somebody has seen the end.

        Raises:
            SchedulerError: code ``no-such-job`` (404), also for jobs of others.
        """
        try:
            return await self.live(session, job_id)
        except SchedulerError as error:
            forgotten = await self._history.of(session, job_id) if error.code == "no-such-job" else None
            if forgotten is None:
                raise
            return await self._accounted(session, forgotten) if self._accounting else forgotten
        except UnavailableError as error:
            kept = await self._history.of(session, job_id) if error.code == "scheduler-unreachable" else None
            if kept is None or kept.state == UNKNOWN:
                raise
            return kept

    async def _accounted(self, session: Session, job: Job) -> Job:
        """A job of our record, and how it ended by Slurm's accounting, if our record does not know."""
        if job.state != UNKNOWN:
            return job
        try:
            found = await self._tokens.call(session, lambda who: self._slurm.past(who, job.job_id))
        except Error as error:
            log.get().warning("job.not-accounted", job_id=job.job_id, code=error.code, why=error.message)
            return job
        known = with_past(job, found)
        await self._history.note(session, [known])
        return known

    async def live(self, session: Session, job_id: int) -> Job:
        """One job of the user's that Slurm still knows.

        Raises:
            SchedulerError: code ``no-such-job`` (404), also for jobs of others.
        """
        job = await self._tokens.call(session, lambda who: self._slurm.job(who, job_id))
        if job.uid != session.uid:
            raise SchedulerError(f"you have no job {job_id}", code="no-such-job", status=404)
        await self._history.note(session, [job])
        return job

    async def mine(self, session: Session) -> list[Job]:
        """All the user's jobs that Slurm knows."""
        jobs = await self._tokens.call(session, self._slurm.jobs)
        own = [job for job in jobs if job.uid == session.uid]
        await self._history.note(session, own)
        return own

    async def show(self, session: Session, job_id: int) -> JobAnswer:
        """One job with its ticket's outlook."""
        job = await self.find(session, job_id)
        return self._shown(job, await self._tickets.filed(session))

    async def listing(self, session: Session, want: Wanted) -> JobList:
        """The user's jobs that ``want`` names, page by page."""
        jobs = await self.mine(session)
        if want.forgotten:
            known = {job.job_id for job in jobs} | {job.array_job_id for job in jobs}
            jobs += [job for job in await self._history.all_of(session) if job.job_id not in known]
        chosen, cursor = page(jobs, want)
        filed = await self._tickets.filed(session)
        return JobList(jobs=[self._shown(job, filed) for job in chosen], next_cursor=cursor)

    async def cancel(self, session: Session, job_id: int) -> None:
        """Cancel a job; one that has ended stays as it is."""
        job = await self.find(session, job_id)
        if job.state == UNKNOWN:
            return
        await self._tokens.call(session, lambda who: self._slurm.cancel(who, job_id))
        log.get().info("job.cancelled", principal=session.principal, uid=session.uid, job_id=job_id)

    async def refuse_uncovered(self, session: Session, job: Job, time_limit_min: int) -> None:
        """Raise if that time limit is none, or longer than ``job`` has and than its owner's ticket is kept good.

        Raises:
            RequestError: more than Slurm's longest. CredentialError: ``ticket-too-short`` (403).
        """
        if time_limit_min > TIME_LIMIT:
            raise RequestError(f"time_limit_min is {time_limit_min}; it must be from 1 to {TIME_LIMIT}")
        shorter = job.time_limit_min is not None and time_limit_min <= job.time_limit_min
        if self._conf.uncovered != "refuse" or shorter:
            return
        longer = msgspec.structs.replace(job, time_limit_min=time_limit_min, latest_end=None)
        ticket = outlook(longer, await self._tickets.filed(session), int(time.time()))
        if ticket.covers_job is False:
            raise too_short(ticket.sentence)

    def _shown(self, job: Job, filed: Filed, warnings: tuple[str, ...] = ()) -> JobAnswer:
        return shown(job, filed, int(time.time()), warnings, waits=waits_for_ticket(job, self._conf.held_marker))


def waits_for_ticket(job: Job, marker: str) -> bool:
    """Was the job put back and held by its node because there was no ticket for it?"""
    held = job.state == "PENDING" and (job.reason or "").startswith(("JobHeld", "job_requeued_in_held_state"))
    return held and bool(marker) and any(marker in text for text in (job.comment, job.remark, job.reason) if text)


def with_past(job: Job, found: Sequence[Past]) -> Job:
    """A job of our record completed by what accounting has under its id, if that is certainly the same job.

    Accounting shows everybody's jobs and ids are used again, so only one that was submitted when ours was counts. Of an
    array's tasks no state is the array's.
    """
    ours = [one for one in found if one.user in (None, job.user)]
    same = [one for one in ours if abs(one.submit_time - (job.submit_time or 0)) <= _SAME_S]
    if len(same) != 1 or job.array_job_id is not None or same[0].state not in ENDED - {UNKNOWN}:
        return job
    past = same[0]
    return msgspec.structs.replace(
        job,
        state=past.state,
        reason=None,
        partition=past.partition or job.partition,
        nodes=past.nodes,
        node_count=len(past.nodes) or job.node_count,
        submit_time=past.submit_time,
        start_time=past.start_time,
        end_time=past.end_time,
        exit_code=past.exit_code,
        signal=past.signal,
    )


def ends_by(job: Job, now: int) -> int | None:
    """The latest second the job can run, if it starts now or has started; None if it has no limit."""
    if job.latest_end is not None:
        return job.latest_end
    if job.time_limit_min is None:
        return None
    return (job.start_time or now) + 60 * job.time_limit_min


def outlook(job: Job, filed: Filed, now: int) -> Credential:
    """The ticket's outlook for this job."""
    return credential(filed, ends_by=ends_by(job, now), over=job.ended, now=now)


def shown(job: Job, filed: Filed, now: int, warnings: tuple[str, ...] = (), *, waits: bool = False) -> JobAnswer:
    """The job as it travels; ``waits``: for its owner's next login."""
    ticket = outlook(job, filed, now)
    if waits:
        ticket = msgspec.structs.replace(ticket, sentence=_WAITS)
    return JobAnswer(
        job_id=job.job_id,
        name=job.name,
        user=job.user,
        partition=job.partition,
        state=job.state,
        reason=job.reason,
        exit_code=job.exit_code,
        signal=job.signal,
        nodes=list(job.nodes),
        node_count=job.node_count,
        submit_time=rfc3339(job.submit_time),
        start_time=rfc3339(job.start_time),
        end_time=rfc3339(job.end_time),
        time_limit_min=job.time_limit_min,
        working_directory=job.working_directory,
        output=job.output or None,
        error=job.error or None,
        credential=ticket,
        array_job_id=job.array_job_id,
        array_task_id=job.array_task_id,
        held_for_ticket=waits,
        warnings=list(warnings),
    )


_WAITS = "The job found no ticket of yours on its node and was put back, held: log in again, and it is released."


def _new(made: Made, session: Session, partition: str, time_limit_min: int | None) -> Job:
    """The job as Slurm was asked for it, in the queue."""
    spec, is_array = made.planned.spec, made.planned.spec.array is not None
    names = outputs.Names(
        job_id=made.job_id,
        job_name=spec.name or "job",
        user=session.localname,
        array_job_id=made.job_id if is_array else None,
        array_task_id=None,
        is_array=is_array,
        first_node=None,
    )
    output = outputs.fill(made.planned.output, names)
    return Job(
        job_id=made.job_id,
        name=names.job_name,
        user=session.localname,
        uid=session.uid,
        partition=partition,
        state="PENDING",
        reason="JobHeldUser" if spec.hold else None,
        exit_code=None,
        signal=None,
        nodes=(),
        node_count=spec.nodes or 1,
        submit_time=int(time.time()),
        start_time=None,
        end_time=None,
        latest_end=None,
        time_limit_min=time_limit_min,
        working_directory=made.planned.working_directory,
        output=output,
        error=output if made.planned.error == made.planned.output else outputs.fill(made.planned.error, names),
        array_job_id=names.array_job_id,
    )
