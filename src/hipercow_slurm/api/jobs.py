"""The user's jobs as the user sees them: Slurm's facts, our record of what was asked, and the ticket's outlook."""

from __future__ import annotations

import time

from hipercow_slurm import log
from hipercow_slurm.api.accounts import Accounts
from hipercow_slurm.api.schemas import Credential, JobAnswer, JobBody, JobList, rfc3339
from hipercow_slurm.api.sessions import Session
from hipercow_slurm.api.slurm_tokens import SlurmTokens
from hipercow_slurm.api.submitting import Submitter
from hipercow_slurm.api.tickets import Filed, Tickets, credential
from hipercow_slurm.errors import Error, SchedulerError
from hipercow_slurm.slurm.model import Job
from hipercow_slurm.slurm.rest import SlurmRest


class Jobs:
    """What a session may do with jobs: its own user's only."""

    def __init__(
        self, accounts: Accounts, slurm: SlurmRest, tokens: SlurmTokens, tickets: Tickets, submitter: Submitter
    ) -> None:
        self._accounts = accounts
        self._slurm = slurm
        self._tokens = tokens
        self._tickets = tickets
        self._submitter = submitter

    async def submit(self, session: Session, body: JobBody, idempotency_key: str | None) -> JobAnswer:
        """Make a job (see ``Submitter.submit``) and show it, with warnings if its ticket may not last."""
        account = await self._accounts.of(session.principal)
        job_id, warnings = await self._submitter.submit(session, account, body, idempotency_key)
        filed = await self._tickets.filed(session)
        try:
            job = await self.find(session, job_id)
        except Error as error:
            # The job is made; that Slurm does not show it just now is no reason to tell its owner otherwise.
            log.get().warning("job.not-shown", job_id=job_id, code=error.code, why=error.message)
            job = _unseen(job_id, session, body, account.home)
        answer = shown(job, filed, int(time.time()), warnings)
        if answer.credential.covers_job is False:
            answer = shown(job, filed, int(time.time()), (*warnings, answer.credential.sentence))
        return answer

    async def find(self, session: Session, job_id: int) -> Job:
        """One job of the user's.

        Raises:
            SchedulerError: code ``no-such-job`` (404), also for jobs of others.
        """
        job = await self._tokens.call(session, lambda who: self._slurm.job(who, job_id))
        if job.uid != session.uid:
            raise SchedulerError(f"you have no job {job_id}", code="no-such-job", status=404)
        return job

    async def show(self, session: Session, job_id: int) -> JobAnswer:
        """One job with its ticket's outlook."""
        job = await self.find(session, job_id)
        return shown(job, await self._tickets.filed(session), int(time.time()))

    async def listing(self, session: Session) -> JobList:
        """All the user's jobs that Slurm knows."""
        jobs = await self._tokens.call(session, self._slurm.jobs)
        filed = await self._tickets.filed(session)
        now = int(time.time())
        return JobList(jobs=[shown(job, filed, now) for job in jobs if job.uid == session.uid])

    async def cancel(self, session: Session, job_id: int) -> None:
        """Cancel a job; one that has ended stays as it is."""
        await self.find(session, job_id)
        await self._tokens.call(session, lambda who: self._slurm.cancel(who, job_id))
        log.get().info("job.cancelled", principal=session.principal, uid=session.uid, job_id=job_id)


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


def shown(job: Job, filed: Filed, now: int, warnings: tuple[str, ...] = ()) -> JobAnswer:
    """The job as it travels."""
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
        credential=outlook(job, filed, now),
        warnings=list(warnings),
    )


def _unseen(job_id: int, session: Session, body: JobBody, home: str) -> Job:
    """A job that was just made and that Slurm does not show yet."""
    return Job(
        job_id=job_id,
        name=body.name or "",
        user=session.localname,
        uid=session.uid,
        partition=body.partition or "",
        state="PENDING",
        reason=None,
        exit_code=None,
        signal=None,
        nodes=(),
        node_count=body.nodes or 1,
        submit_time=int(time.time()),
        start_time=None,
        end_time=None,
        latest_end=None,
        time_limit_min=body.time_limit_min,
        working_directory=body.working_directory or home,
        output="",
        error="",
    )
