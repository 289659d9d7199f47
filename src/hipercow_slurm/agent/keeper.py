"""Does what ``jobs`` decides: asks the source, writes and removes ccaches, remembers it on disk.

Everything runs on one event loop; what may block (files, /proc) runs in ``shelf``'s own pool, so that a KDC that hangs
never keeps a ccache from being written or removed. Whatever writes or removes files of a uid holds that uid's lock: a
job that ends while its ticket is being written ends after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import pwd
import random
import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from hipercow_slurm import log
from hipercow_slurm.agent import install, live, place
from hipercow_slurm.agent.config import AgentConfig, CCachePattern, default_ccache
from hipercow_slurm.agent.default_link import DefaultLink
from hipercow_slurm.agent.helper import Helper
from hipercow_slurm.agent.jobs import Job, Jobs, Problem, Ticket
from hipercow_slurm.agent.services import Services
from hipercow_slurm.agent.shelf import Shelf
from hipercow_slurm.agent.source import Source
from hipercow_slurm.agent.state import State as Disk
from hipercow_slurm.errors import AccessError, ConfigError, Error, UnavailableError
from hipercow_slurm.krb5 import ccfile, renewal
from hipercow_slurm.values import KrbCred

ASK_S = 20.0  # for one question to the source, all its servers and retries included
ASK_AGAIN_S = 5.0  # a step asks again for a ticket that was missing this long ago
QUESTIONS = 8  # at a time
SECOND_LOOK_S = 10.0


class Keeper:
    """All tickets of this node.

    Args:
        config: the ``[agent]`` section.
        source: where tickets come from.
        disk: the agent's memory, locked for us.
        live_jobs: ids of the jobs with processes on this node.
        still_runs: asked about a job without any before it is ended; None: it is.
    """

    def __init__(
        self,
        config: AgentConfig,
        source: Source,
        disk: Disk,
        *,
        live_jobs: Callable[[], set[int]] = live.jobs,
        still_runs: Callable[[int], Awaitable[bool]] | None = None,
    ) -> None:
        self.jobs = Jobs(poll_s=config.poll_s, chance=random.random)
        self.config = config
        self._pattern = CCachePattern(config.ccache)
        places = place.Places()
        self._shelf = Shelf(places, disk, DefaultLink(default_ccache(config), self._pattern))
        self._services = Services(places)
        self._kdc = asyncio.Semaphore(1)  # of the default pool's threads, which the cache needs too
        self._source = source
        self._live_jobs = live_jobs
        self._still_runs = still_runs
        self._locks: weakref.WeakValueDictionary[int, asyncio.Lock] = weakref.WeakValueDictionary()
        self._rounds: dict[int, asyncio.Future[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._questions = asyncio.Semaphore(QUESTIONS)
        self._kick = asyncio.Event()
        self._helper = Helper(config.helper, config.helper_s)

    # --- what the socket asks for ---------------------------------------------------------------------------------

    async def start(self, job_id: int, uid: int, gid: int) -> tuple[Job, Problem | None]:
        """Take on a job (again) and wait for its ticket, at most ``answer_s``. A Problem: it has none yet."""
        old = self.jobs.get(job_id)
        if old is not None and old.uid != uid:  # Slurm counts from 1 again when its state was lost
            await self.end(job_id, old.uid)
        now = time.time()
        job = Job(job_id, uid, gid, self._pattern.name(uid, job_id), int(now), spared_until=now + self.config.sweep_s)
        async with self._lock(uid):
            job = self.jobs.start(job, now)
            self._kick.set()  # the question runs meanwhile; its answer is written after the record: it needs this lock
            await self._shelf.remember(job, durable=True)
        return await self._settled(job)

    async def ccache(self, job_id: int, uid: int, gid: int | None) -> tuple[Job, Problem | None]:
        """The same for a step: it asks nothing anew when that could not help, and takes on an unknown job."""
        job = self.jobs.get(job_id)
        if job is None or job.uid != uid:
            return await self.start(job_id, uid, gid if gid is not None else _gid_of(uid))
        job.unseen = 0
        owner = self.jobs.owner(uid)
        if owner is not None and not owner.asking and not await self._good(job):
            if owner.problem and (owner.problem.passing or time.time() - owner.answered < ASK_AGAIN_S):
                return job, self.jobs.problem(job, time.time())
            self.jobs.want(uid, time.time())
            self._kick.set()
        return await self._settled(job)

    async def end(self, job_id: int, uid: int | None) -> None:
        """Forget the job and remove its ccache; for an unknown job of a known uid, what would be its ccache."""
        job = self.jobs.get(job_id)
        owner = uid if uid is not None else job.uid if job else None
        if owner is None:
            return
        async with self._lock(owner):
            job = self.jobs.get(job_id)
            if job is not None and job.uid == owner:
                self.jobs.end(job_id)
            elif job is None:
                job = Job(job_id, owner, _gid_of(owner), self._pattern.name(owner, job_id), 0)
            else:
                return
            if not self.jobs.of(owner):
                self._services.forget(owner)
            await self._shelf.clean(job, self.jobs.of(owner))

    # --- life -----------------------------------------------------------------------------------------------------

    async def take_over(self) -> None:
        """Go on where an earlier agent stopped; clean up after jobs that a reboot ended."""
        running, gone, strange = await self._shelf.recall()
        for name in strange:
            log.get().error("agent.state_unreadable", file=name, hint="look at it, then remove it")
        for job in running:
            self.jobs.restore(job, time.time())
        for job in gone:
            await self._shelf.clean(job, self.jobs.of(job.uid))
        folders = {folder for job in [*running, *gone] if (folder := place.folder_of(job.ccache))}
        if fixed := self._pattern.fixed_folder:
            await self._shelf.run(install.make_folder, fixed)
            folders.add(fixed)
        half_written = [await self._shelf.run(install.sweep, folder) for folder in folders]
        if running or gone or any(half_written):
            log.get().info("agent.took_over", jobs=len(running), gone=len(gone), half_written=sum(half_written))

    async def run(self) -> None:
        """Ask when something is due; sleep when nothing is. Ends by being cancelled."""
        # Two looks soon at what an earlier agent left to us, then one every sweep_s.
        sweeps = [time.time(), time.time() + min(SECOND_LOOK_S, self.config.sweep_s)]
        try:
            while True:
                self._kick.clear()
                now = time.time()
                for uid in self.jobs.due(now):
                    self._spawn(self._round(uid))
                if not now < sweeps[0] <= now + self.config.sweep_s:  # or the clock was set back
                    await self._sweep()
                    sweeps = sweeps[1:] or [time.time() + self.config.sweep_s]
                await self._sleep(sweeps[0])
        finally:
            self._helper.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._shelf.close()

    async def _sleep(self, next_sweep: float) -> None:
        """Until something is due or somebody kicks; without jobs only the latter."""
        planned = self.jobs.wake_at()
        until = min(next_sweep, planned if planned is not None else next_sweep) if len(self.jobs) else None
        try:
            async with asyncio.timeout(None if until is None else max(0.01, until - time.time())):
                await self._kick.wait()
        except TimeoutError:
            pass

    async def _sweep(self) -> None:
        if not len(self.jobs):
            return
        seen = await self._shelf.run(self._live_jobs)
        for job in self.jobs.unseen(seen, time.time()):
            if self._still_runs is not None and await self._still_runs(job.job_id):
                job.unseen = 0
            if job.unseen:  # no step came back while we were ending others
                log.get().warning("agent.job_vanished", job_id=job.job_id, uid=job.uid)
                await self.end(job.job_id, job.uid)

    # --- one question ---------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _round(self, uid: int) -> None:
        """Ask for ``uid``, install what came, plan the next question, tell who waits."""
        problem: Problem | None = None
        try:
            problem = await self._install(uid, await self._ask(uid))
        except Error as error:
            # a rule or a file that is wrong stays wrong until somebody mends it; anything else may be over in a second
            problem = Problem(error.code, error.message, passing=not isinstance(error, (AccessError, ConfigError)))
            if isinstance(error, UnavailableError):
                await self._renew(uid)
        except Exception as error:  # a bug must not end the refreshing of anybody's ticket
            problem = Problem("bug", f"{type(error).__name__} while asking for uid {uid}", passing=True)
            log.get().exception("agent.bug", uid=uid)
        self._report(uid, problem)
        self.jobs.planned(uid, problem, time.time())
        self._kick.set()
        if waiting := self._rounds.pop(uid, None):
            waiting.set_result(None)
        if self._services.due(uid):
            self._spawn(self._freshen(uid))

    async def _freshen(self, uid: int) -> None:
        """Newer service tickets for the jobs of ``uid``, after they have a newer TGT; nobody waits for it."""
        async with self._kdc:
            found = await asyncio.to_thread(self._services.fetch, uid)
        async with self._lock(uid):
            for job in self.jobs.of(uid) if found else ():
                with contextlib.suppress(UnavailableError):  # it has the older ones
                    await self._shelf.run(self._services.put, job, found)

    async def _renew(self, uid: int) -> None:
        """The cache is away: have the KDC renew the ticket that a job here has; trouble is the next question's."""
        job = self.jobs.to_renew(uid, time.time())
        content = await self._shelf.read(job) if job is not None else None
        if job is None or job.ticket is None or content is None:
            return
        try:
            cred = ccfile.read_tgt(content)
            if cred.client != job.ticket.client:
                return  # the job has put something of its own there
            async with asyncio.timeout(ASK_S):
                renewed = await asyncio.to_thread(renewal.renew, cred)
            await self._install(uid, renewed)
        except (Error, TimeoutError) as error:
            log.get().warning("agent.renew_failed", uid=uid, why=str(error) or "the KDC does not answer")
            return
        log.get().info("agent.renewed_at_kdc", uid=uid, principal=renewed.client, endtime=renewed.times.endtime)

    async def _ask(self, uid: int) -> KrbCred | None:
        try:
            async with self._questions, asyncio.timeout(ASK_S):
                return await self._source.get(uid)
        except TimeoutError as error:
            raise UnavailableError(
                f"the cache did not answer within {ASK_S:.0f} s", code="cache-unreachable"
            ) from error

    async def _install(self, uid: int, cred: KrbCred | None) -> Problem | None:
        """Write the ccache of every job of ``uid`` that ``cred`` is better for, or that has lost its file."""
        found = Ticket(cred.client, cred.times) if cred is not None else None
        async with self._lock(uid):
            for job in self.jobs.of(uid):
                if job.ticket is not None and not await self._shelf.whole(job):
                    job.ticket = None
            jobs, problem = self.jobs.answer(uid, found, time.time())
            if cred is not None and found is not None and jobs:
                content = await self._shelf.run(self._services.content, uid, cred, self.jobs.of(uid))
                for job in jobs:
                    try:
                        await self._write(job, content, found)
                    except UnavailableError as error:
                        job.problem = problem = Problem(error.code, error.message, passing=True)
                        log.get().error("agent.install_failed", job_id=job.job_id, uid=uid, why=error.message)
            if held := self.jobs.of(uid):
                await self._shelf.link(uid, held[0].gid, held)
            return problem

    async def _write(self, job: Job, content: bytes, found: Ticket) -> None:
        await self._shelf.put(job, content)
        old, job.ticket, job.problem = job.ticket, found, None
        log.get().info(
            "agent.ticket_replaced" if old else "agent.ticket_installed",
            job_id=job.job_id, uid=job.uid, principal=found.client, ccache=job.ccache,
            endtime=found.times.endtime, **({"old_endtime": old.times.endtime} if old else {}),
        )  # fmt: skip
        await self._shelf.remember(job, durable=False)
        self._helper.changed(job, "replaced" if old else "installed")

    # --- helpers --------------------------------------------------------------------------------------------------

    async def _good(self, job: Job) -> bool:
        """Whether the job has, on disk, a ticket that is good now."""
        return self.jobs.problem(job, time.time()) is None and await self._shelf.present(job)

    async def _settled(self, job: Job) -> tuple[Job, Problem | None]:
        """Wait until the job has a ticket, or until waiting cannot change that, or until ``answer_s`` is over."""
        deadline = time.monotonic() + self.config.answer_s
        while self.jobs.get(job.job_id) is job:
            if await self._good(job):
                await self._helper.settled(job.job_id, deadline - time.monotonic())
                return job, None
            left = deadline - time.monotonic()
            waiting = self._rounds.setdefault(job.uid, asyncio.get_running_loop().create_future())
            await asyncio.wait({waiting}, timeout=max(0.0, left))
            problem = self.jobs.problem(job, time.time())
            if problem is not None and not problem.passing:
                return job, problem
            if left <= 0:
                return job, problem or Problem("ccache-missing", f"{job.ccache} has disappeared", passing=True)
        return job, Problem("job-ended", f"job {job.job_id} has ended", passing=False)

    def _report(self, uid: int, problem: Problem | None) -> None:
        """One line when the state of affairs changes, not one per attempt."""
        owner = self.jobs.owner(uid)
        if owner is None or (owner.problem and owner.problem.code) == (problem and problem.code):
            return
        if problem is not None:
            log.get().warning("agent.no_ticket", uid=uid, code=problem.code, why=problem.sentence)
        else:
            log.get().info("agent.ticket_again", uid=uid)

    def _lock(self, uid: int) -> asyncio.Lock:
        return self._locks.setdefault(uid, asyncio.Lock())


def _gid_of(uid: int) -> int:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return uid
