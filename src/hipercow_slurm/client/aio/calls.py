"""The API's routes as methods: each sends one request and returns what the answer says, as frozen values."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, urlencode

from hipercow_slurm.client import models
from hipercow_slurm.client.aio.connection import AsyncConnection
from hipercow_slurm.client.exchange import Answer, Ask, OnSent
from hipercow_slurm.client.models import Account, Entry, JobInfo, Json, Output, SessionInfo, Ticket
from hipercow_slurm.client.problems import from_answer
from hipercow_slurm.errors import ProtocolError, RequestError

PIECE_LIMIT = 4 * 2**20


class AsyncCalls:
    """Every method raises our errors: UnavailableError (server down, slow or full), AccessError and CredentialError
    (no session any more, "server-not-trusted", not allowed), ProtocolError ("bad-answer"), and what the API refuses.
    """

    _connection: AsyncConnection

    async def get(self, address: str, **query: str | int) -> Json:
        """The JSON object at ``address`` (``/v1/...``): for what has no method here."""
        address = f"{address}?{urlencode(query)}" if query else address
        return (await self._ask(Ask("GET", address))).document()

    # ---- sessions and the ticket -----------------------------------------------------------------------------

    async def sessions(self) -> list[SessionInfo]:
        """The user's sessions, on all machines."""
        return [SessionInfo.parse(row) for row in models.objects(await self.get("/v1/sessions"), "sessions")]

    async def end_session(self, session_id: str) -> None:
        """End one of the user's sessions. RequestError "no-such-session"."""
        await self._ask(Ask("DELETE", f"/v1/sessions/{quote(session_id, safe='')}"))

    async def whoami(self) -> Account:
        """Whose session this is, and where that account's home directory is on the cluster."""
        return Account.parse(await self.get("/v1/sessions/current"))

    async def ticket(self) -> Ticket:
        """How long the user's tickets are good."""
        return Ticket.parse(await self.get("/v1/ticket"))

    # ---- jobs ------------------------------------------------------------------------------------------------

    async def job_info(self, job_id: int) -> JobInfo:
        """One job. RequestError "no-such-job"."""
        return JobInfo.parse(await self.get(f"/v1/jobs/{job_id}"))

    async def job_infos(self, **query: str | int) -> list[JobInfo]:
        """The user's jobs, by rising id, all pages of them; ``query`` as for ``AsyncClient.jobs``."""
        found: list[JobInfo] = []
        while True:
            page = await self.get("/v1/jobs", **query)
            found += [JobInfo.parse(job) for job in models.objects(page, "jobs")]
            cursor = page.get("next_cursor")
            if cursor is None:
                return found
            query["cursor"] = str(cursor)

    async def cancel(self, job_id: int) -> None:
        """Cancel a job; one that has ended already is no error."""
        await self._ask(Ask("DELETE", f"/v1/jobs/{job_id}"))

    async def hold(self, job_id: int) -> JobInfo:
        """Keep a waiting job from starting. SchedulerError "change-refused"."""
        return await self._act(job_id, "hold")

    async def release(self, job_id: int) -> JobInfo:
        """Let a held job go. SchedulerError "change-refused"."""
        return await self._act(job_id, "release")

    async def requeue(self, job_id: int) -> JobInfo:
        """Put a job back into the queue; what runs of it is ended. SchedulerError "change-refused"."""
        return await self._act(job_id, "requeue", safe=False)

    async def signal(self, job_id: int, signal: str) -> JobInfo:
        """Send ``signal`` (``USR1``) to all processes of a job. SchedulerError "change-refused"."""
        return await self._act(job_id, "signal", safe=False, body={"signal": signal})

    async def change(self, job_id: int, *, time_limit_min: int | None = None, nice: int | None = None) -> JobInfo:
        """Change a job's time limit (minutes) or nice value. SchedulerError "change-refused"."""
        wanted = {"time_limit_min": time_limit_min, "nice": nice}
        body = {key: value for key, value in wanted.items() if value is not None}
        return JobInfo.parse((await self._ask(Ask("PATCH", f"/v1/jobs/{job_id}", body=body))).document())

    async def output_piece(
        self, job_id: int, *, stream: str = "stdout", offset: int = 0, limit: int = PIECE_LIMIT
    ) -> Output:
        """Bytes of a job's output from ``offset`` on, at most ``limit``; ``size`` None: there is no file yet."""
        answer = await self._range(f"/v1/jobs/{job_id}/output?stream={quote(stream)}", offset, limit, (404, 416))
        state = answer.headers.get("x-job-state")
        if answer.status == 404:
            error = from_answer(404, answer.headers, answer.body, server=answer.server)
            if error.code != "no-output-yet":
                raise error
            return Output(offset, b"", None, state)
        return _piece(answer, offset, state)

    # ---- files and the cluster -------------------------------------------------------------------------------

    async def entries(self, path: str) -> list[Entry]:
        """What is in a directory on the cluster. RequestError "no-such-file", "not-a-directory"; AccessError."""
        answer = await self._range(f"/v1/files?{urlencode({'path': path})}", 0, PIECE_LIMIT, (416,), last=0)
        if not _is_json(answer):
            raise RequestError(f"{path} is not a directory", code="not-a-directory")
        return [Entry.parse(row) for row in models.objects(answer.document(), "entries")]

    async def is_directory(self, path: str) -> bool:
        """There is a directory of that name on the cluster; False also for what one may not look at."""
        answer = await self._range(f"/v1/files?{urlencode({'path': path})}", 0, 1, (403, 404, 416), last=0)
        return answer.status == 200 and _is_json(answer)

    async def read(self, path: str, *, offset: int = 0, limit: int = PIECE_LIMIT) -> Output:
        """Bytes of a file on the cluster from ``offset`` on, at most ``limit``, and its ``size``.

        Raises:
            RequestError: "no-such-file", "is-a-directory", "output-elsewhere" (no share of ours), ...
        """
        answer = await self._range(f"/v1/files?{urlencode({'path': path})}", offset, limit, (416,))
        if answer.status != 416 and _is_json(answer):
            raise RequestError(f"{path} is a directory", code="is-a-directory")
        return _piece(answer, offset, None)

    async def write(self, path: str, data: bytes, *, mode: int = 0o600, on_progress: OnSent | None = None) -> None:
        """Make ``data`` the whole content of a file on the cluster; ``mode`` is for a new one.

        Args:
            on_progress: told how many bytes of how many have been sent; anew if the request is repeated.
        """
        address = f"/v1/files?{urlencode({'path': path, 'mode': f'{mode:04o}'})}"
        headers = {"Content-Type": "application/octet-stream"}
        await self._ask(Ask("PUT", address, content=data, headers=headers, on_sent=on_progress))

    async def mkdir(self, path: str, *, mode: int = 0o700) -> bool:
        """Make a directory on the cluster, in one that is there; False: there is one of that name already.

        Raises:
            RequestError: "no-such-file": there is no directory to make it in; "file-exists": a file has the name.
        """
        address = f"/v1/directories?{urlencode({'path': path, 'mode': f'{mode:04o}'})}"
        return models.get((await self._ask(Ask("PUT", address))).document(), "created", bool)

    async def partitions(self) -> list[Json]:
        """The partitions the user may see, as JSON objects (http-api.md)."""
        return models.objects(await self.get("/v1/partitions"), "partitions")

    async def nodes(self) -> list[Json]:
        """The cluster's nodes, as JSON objects (http-api.md)."""
        return models.objects(await self.get("/v1/nodes"), "nodes")

    async def cluster(self) -> Json:
        """Load and limits (http-api.md)."""
        return await self.get("/v1/cluster")

    async def health(self) -> Json:
        """The service's view of its own parts; needs no session."""
        return (await self._ask(Ask("GET", "/v1/health", session=False))).document()

    # ---- how it is asked -------------------------------------------------------------------------------------

    async def _ask(self, ask: Ask) -> Answer:
        return await self._connection.ask(ask)

    async def _act(self, job_id: int, action: str, *, safe: bool = True, body: Any = None) -> JobInfo:
        ask = Ask("POST", f"/v1/jobs/{job_id}/{action}", safe=safe, body=body)
        return JobInfo.parse((await self._ask(ask)).document())

    async def _range(
        self, path: str, offset: int, limit: int, accept: tuple[int, ...], *, last: int | None = None
    ) -> Answer:
        headers = {"Range": f"bytes={offset}-{'' if last is None else last}", "Accept": "*/*"}
        return await self._ask(Ask("GET", path, headers=headers, accept=accept, cut=limit))


def _is_json(answer: Answer) -> bool:
    return str(answer.headers.get("content-type", "")).startswith("application/json")


def _piece(answer: Answer, offset: int, state: str | None) -> Output:
    """A part of a file out of an answer with 200, 206 or 416."""
    size = _total(answer)
    if answer.status == 416:
        return Output(offset, b"", offset if size is None else size, state)
    start = re.match(r"bytes (\d+)-", answer.headers.get("content-range", ""))
    if (int(start[1]) if start else 0) != offset:
        raise ProtocolError(f"{answer.server} sent another part than from byte {offset} on", code="bad-answer")
    return Output(offset, answer.body, offset + len(answer.body) if size is None else size, state)


def _total(answer: Answer) -> int | None:
    """The file's size from Content-Range ("bytes 5-9/10", "bytes */10"), else from Content-Length."""
    ranged = answer.headers.get("content-range", "")
    found = re.fullmatch(r"bytes (?:\d+-\d+|\*)/(\d{1,19})", ranged)
    if found:
        return int(found[1])
    length = answer.headers.get("content-length", "")
    return int(length) if not ranged and length.isdigit() else None
