"""What the keeper does with files, in a small pool of threads: a job's ccache, its record, the user's link.

Rule 1: no event loop waits for a file, and no file waits for a thread that a KDC holds. Rule 2: at a job's end the
ccache goes first, then the record of it: the other order could leave a ticket that nobody knows of.

The caller holds the lock of the uid whose files these are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from hipercow_slurm import log
from hipercow_slurm.agent.default_link import DefaultLink
from hipercow_slurm.agent.jobs import Job
from hipercow_slurm.agent.place import Places
from hipercow_slurm.agent.state import State as Disk
from hipercow_slurm.errors import UnavailableError

T = TypeVar("T")


class Shelf:
    """All files of this node's jobs.

    Args:
        places: where ccaches are.
        disk: the records.
        link: the users' default ccaches.
    """

    def __init__(self, places: Places, disk: Disk, link: DefaultLink) -> None:
        self._places = places
        self._disk = disk
        self._link = link
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="files")

    def close(self) -> None:
        """Wait for what is being written."""
        self._pool.shutdown()

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Anything else that may block on a file."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def put(self, job: Job, content: bytes) -> None:
        """Write the job's ccache.

        Raises:
            UnavailableError: it cannot be written.
        """
        moved = await self.run(lambda: self._places.write(job.ccache, content, uid=job.uid, gid=job.gid))
        if moved:
            log.get().warning("agent.squatter_moved", job_id=job.job_id, ccache=job.ccache, to=moved)

    async def present(self, job: Job) -> bool:
        """Whether the job's ccache is there, and the user's."""
        return await self.run(lambda: self._places.present(job.ccache, uid=job.uid, gid=job.gid))

    async def whole(self, job: Job) -> bool:
        """The same, and it was not emptied; takes longer."""
        return await self.run(lambda: self._places.whole(job.ccache, uid=job.uid, gid=job.gid))

    async def read(self, job: Job) -> bytes | None:
        """What the job's ccache holds, as a FILE ccache; None if it is not there."""
        return await self.run(lambda: self._places.read(job.ccache, uid=job.uid, gid=job.gid))

    async def link(self, uid: int, gid: int, jobs: Iterable[Job]) -> None:
        """Let the default ccache of ``uid`` be that of one of ``jobs``, all that it has here."""
        await self.run(self._link.settle, uid, gid, jobs)

    async def remember(self, job: Job, *, durable: bool) -> None:
        """Record the job. A full disk is no reason to withhold the ticket; after a crash its file may stay then, and
        that is said."""
        try:
            await self.run(lambda: self._disk.save(job, durable=durable))
        except OSError as error:
            log.get().error("agent.state_failed", job_id=job.job_id, why=str(error))

    async def recall(self) -> tuple[list[Job], list[Job], list[str]]:
        """As ``state.State.load``."""
        return await self.run(self._disk.load)

    async def clean(self, job: Job, others: list[Job]) -> None:
        """Remove the job's ccache and the memory of it. ``others``: the user's that go on."""
        await self.run(self._clean, job, others)

    def _clean(self, job: Job, others: list[Job]) -> None:
        self._link.settle(job.uid, job.gid, others)
        try:
            if self._places.remove(job.ccache, uid=job.uid, gid=job.gid):
                log.get().info("agent.ticket_removed", job_id=job.job_id, uid=job.uid, ccache=job.ccache)
        except UnavailableError as error:
            log.get().error("agent.remove_failed", job_id=job.job_id, uid=job.uid, why=error.message)
            return
        self._disk.forget(job.job_id)
