"""Routes for jobs and what they write."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Literal

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from hipercow_slurm.api import job_list, problems, schemas
from hipercow_slurm.api.output import RangeError
from hipercow_slurm.api.services import Services
from hipercow_slurm.api.web import OCTETS, Handler, Routes, body_of, header_of, json_answer, range_of, session_of
from hipercow_slurm.errors import Error, RequestError
from hipercow_slurm.slurm.model import JobChange

_KEY = re.compile(rb"[\x21-\x7e]{1,128}")


async def submit_job(services: Services, request: Request) -> Response:
    """POST /v1/jobs."""
    session = await session_of(services, request)
    key = _idempotency_key(request)
    body = schemas.decode(await body_of(services, request, services.conf.limits.job_body_bytes), schemas.JobBody)
    job = await services.jobs.submit(session, body, key)
    return json_answer(job, 201, {"Location": f"/v1/jobs/{job.job_id}"})


async def submit_jobs(services: Services, request: Request) -> Response:
    """POST /v1/jobs:bulk: many jobs in one call, each with its own outcome."""
    session = await session_of(services, request, bulk=True)
    key = _idempotency_key(request)
    body = schemas.decode(await body_of(services, request, services.conf.limits.job_body_bytes), schemas.BulkBody)
    return json_answer(await services.actions.submit_many(session, body.jobs, key))


async def list_jobs(services: Services, request: Request) -> Response:
    """GET /v1/jobs: the caller's own, filtered and page by page."""
    session = await session_of(services, request)
    want = job_list.wanted(request.query_params.multi_items())
    return json_answer(await services.jobs.listing(session, want))


async def cancel_jobs(services: Services, request: Request) -> Response:
    """DELETE /v1/jobs?job_id=1&job_id=2,3: each with its own outcome."""
    session = await session_of(services, request, bulk=True)
    named = [text for value in request.query_params.getlist("job_id") for text in value.split(",")]
    return json_answer(await services.actions.cancel_many(session, [job_id_of(text) for text in named]))


async def show_job(services: Services, request: Request) -> Response:
    """GET /v1/jobs/{id}."""
    session = await session_of(services, request)
    return json_answer(await services.jobs.show(session, _job_id(request)))


async def cancel_job(services: Services, request: Request) -> Response:
    """DELETE /v1/jobs/{id}."""
    session = await session_of(services, request)
    await services.jobs.cancel(session, _job_id(request))
    return Response(status_code=204)


async def change_job(services: Services, request: Request) -> Response:
    """PATCH /v1/jobs/{id}."""
    session = await session_of(services, request)
    body = schemas.decode(await body_of(services, request, 4096), schemas.ChangeBody)
    change = JobChange(time_limit_min=body.time_limit_min, nice=body.nice)
    if change == JobChange():
        raise RequestError("nothing is to be changed: give time_limit_min or nice")
    return json_answer(await services.actions.change(session, _job_id(request), change))


async def hold_job(services: Services, request: Request) -> Response:
    """POST /v1/jobs/{id}/hold."""
    session = await session_of(services, request)
    return json_answer(await services.actions.change(session, _job_id(request), JobChange(hold=True)))


async def release_job(services: Services, request: Request) -> Response:
    """POST /v1/jobs/{id}/release."""
    session = await session_of(services, request)
    return json_answer(await services.actions.change(session, _job_id(request), JobChange(hold=False)))


async def requeue_job(services: Services, request: Request) -> Response:
    """POST /v1/jobs/{id}/requeue."""
    session = await session_of(services, request)
    return json_answer(await services.actions.requeue(session, _job_id(request)))


async def signal_job(services: Services, request: Request) -> Response:
    """POST /v1/jobs/{id}/signal."""
    session = await session_of(services, request)
    body = schemas.decode(await body_of(services, request, 4096), schemas.SignalBody)
    return json_answer(await services.actions.signal(session, _job_id(request), body.signal))


async def job_output(services: Services, request: Request) -> Response:
    """GET /v1/jobs/{id}/output?stream=stdout|stderr, with Range."""
    session = await session_of(services, request)
    stream = stream_of(request)
    job = await services.jobs.find(session, _job_id(request))
    headers = {"X-Job-State": job.state, "Accept-Ranges": "bytes"}
    try:
        piece, data = await services.outputs.open(job, stream, session.cred, range_of(request))
    except Error as error:
        # Whoever follows a job needs its state also while there is nothing (new) to read.
        refusal = problems.response(error)
        refusal.headers["X-Job-State"] = job.state
        if isinstance(error, RangeError):
            refusal.headers["Content-Range"] = f"bytes */{error.size}"
        return refusal
    headers["Content-Length"] = str(piece.end - piece.start)
    if not piece.whole:
        headers["Content-Range"] = f"bytes {piece.start}-{piece.end - 1}/{piece.size}"
    return streamed(request, data, 200 if piece.whole else 206, headers)


def streamed(request: Request, data: AsyncIterator[bytes], status: int, headers: dict[str, str]) -> Response:
    """Bytes of a file; a HEAD request gets the same headers, and nothing more is read for it."""
    if request.method == "HEAD":
        return Response(None, status, headers, OCTETS)
    return StreamingResponse(data, status, headers=headers, media_type=OCTETS)


def stream_of(request: Request) -> Literal["stdout", "stderr"]:
    """Which stream of a job is asked for."""
    match request.query_params.get("stream", "stdout"):
        case "stdout":
            return "stdout"
        case "stderr":
            return "stderr"
    raise RequestError("stream must be stdout or stderr")


def job_id_of(text: str) -> int:
    """A job's id in an address."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and 0 < int(text) < 2**32):
        raise RequestError("a job id is a positive number")
    return int(text)


def _idempotency_key(request: Request) -> str | None:
    key = header_of(request.scope, b"idempotency-key")
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise RequestError("Idempotency-Key must be 1 to 128 visible ASCII characters")
    return key.decode("ascii")


def _job_id(request: Request) -> int:
    return job_id_of(request.path_params["job_id"])


_JOB = "/v1/jobs/{job_id:str}"
_ACTIONS: dict[str, Handler] = {
    "hold": hold_job,
    "release": release_job,
    "requeue": requeue_job,
    "signal": signal_job,
}
ROUTES: Routes = {
    "/v1/jobs": {"GET": list_jobs, "POST": submit_job, "DELETE": cancel_jobs},
    "/v1/jobs:bulk": {"POST": submit_jobs},
    _JOB: {"GET": show_job, "PATCH": change_job, "DELETE": cancel_job},
    **{f"{_JOB}/{name}": {"POST": handler} for name, handler in _ACTIONS.items()},
}
