"""The client of slurmrestd: one private unix socket, a bounded pool of connections, a deadline on every call.

slurmrestd authenticates each request by itself, so one pool serves all users (measured: alice, bob and nobody on
one connection). It stops accepting at 124 open connections and never times them out, hence the bound; it
answers a chunked body with 406, hence bodies of known length only.

Rule 1: a submission is sent once. If its answer is lost it is ``submit-unknown``; only a request of which no
byte was written may be called a plain failure. Rule 2: the token goes into one header and nowhere else.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import SimpleNamespace, TracebackType
from typing import Protocol, Self, TypeVar

import aiohttp

from hipercow_slurm.errors import ConfigError, Error
from hipercow_slurm.slurm import answers, v0038, v0038_past
from hipercow_slurm.slurm.answers import Answer
from hipercow_slurm.slurm.model import Job, JobChange, JobSpec, Node, Partition, Past, Submitted

T = TypeVar("T")

JOB_LIMIT = 8 * 1024 * 1024  # bytes; one job is 4 kB, an array answers with all its tasks
LIST_LIMIT = 256 * 1024 * 1024  # bytes; 60,000 jobs; bigger clusters set PrivateData=jobs


class Who(Protocol):
    """Whom a request is for: what the signer's client returns has this form."""

    @property
    def localname(self) -> str: ...

    @property
    def token(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Identity:
    """A local account and a Slurm token for it."""

    localname: str
    token: str

    def __repr__(self) -> str:
        return f"<Identity {self.localname}>"


class Adapter(Protocol):
    """What differs between slurmrestd's API versions; a module is one. See v0038.py."""

    def submit_path(self) -> str: ...
    def job_path(self, job_id: int) -> str: ...
    def jobs_path(self) -> str: ...
    def ping_path(self) -> str: ...
    def signal_path(self, job_id: int, signal: str) -> str: ...
    def partitions_path(self) -> str: ...
    def nodes_path(self) -> str: ...
    def update_body(self, change: JobChange) -> bytes: ...
    def submit_body(self, spec: JobSpec, localname: str) -> bytes: ...
    def read_submitted(self, answer: Answer) -> Submitted: ...
    def read_job(self, answer: Answer, job_id: int, localname: str) -> Job: ...
    def read_jobs(self, answer: Answer, localname: str) -> list[Job]: ...
    def read_cancelled(self, answer: Answer, job_id: int) -> None: ...
    def read_updated(self, answer: Answer, job_id: int) -> None: ...
    def read_signalled(self, answer: Answer, job_id: int) -> None: ...
    def read_partitions(self, answer: Answer) -> list[Partition]: ...
    def read_nodes(self, answer: Answer) -> list[Node]: ...
    def read_ping(self, answer: Answer) -> None: ...


class PastAdapter(Protocol):
    """The same for what slurmdbd has, where an adapter for it is written."""

    def past_path(self, job_id: int) -> str: ...
    def read_past(self, answer: Answer, job_id: int) -> list[Past]: ...


ADAPTERS: dict[str, Adapter] = {v0038.VERSION: v0038}
PAST: dict[str, PastAdapter] = {v0038.VERSION: v0038_past}


class SlurmRest:
    """slurmrestd's calls as methods; use as ``async with``.

    Args:
        socket: path of slurmrestd's unix socket.
        version: of its API.
        timeout_s: for one whole call, waiting for a free connection included.
        connections: at most this many at a time.

    Every method raises ``UnavailableError`` ``scheduler-unreachable`` when slurmrestd or slurmctld is down or
    too slow, and ``InternalError`` ``slurm-token-refused`` or ``slurm-answer`` when an operator must act.
    """

    def __init__(
        self, socket: str, *, version: str = v0038.VERSION, timeout_s: float = 15.0, connections: int = 16
    ) -> None:
        if version not in ADAPTERS:
            raise ConfigError(f"slurmrestd's API {version!r} is not supported; known: {', '.join(ADAPTERS)}")
        self._socket = socket
        self._adapter = ADAPTERS[version]
        self._past = PAST.get(version)
        self._timeout_s = timeout_s
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_mark_sent)
        self._session = aiohttp.ClientSession(
            "http://slurmrestd",
            connector=aiohttp.UnixConnector(self._socket, limit=self._connections, keepalive_timeout=30.0),
            timeout=aiohttp.ClientTimeout(),  # none of its own: _exchange has one deadline for everything
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[trace],
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def submit(self, who: Who, spec: JobSpec) -> Submitted:
        """Hand a job to Slurm, once.

        Raises:
            RequestError: the job could not work; nothing was sent.
            SchedulerError: Slurm's refusal, or ``submit-unknown`` (504) if it may have taken the job.
            AccessError: ``scheduler-denied``: Slurm takes nothing from this account.
        """
        body = self._adapter.submit_body(spec, who.localname)
        sent = SimpleNamespace(yes=False)
        path = self._adapter.submit_path()
        try:
            answer = await self._exchange(who, "POST", path, JOB_LIMIT, body=body, sent=sent)
        except Error as error:
            if sent.yes:
                raise answers.submit_unknown(error.message) from error
            raise
        try:
            return self._adapter.read_submitted(answer)
        except Error as error:
            if error.code != "slurm-token-refused" or answer.status == 401:
                raise
            await self._token_or_unknown(who, error)
            raise

    async def job(self, who: Who, job_id: int) -> Job:
        """One job of ``who``.

        Raises:
            SchedulerError: ``no-such-job`` (404): unknown, forgotten, or somebody else's.
        """
        _possible(job_id)

        async def once() -> Job:
            answer = await self._exchange(who, "GET", self._adapter.job_path(job_id), JOB_LIMIT)
            return self._adapter.read_job(answer, job_id, who.localname)

        return await self._twice(once)

    async def jobs(self, who: Who) -> list[Job]:
        """The jobs of ``who`` that Slurm still knows, oldest first. Costs Slurm a walk over all jobs."""

        async def once() -> list[Job]:
            answer = await self._exchange(who, "GET", self._adapter.jobs_path(), LIST_LIMIT)
            return self._adapter.read_jobs(answer, who.localname)

        return await self._twice(once)

    async def past(self, who: Who, job_id: int) -> list[Past]:
        """What Slurm's accounting has under this id, also of others; empty where we cannot read it in this version."""
        _possible(job_id)
        adapter = self._past
        if adapter is None:
            return []

        async def once() -> list[Past]:
            answer = await self._exchange(who, "GET", adapter.past_path(job_id), JOB_LIMIT)
            return adapter.read_past(answer, job_id)

        return await self._twice(once)

    async def cancel(self, who: Who, job_id: int) -> None:
        """End a job; fine for one that has ended already.

        Raises:
            SchedulerError: ``no-such-job`` (404): unknown, forgotten, or somebody else's.
        """
        _possible(job_id)

        async def once() -> None:
            answer = await self._exchange(who, "DELETE", self._adapter.job_path(job_id), JOB_LIMIT)
            self._adapter.read_cancelled(answer, job_id)

        await self._twice(once)

    async def change(self, who: Who, job_id: int, change: JobChange) -> None:
        """Change a job that has not ended; making the same change twice does no harm.

        Raises:
            SchedulerError: ``no-such-job`` (404); ``change-refused`` (422) with Slurm's words.
        """
        _possible(job_id)
        body = self._adapter.update_body(change)

        async def once() -> None:
            answer = await self._exchange(who, "POST", self._adapter.job_path(job_id), JOB_LIMIT, body=body)
            self._adapter.read_updated(answer, job_id)

        await self._twice(once)

    async def signal(self, who: Who, job_id: int, signal: str) -> None:
        """Send ``signal`` (USR1, ...) to the job's steps.

        Raises:
            SchedulerError: ``no-such-job`` (404), ``change-refused`` (422): it does not run.
        """
        _possible(job_id)
        # Not repeated: a signal is no state that could be reached twice.
        answer = await self._exchange(who, "DELETE", self._adapter.signal_path(job_id, signal), JOB_LIMIT)
        self._adapter.read_signalled(answer, job_id)

    async def partitions(self, who: Who) -> list[Partition]:
        """The partitions ``who`` may see."""

        async def once() -> list[Partition]:
            answer = await self._exchange(who, "GET", self._adapter.partitions_path(), LIST_LIMIT)
            return self._adapter.read_partitions(answer)

        return await self._twice(once)

    async def nodes(self, who: Who) -> list[Node]:
        """The nodes ``who`` may see."""

        async def once() -> list[Node]:
            answer = await self._exchange(who, "GET", self._adapter.nodes_path(), LIST_LIMIT)
            return self._adapter.read_nodes(answer)

        return await self._twice(once)

    async def ping(self, who: Who) -> None:
        """Raise unless slurmctld answers; needs a token like every other call."""

        async def once() -> None:
            answer = await self._exchange(who, "GET", self._adapter.ping_path(), JOB_LIMIT)
            self._adapter.read_ping(answer)

        await self._twice(once)

    async def _twice(self, once: Callable[[], Awaitable[T]]) -> T:
        """Ask again if the token seems refused: slurmctld dying at that moment looks the same, once."""
        try:
            return await once()
        except Error as error:
            if error.code != "slurm-token-refused":
                raise
            return await once()

    async def _token_or_unknown(self, who: Who, error: Error) -> None:
        """slurmctld hung up on a submission: if a ping shows that the token is good, it may have the job."""
        try:
            await self.ping(who)
        except Error as other:
            if other.code == "slurm-token-refused":
                return
            raise answers.submit_unknown(other.message) from error
        raise answers.submit_unknown(error.message) from error

    async def _exchange(
        self,
        who: Who,
        method: str,
        path: str,
        limit: int,
        *,
        body: bytes | None = None,
        sent: SimpleNamespace | None = None,
    ) -> Answer:
        """One HTTP request and its whole answer, of at most ``limit`` bytes."""
        if self._session is None:
            raise RuntimeError("SlurmRest is used outside its 'async with'")
        headers = {"X-SLURM-USER-NAME": who.localname, "X-SLURM-USER-TOKEN": who.token}
        if body is not None:
            headers["Content-Type"] = "application/json"
        begin = time.monotonic()
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._session.request(
                    method,
                    path,
                    headers=headers,
                    data=None if body is None else io.BytesIO(body),
                    allow_redirects=False,
                    trace_request_ctx=sent,
                ) as response,
            ):
                content = await _read(response, limit)
                kind = response.headers.get("Content-Type", "")
                return Answer(response.status, kind, content, time.monotonic() - begin)
        except TimeoutError as error:
            raise answers.unreachable(f"no answer from slurmrestd in {self._timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise answers.unreachable(f"slurmrestd: {_words(error)}") from error


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > limit:
            response.close()
            raise answers.unreadable(f"more than {limit} bytes")
        parts.append(part)
    return b"".join(parts)


async def _mark_sent(session: object, context: SimpleNamespace, params: object) -> None:
    if context.trace_request_ctx is not None:
        context.trace_request_ctx.yes = True


def _possible(job_id: int) -> None:
    """Slurm's job ids are positive and below its special values; others would be a 400 from slurmrestd."""
    if not 0 < job_id < 0xFFFF0000:
        raise answers.no_such_job(job_id)


def _words(error: Exception) -> str:
    """aiohttp's texts without the request in them: a request holds the token."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or type(error.os_error).__name__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
