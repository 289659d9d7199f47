"""slurmrestd's calls, for a user each.

A submission is sent once. If its answer is lost it is ``submit-unknown``; only a request of which no byte was
written may be called a plain failure. How a request is sent at all: ``asking.py``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import msgspec

from hipercow_slurm.errors import ConfigError, Error
from hipercow_slurm.slurm import answers
from hipercow_slurm.slurm.asking import JOB_LIMIT, Asking, Sent, Who
from hipercow_slurm.slurm.family import Family
from hipercow_slurm.slurm.model import Job, JobChange, JobSpec, Node, Partition, Past, Submitted
from hipercow_slurm.slurm.versions import ADAPTERS, PAST

_PLAIN_ABOUT_TOKENS = (401, 511)  # from others it may also mean that slurmctld died with the request
LIST_LIMIT = 256 * 1024 * 1024  # bytes; 60,000 jobs; bigger clusters set PrivateData=jobs


@dataclass(frozen=True, slots=True)
class Identity:
    """A local account and a Slurm token for it."""

    localname: str
    token: str

    def __repr__(self) -> str:
        return f"<Identity {self.localname}>"


class SlurmRest:
    """slurmrestd's calls as methods; use as ``async with``.

    Which version of its API slurmrestd speaks is asked of it with the first request, and again when it no longer
    serves that version.

    Args:
        socket: path of slurmrestd's unix socket.
        version: of its API, by somebody who knows; not asked for then.
        timeout_s: for one whole call, waiting for a free connection included.
        ping_after_s: after so long we ask whether slurmctld is there; if it is not, a read ends.
        connections: at most this many at a time, and one more for that question.
        default_partition: asks somebody else which partition is the default, where slurmrestd does not tell.

    Every method raises ``UnavailableError`` ``scheduler-unreachable`` when slurmrestd or slurmctld is down or
    too slow, and ``InternalError`` ``slurm-token-refused``, ``slurm-version`` or ``slurm-answer`` when an operator must
    act.
    """

    def __init__(
        self,
        socket: str,
        *,
        version: str | None = None,
        timeout_s: float = 15.0,
        ping_after_s: float = 3.0,
        connections: int = 16,
        default_partition: Callable[[Who], Awaitable[str | None]] | None = None,
    ) -> None:
        if version is not None and version not in ADAPTERS:
            raise ConfigError(f"slurmrestd's API {version!r} is not supported; known: {', '.join(ADAPTERS)}")
        family = None if version is None else ADAPTERS[version]
        self._asking = Asking(socket, family, timeout_s=timeout_s, ping_after_s=ping_after_s, connections=connections)
        self._default_partition = default_partition

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._asking.close()

    @property
    def silent_at(self) -> float | None:
        """When (``time.monotonic``) slurmctld did not answer the last call; None: it did."""
        return self._asking.silent_at

    async def version(self, who: Who) -> str:
        """The API version in use, such as ``v0.0.42``."""
        return (await self._asking.chosen(who)).version

    async def submit(self, who: Who, spec: JobSpec) -> Submitted:
        """Hand a job that ``check.check`` has let through to Slurm, once.

        Raises:
            RequestError: this slurmrestd has no words for something in it; it was not sent.
            SchedulerError: Slurm's refusal, or ``submit-unknown`` (504) if it may have taken the job.
            AccessError: ``scheduler-denied``: Slurm takes nothing from this account.
        """
        return await self._asking.served(who, lambda family: self._submit(who, spec, family))

    async def _submit(self, who: Who, spec: JobSpec, family: Family) -> Submitted:
        body = family.submit_body(spec, who.localname)
        sent = Sent()
        try:
            answer = await self._asking.ask(who, "POST", family.submit_path(), JOB_LIMIT, body=body, sent=sent)
        except Error as error:
            if sent.yes:
                raise answers.submit_unknown(error.message) from error
            raise
        try:
            return family.read_submitted(answer)
        except Error as error:
            if error.code == "slurm-token-refused" and answer.status not in _PLAIN_ABOUT_TOKENS:
                await self._token_or_unknown(who, error)
            raise

    async def job(self, who: Who, job_id: int) -> Job:
        """One job of ``who``.

        Raises:
            SchedulerError: ``no-such-job`` (404): unknown, forgotten, or somebody else's.
        """
        _possible(job_id)

        async def once(family: Family) -> Job:
            answer = await self._asking.ask(who, "GET", family.job_path(job_id), JOB_LIMIT)
            return family.read_job(answer, job_id, who.localname)

        return await self._asking.twice(who, once)

    async def jobs(self, who: Who) -> list[Job]:
        """The jobs of ``who`` that Slurm still knows, oldest first. Costs Slurm a walk over all jobs."""

        async def once(family: Family) -> list[Job]:
            answer = await self._asking.ask(who, "GET", family.jobs_path(), LIST_LIMIT)
            return family.read_jobs(answer, who.localname)

        return await self._asking.twice(who, once)

    async def past(self, who: Who, job_id: int) -> list[Past]:
        """What Slurm's accounting has under this id, also of others."""
        _possible(job_id)

        async def once(family: Family) -> list[Past]:
            adapter = PAST[family.version]
            answer = await self._asking.ask(who, "GET", adapter.past_path(job_id), JOB_LIMIT)
            return adapter.read_past(answer, job_id)

        return await self._asking.twice(who, once)

    async def cancel(self, who: Who, job_id: int) -> None:
        """End a job; fine for one that has ended already.

        Raises:
            SchedulerError: ``no-such-job`` (404): unknown, forgotten, or somebody else's.
        """
        _possible(job_id)

        async def once(family: Family) -> None:
            await self._own(who, job_id, family)
            answer = await self._asking.ask(who, "DELETE", family.job_path(job_id), JOB_LIMIT)
            family.read_cancelled(answer, job_id)

        await self._asking.twice(who, once)

    async def change(self, who: Who, job_id: int, change: JobChange) -> None:
        """Change a job that has not ended; making the same change twice does no harm.

        Raises:
            SchedulerError: ``no-such-job`` (404); ``change-refused`` (422) with Slurm's words.
        """
        _possible(job_id)

        async def once(family: Family) -> None:
            body = family.update_body(change)
            answer = await self._asking.ask(who, "POST", family.job_path(job_id), JOB_LIMIT, body=body)
            family.read_updated(answer, job_id)

        await self._asking.twice(who, once)

    async def signal(self, who: Who, job_id: int, signal: str) -> None:
        """Send ``signal`` (USR1, ...) to the job's steps.

        Raises:
            SchedulerError: ``no-such-job`` (404), ``change-refused`` (422): it does not run.
        """
        _possible(job_id)

        # Not repeated: a signal is no state that could be reached twice.
        async def once(family: Family) -> None:
            await self._own(who, job_id, family)
            answer = await self._asking.ask(who, "DELETE", family.signal_path(job_id, signal), JOB_LIMIT)
            family.read_signalled(answer, job_id)

        await self._asking.served(who, once)

    async def partitions(self, who: Who) -> list[Partition]:
        """The partitions ``who`` may see."""

        async def once(family: Family) -> list[Partition]:
            answer = await self._asking.ask(who, "GET", family.partitions_path(), LIST_LIMIT)
            return family.read_partitions(answer)

        found = await self._asking.twice(who, once)
        if self._default_partition is None or all(one.is_default is not None for one in found):
            return found
        default = await self._default_partition(who)
        return [msgspec.structs.replace(one, is_default=one.name == default) for one in found]

    async def nodes(self, who: Who) -> list[Node]:
        """The nodes ``who`` may see."""

        async def once(family: Family) -> list[Node]:
            answer = await self._asking.ask(who, "GET", family.nodes_path(), LIST_LIMIT)
            return family.read_nodes(answer)

        return await self._asking.twice(who, once)

    async def ping(self, who: Who) -> None:
        """Raise unless slurmctld answers; needs a token like every other call."""

        async def once(family: Family) -> None:
            answer = await self._asking.ask(who, "GET", family.ping_path(), JOB_LIMIT)
            family.read_ping(answer)

        await self._asking.twice(who, once)

    async def _own(self, who: Who, job_id: int, family: Family) -> None:
        """Raise ``no-such-job`` for another user's job, where only asking for its end would do harm."""
        if not family.deletes_anothers:
            answer = await self._asking.ask(who, "GET", family.job_path(job_id), JOB_LIMIT)
            family.read_job(answer, job_id, who.localname)

    async def _token_or_unknown(self, who: Who, error: Error) -> None:
        """slurmctld hung up on a submission: if a ping shows that the token is good, it may have the job."""
        try:
            await self.ping(who)
        except Error as other:
            if other.code == "slurm-token-refused":
                return
            raise answers.submit_unknown(other.message) from error
        raise answers.submit_unknown(error.message) from error


def _possible(job_id: int) -> None:
    """Slurm's job ids are positive and below its special values; others would be a 400 from slurmrestd."""
    if not 0 < job_id < 0xFFFF0000:
        raise answers.no_such_job(job_id)
