"""What is done to jobs after they were made: held, released, changed, signalled, requeued; and many at once.

Rule 1: every action first finds the job as the session's user. Rule 2: of many, each has its own outcome, and the
refusal of one keeps no other from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from hipercow_slurm import log
from hipercow_slurm.api import config, problems, schemas
from hipercow_slurm.api.history import History
from hipercow_slurm.api.jobs import Jobs, waits_for_ticket
from hipercow_slurm.api.session import Session
from hipercow_slurm.api.slurm_tokens import SlurmTokens
from hipercow_slurm.api.trail import tell
from hipercow_slurm.errors import Error, RequestError, SchedulerError
from hipercow_slurm.slurm import answers
from hipercow_slurm.slurm.model import JobChange
from hipercow_slurm.slurm.rest import SlurmRest
from hipercow_slurm.slurm.scontrol import Scontrol

T = TypeVar("T")
SIGNALS = frozenset("HUP INT QUIT ABRT KILL ALRM TERM USR1 USR2 URG CONT STOP TSTP TTIN TTOU".split())  # noqa: SIM905
_LOOK_AGAIN_S = (3.0, 9.0)
_KEY_ROOM = 120  # the item's number follows the key, and all of it has 128 characters


class JobActions:
    """Actions on the session's user's jobs."""

    def __init__(
        self,
        conf: config.Jobs,
        jobs: Jobs,
        slurm: SlurmRest,
        scontrol: Scontrol,
        tokens: SlurmTokens,
        history: History,
    ) -> None:
        self._conf = conf
        self._jobs = jobs
        self._slurm = slurm
        self._scontrol = scontrol
        self._tokens = tokens
        self._history = history
        # principal -> whether another login asked while a release was under way: a burst of logins lists jobs twice,
        # not once each, and a job held in the meantime is still found.
        self._releasing: dict[str, bool] = {}

    async def change(self, session: Session, job_id: int, change: JobChange) -> schemas.JobAnswer:
        """Make ``change`` and show the job.

        Raises:
            SchedulerError: ``no-such-job``; ``change-refused`` with Slurm's words.
            CredentialError: ``ticket-too-short``, where the site refuses such jobs.
        """
        job = await self._jobs.live(session, job_id)
        if change.time_limit_min is not None:
            await self._jobs.refuse_uncovered(session, job, change.time_limit_min)
        await self._tokens.call(session, lambda who: self._slurm.change(who, job_id, change))
        what = {key: value for key, value in msgspec.structs.asdict(change).items() if value is not None}
        log.get().info("job.changed", principal=session.principal, uid=session.uid, job_id=job_id, **what)
        return await self._jobs.show(session, job_id)

    async def requeue(self, session: Session, job_id: int) -> schemas.JobAnswer:
        """Put the job back into the queue and show it."""
        await self._jobs.live(session, job_id)
        await self._tokens.call(session, lambda who: self._scontrol.requeue(who, job_id))
        await self._history.reopen(session, job_id)
        log.get().info("job.requeued", principal=session.principal, uid=session.uid, job_id=job_id)
        return await self._jobs.show(session, job_id)

    async def signal(self, session: Session, job_id: int, name: str) -> schemas.JobAnswer:
        """Send a signal to the job's processes and show it."""
        signal = name.upper().removeprefix("SIG")
        if signal not in SIGNALS:
            raise RequestError(f"{name[:20]!r} is none of the signals {', '.join(sorted(SIGNALS))}")
        if (await self._jobs.live(session, job_id)).ended:  # 22.05 takes it and sends it to nobody
            raise answers.change_refused(f"job {job_id} has ended")
        try:
            await self._tokens.call(session, lambda who: self._slurm.signal(who, job_id, signal))
        except SchedulerError as error:
            # Of an array Slurm says that its waiting tasks cannot be signalled; those that run have got it.
            if error.code != "change-refused" or not await self._some_task_runs(session, job_id):
                raise
        log.get().info("job.signalled", principal=session.principal, uid=session.uid, job_id=job_id, signal=signal)
        return await self._jobs.show(session, job_id)

    async def _some_task_runs(self, session: Session, array_job_id: int) -> bool:
        jobs = await self._jobs.mine(session)
        return any(job.array_job_id == array_job_id and job.state == "RUNNING" for job in jobs)

    async def submit_many(self, session: Session, bodies: list[msgspec.Raw], key: str | None) -> schemas.Bulk:
        """Submit each; with a key, each item's own key is ``KEY/NUMBER``, so a repeated call makes no job twice."""
        self._bound(len(bodies))
        if key is not None and len(key) > _KEY_ROOM:
            raise RequestError(f"the Idempotency-Key of a bulk submission has at most {_KEY_ROOM} characters")

        async def one(index: int) -> schemas.BulkItem:
            body = schemas.decode(bytes(bodies[index]), schemas.JobBody)
            job = await self._jobs.submit(session, body, None if key is None else f"{key}/{index}")
            return schemas.BulkItem(index=index, status=201, job_id=job.job_id, job=job)

        return await self._each(len(bodies), one)

    async def cancel_many(self, session: Session, job_ids: list[int]) -> schemas.Bulk:
        """Cancel each."""
        self._bound(len(job_ids))

        async def one(index: int) -> schemas.BulkItem:
            await self._jobs.cancel(session, job_ids[index])
            return schemas.BulkItem(index=index, status=204, job_id=job_ids[index])

        done = await self._each(len(job_ids), one)
        named = [msgspec.structs.replace(item, job_id=job_ids[item.index]) for item in done.results]
        return schemas.Bulk(results=named)

    async def release_waiting(self, session: Session) -> None:
        """After a login: release the jobs that were put back for want of a ticket. Never raises our errors."""
        if session.principal in self._releasing:
            self._releasing[session.principal] = True
            return
        again = True
        while again:
            self._releasing[session.principal] = False
            try:
                await self._release_once(session)
            finally:
                again = self._releasing.pop(session.principal)

    async def _release_once(self, session: Session) -> None:
        # A job that is still ending on its node takes its hold anew when it comes back into the queue: look again.
        for pause in (0.0, *_LOOK_AGAIN_S):
            await asyncio.sleep(pause)
            if not await self._release_those_waiting(session):
                return

    async def _release_those_waiting(self, session: Session) -> bool:
        """Release what waits now; whether anything did."""
        try:
            waiting = [job for job in await self._jobs.mine(session) if waits_for_ticket(job, self._conf.held_marker)]
        except Error as error:
            log.get().warning("jobs.not-released", principal=session.principal, code=error.code, why=error.message)
            return False
        for job in waiting:
            try:
                await self.change(session, job.job_id, JobChange(hold=False, begin_now=True))
            except Error as error:
                log.get().warning("job.not-released", job_id=job.job_id, code=error.code, why=error.message)
        return bool(waiting)

    def _bound(self, number: int) -> None:
        if not 1 <= number <= self._conf.bulk:
            raise RequestError(f"{number} jobs in one request; it must be from 1 to {self._conf.bulk}")

    async def _each(self, number: int, one: Callable[[int], Awaitable[schemas.BulkItem]]) -> schemas.Bulk:
        """All outcomes in order, a few at a time."""
        places = asyncio.Semaphore(self._conf.at_once)

        async def guarded(index: int) -> schemas.BulkItem:
            async with places:
                try:
                    return await one(index)
                except Error as error:
                    problem = problems.response(error)
                    return schemas.BulkItem(
                        index=index, status=problem.status_code, problem=msgspec.Raw(bytes(problem.body))
                    )

        results = list(await asyncio.gather(*map(guarded, range(number))))
        jobs = [item.job_id for item in results if item.job_id is not None]
        tell(job_id=",".join(map(str, jobs))[:1000], refused=sum(item.problem is not None for item in results))
        return schemas.Bulk(results=results)
