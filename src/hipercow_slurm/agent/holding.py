"""Policy ``require``: a job without a ticket goes back to the queue, held, with a reason its owner can read.

The agent says so to slurmctld (``scontrol``, as this node's root, before the job prolog is answered): the job is
requeued and held before its script is launched, so nothing of it has run and no node is drained. It is held as its
owner's (``uhold``): who has logged in again may release it. What cannot be requeued (an srun, an salloc,
``sbatch --no-requeue``) is refused by the plugin where its tasks start.

The reason is in the job's AdminComment, and at the end of its Comment (``squeue -o %k``), which may have been somebody
else's: programs find their jobs by how it begins. ``MARKER`` is what programs may look for.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from dataclasses import dataclass

from hipercow_slurm import log

MARKER = "hipercow-slurm: no ticket"
CALL_S = 10.0
WAIT_S = 3.0  # a hook waits no longer for slurmctld; the work goes on

_FIELD = re.compile(r"(?:^| )(\w+)=(\S+)")
_COMMENT = re.compile(r" Comment=(.*?) +StdErr=")  # only batch jobs have either


@dataclass(frozen=True, slots=True)
class Known:
    """What slurmctld says of a job: ``name`` is what its commands call it, ``batch`` if it can be requeued."""

    name: str
    batch: bool
    comment: str


def read(shown: str, job_id: int) -> Known | None:
    """The job ``job_id`` in the output of ``scontrol -o show job``, where it may be one task of an array, or one
    part of a heterogeneous job; None if it is not there."""
    jobs = [(dict(_FIELD.findall(line)), line) for line in shown.splitlines()]
    for fields, line in jobs:
        if fields.get("JobId") != str(job_id):
            continue
        whole = fields.get("HetJobId")
        # Of a heterogeneous job only the first part has the script, and only the whole can be requeued.
        parts = [one for one, _ in jobs if one.get("HetJobId") == whole] if whole else [fields]
        batch = any(one.get("BatchFlag", "0") != "0" and one.get("Requeue") == "1" for one in parts)
        name = str(job_id)
        if whole:
            name = whole
        elif "ArrayTaskId" in fields and fields["ArrayTaskId"].isdigit():
            name = f"{fields['ArrayJobId']}_{fields['ArrayTaskId']}"
        said = _COMMENT.search(line)
        return Known(name, batch, said[1] if said and said[1] != "(null)" else "")
    return None


def comments(known: Known, sentence: str) -> tuple[str, str]:
    """The job's new Comment and AdminComment; control characters and quotes would confuse who prints them."""
    reason = re.sub(r"[^ -!#-~]", " ", f"{MARKER}: {sentence}; then: scontrol release {known.name}")[:400]
    before = known.comment.split(MARKER)[0].rstrip(" |")
    return (f"{before} | {reason}" if before else reason), reason


class Holder:
    """Puts jobs back, each in a task of its own.

    Args:
        program: ``scontrol``.
    """

    def __init__(self, program: str) -> None:
        self._program = program
        self._busy: dict[int, asyncio.Task[None]] = {}

    async def put_back(self, job_id: int, sentence: str) -> None:
        """Requeue and hold a job; returns when that is done, or after ``WAIT_S``. Failures are logged: the plugin
        refuses the job's tasks then."""
        task = self._busy.get(job_id)
        if task is None:
            task = self._busy[job_id] = asyncio.create_task(self._put_back(job_id, sentence))
            task.add_done_callback(lambda _: self._busy.pop(job_id, None))
        await self.settled(job_id)

    async def still_runs(self, job_id: int) -> bool:
        """Whether slurmctld says that the job has nodes now: an allocation without a step has no process here, and a
        shell in it still needs its ticket. False if it cannot be asked: its next step brings the ticket back."""
        try:
            async with asyncio.timeout(CALL_S):
                shown = await self._scontrol("-o", "show", "job", str(job_id))
        except (OSError, TimeoutError, _RefusedError):
            return False
        jobs = [dict(_FIELD.findall(line)) for line in shown.splitlines()]
        return any(one.get("JobId") == str(job_id) and one.get("JobState") in ("RUNNING", "SUSPENDED") for one in jobs)

    async def settled(self, job_id: int) -> None:
        """Wait, at most ``WAIT_S``, for a ``put_back`` of this job that is under way."""
        if task := self._busy.get(job_id):
            await asyncio.wait({task}, timeout=WAIT_S)

    async def _put_back(self, job_id: int, sentence: str) -> None:
        try:
            async with asyncio.timeout(CALL_S):
                known = await self._known(job_id)
                if known is None or not known.batch:
                    log.get().info("agent.not_requeued", job_id=job_id, why="it is no batch job that may be requeued")
                    return
                await self._scontrol("requeuehold", known.name)
                await self._scontrol("uhold", known.name)
                # Last: what tells the owner to release the job must not be there before the owner may.
                comment, admin = comments(known, sentence)
                await self._scontrol("update", f"JobId={known.name}", f"Comment={comment}", f"AdminComment={admin}")
            log.get().warning("agent.put_back", job_id=job_id, why=sentence)
        except (OSError, TimeoutError, _RefusedError) as error:
            log.get().error("agent.put_back_failed", job_id=job_id, why=str(error) or "slurmctld does not answer")

    async def _known(self, job_id: int) -> Known | None:
        shown = await self._scontrol("-o", "show", "job", str(job_id))
        known = read(shown, job_id)
        if known is not None and known.name != str(job_id) and "_" not in known.name:
            return read(await self._scontrol("-o", "show", "job", known.name), job_id)
        return known

    async def _scontrol(self, *arguments: str) -> str:
        """Its output.

        Raises:
            _RefusedError: with Slurm's words.
            OSError: it cannot be run.
        """
        kept = {name: os.environ[name] for name in ("SLURM_CONF",) if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            self._program,
            *arguments,
            env={"PATH": os.defpath, **kept},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await process.communicate()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        if process.returncode:
            words = " ".join((err or out).decode(errors="replace").split())
            raise _RefusedError(f"scontrol {arguments[0]}: {words or process.returncode}")
        return out.decode(errors="replace")


class _RefusedError(Exception):
    """scontrol failed."""
