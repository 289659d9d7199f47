"""What slurmrestd cannot do for a user, by ``scontrol`` with the user's own token: requeue.

The token goes into the child's environment (readable by our uid and root alone), never into its arguments; scontrol
gets nothing else of ours. With an ``AuthType=auth/jwt`` slurm.conf it needs no munge (measured, 22.05: 8 ms).
"""

from __future__ import annotations

import asyncio
import contextlib
import os

from hipercow_slurm.errors import Error
from hipercow_slurm.slurm import answers
from hipercow_slurm.slurm.rest import Who

_TIMEOUT_S = 15.0
_UNKNOWN = ("Invalid job id", "Access/permission denied", "Invalid user id")
_UNREACHABLE = ("Unable to contact slurm controller", "Connection refused", "Socket timed out")
_TOKEN = ("Protocol authentication error", "Zero Bytes", "auth")


class Scontrol:
    """Runs ``program`` with the configuration ``conf``."""

    def __init__(self, program: str, conf: str) -> None:
        self._program, self._conf = program, conf

    async def requeue(self, who: Who, job_id: int) -> None:
        """Put a job of ``who`` back into the queue; what runs of it is ended.

        Raises:
            SchedulerError: ``no-such-job`` (404); ``change-refused`` (422) with Slurm's words.
            UnavailableError: slurmctld does not answer.
        """
        status, words = await self._run(who, "requeue", str(job_id))
        if status:
            raise _error(words, job_id)

    async def _run(self, who: Who, *arguments: str) -> tuple[int, str]:
        env = {"PATH": os.defpath, "SLURM_CONF": self._conf, "SLURM_JWT": who.token}
        try:
            process = await asyncio.create_subprocess_exec(
                self._program,
                *arguments,
                env=env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise answers.unreachable(f"{self._program} cannot be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                _, stderr = await process.communicate()
        except TimeoutError:
            raise answers.unreachable(f"no answer through scontrol in {_TIMEOUT_S:g} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return process.returncode or 0, " ".join(stderr.decode("utf-8", "replace").split())[:300]


def _error(words: str, job_id: int) -> Error:
    if any(part in words for part in _UNKNOWN):
        return answers.no_such_job(job_id)
    if any(part in words for part in _UNREACHABLE):
        return answers.unreachable(words)
    if any(part in words for part in _TOKEN):
        return answers.token_refused(words)
    return answers.change_refused(words)
