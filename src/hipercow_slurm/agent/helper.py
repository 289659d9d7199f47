"""The site's own program, run as the job's user after each change of a ticket: for what needs more than a ccache (AFS
and EOS tokens).

The child becomes the user before it executes anything, with the user's groups, in a session of its own, without any
file of ours, and is killed with all it started when its time is over. What it does or fails to do never takes a ticket
away. It sees KRB5CCNAME, SLURM_JOB_ID, HIPERCOW_SLURM_EVENT (``installed`` or ``replaced``), HOME, USER, LOGNAME, PATH.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hipercow_slurm import log
from hipercow_slurm.agent.jobs import Job
from hipercow_slurm.errors import ConfigError

Event = Literal["installed", "replaced"]


@dataclass(frozen=True, slots=True)
class _Person:
    name: str
    home: str
    groups: list[int]


class Helper:
    """Runs ``program`` (None: nothing); of one job one at a time, the last change counts.

    Args:
        deadline_s: the longest one run may take.
    """

    def __init__(self, program: str | None, deadline_s: float) -> None:
        self._program = program
        self._deadline_s = deadline_s
        self._busy: dict[int, asyncio.Task[None]] = {}
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="helper")  # threads come with the first run

    def changed(self, job: Job, event: Event) -> None:
        """The job's ticket has changed: run it, after the run for the change before."""
        if self._program is None:
            return
        before = self._busy.get(job.job_id)
        task = asyncio.create_task(self._run(self._program, job, event, before))
        self._busy[job.job_id] = task
        task.add_done_callback(lambda done: self._busy.get(job.job_id) is done and self._busy.pop(job.job_id))

    async def settled(self, job_id: int, timeout_s: float) -> None:
        """Wait for a run that is under way: a job is to start with its tokens."""
        if task := self._busy.get(job_id):
            await asyncio.wait({task}, timeout=max(0.0, timeout_s))

    def close(self) -> None:
        """End what is under way."""
        for task in self._busy.values():
            task.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, program: str, job: Job, event: Event, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait({before})
        try:
            code = await self._child(program, job, event)
        except (OSError, KeyError) as error:
            log.get().error("agent.helper_failed", job_id=job.job_id, why=str(error))
            return
        if code is None:
            log.get().error("agent.helper_failed", job_id=job.job_id, why=f"not done in {self._deadline_s:g} s, killed")
        elif code:
            log.get().error("agent.helper_failed", job_id=job.job_id, why=f"it ended with {code}")

    async def _child(self, program: str, job: Job, event: Event) -> int | None:
        """Its exit code; None if it had to be killed. On a thread: uvloop cannot start a child as another user."""
        work = asyncio.get_running_loop().run_in_executor(self._pool, _run, program, job, event, self._deadline_s)
        return await work


def _run(program: str, job: Job, event: Event, deadline_s: float) -> int | None:
    person = _person(job.uid, job.gid)
    process = subprocess.Popen(
        [program],
        env={
            "PATH": os.defpath,
            "HOME": person.home,
            "USER": person.name,
            "LOGNAME": person.name,
            "KRB5CCNAME": job.ccache,
            "SLURM_JOB_ID": str(job.job_id),
            "HIPERCOW_SLURM_EVENT": event,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        umask=0o077,
        start_new_session=True,
        user=job.uid,
        group=job.gid,
        extra_groups=person.groups,
    )
    try:
        return process.wait(deadline_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also what it left in the background
        process.wait()


def _person(uid: int, gid: int) -> _Person:
    """Blocks: the site's name service is asked."""
    found = pwd.getpwuid(uid)
    return _Person(found.pw_name, found.pw_dir, os.getgrouplist(found.pw_name, gid))


def check(program: str | None) -> None:
    """What root runs, even as somebody else, only root may have written.

    Raises:
        ConfigError: it is missing, not executable, or others may change it.
    """
    if program is None:
        return
    path = Path(program)
    if not path.is_absolute() or not path.is_file() or not os.access(path, os.X_OK):
        raise ConfigError(f"agent.helper {program!r} is not the absolute path of a program")
    found = path.stat()
    if found.st_uid != 0 or found.st_mode & 0o022:
        raise ConfigError(f"agent.helper {program!r} may be changed by others than root")
