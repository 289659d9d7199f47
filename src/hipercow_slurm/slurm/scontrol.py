"""What slurmrestd cannot do for a user, or does not tell, by ``scontrol`` with the user's own token.

That is: requeue (before v0.0.45), and which partition is the default (v0.0.40 to v0.0.42).

The token goes into the child's environment (readable by our uid and root alone), never into its arguments; scontrol
gets nothing else of ours. With an ``AuthType=auth/jwt`` slurm.conf it needs no munge (measured, 22.05: 8 ms).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time

from hipercow_slurm.errors import Error
from hipercow_slurm.slurm import answers
from hipercow_slurm.slurm.asking import Who

_TIMEOUT_S = 15.0
_REMEMBERED_S = 60.0
_OUTPUT_LIMIT = 4 * 1024 * 1024  # bytes; a partition is half a kilobyte
_DEFAULT = re.compile(r"^PartitionName=(\S+) .*\bDefault=YES\b", re.MULTILINE)
_UNKNOWN = ("Invalid job id", "Access/permission denied", "Invalid user id")
_UNREACHABLE = ("Unable to contact slurm controller", "Connection refused", "Socket timed out")
_TOKEN = ("Protocol authentication error", "Zero Bytes", "auth")


class Scontrol:
    """Runs ``program`` with the configuration ``conf``."""

    def __init__(self, program: str, conf: str) -> None:
        self._program, self._conf = program, conf
        self._default: tuple[float, str | None] | None = None

    async def requeue(self, who: Who, job_id: int) -> None:
        """Put a job of ``who`` back into the queue; what runs of it is ended.

        Raises:
            SchedulerError: ``no-such-job`` (404); ``change-refused`` (422) with Slurm's words.
            UnavailableError: slurmctld does not answer.
        """
        status, _, words = await self._run(who, "requeue", str(job_id))
        # Of an array it tells of each group of tasks ("7_0: No error 7_1-9: ..."), and fails if one did not run.
        if status and ": No error" not in words:
            raise _error(words, job_id)

    async def default_partition(self, who: Who) -> str | None:
        """The default partition's name, at most a minute old; None if there is none, or ``who`` may not see it.

        Raises:
            UnavailableError: slurmctld does not answer.
        """
        if self._default is None or time.monotonic() - self._default[0] > _REMEMBERED_S:
            status, said, words = await self._run(who, "--oneliner", "show", "partitions")
            if status:
                raise answers.unreachable(words)
            found = _DEFAULT.search(said)
            self._default = time.monotonic(), found and found[1]
        return self._default[1]

    async def _run(self, who: Who, *arguments: str) -> tuple[int, str, str]:
        """Its exit status, standard output and, on one line, standard error."""
        env = {"PATH": os.defpath, "SLURM_CONF": self._conf, "SLURM_JWT": who.token}
        try:
            process = await asyncio.create_subprocess_exec(
                self._program,
                *arguments,
                env=env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
        except OSError as error:
            raise answers.unreachable(f"{self._program} cannot be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                stdout, stderr = await process.communicate()
        except TimeoutError:
            raise answers.unreachable(f"no answer through scontrol in {_TIMEOUT_S:g} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        said = stdout[:_OUTPUT_LIMIT].decode("utf-8", "replace")
        return process.returncode or 0, said, " ".join(stderr.decode("utf-8", "replace").split())[:300]


def _error(words: str, job_id: int) -> Error:
    if any(part in words for part in _UNKNOWN):
        return answers.no_such_job(job_id)
    if any(part in words for part in _UNREACHABLE):
        return answers.unreachable(words)
    if any(part in words for part in _TOKEN):
        return answers.token_refused(words)
    return answers.change_refused(words)
