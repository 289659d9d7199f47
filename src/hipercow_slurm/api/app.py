"""The routes of the HTTP API, and what surrounds every request: its id, its limits, its log line, its headers.

Rule 1: every answer that is not a success is problem+json, also those of the framework and of our own bugs.
Rule 2: nothing is done before the session is known, except logging in and the health question. Rule 3: one log
line per request, and it holds no header, body or query.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Literal

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hipercow_slurm import log
from hipercow_slurm.api import problems, routes_operator, routes_sessions, schemas
from hipercow_slurm.api.output import RangeError
from hipercow_slurm.api.services import Services
from hipercow_slurm.api.web import Handler, Routes, address_of, body_of, header_of, json_answer, session_of
from hipercow_slurm.errors import Error, RequestError

_SEND_S = 60.0  # a client that takes nothing for this long is gone
_KEY_CHARS = frozenset(map(chr, range(0x21, 0x7F)))
_HEADERS = [
    (b"strict-transport-security", b"max-age=31536000"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]


def make(services: Services) -> ASGIApp:
    """The whole ASGI application."""
    app = Starlette(
        routes=[_by_method(path, methods, services) for path, methods in ROUTES.items()],
        exception_handlers={Error: _refuse, HTTPException: _refuse, Exception: _refuse},
    )
    app.router.redirect_slashes = False
    return Envelope(app)


def _by_method(path: str, methods: dict[str, Handler], services: Services) -> Route:
    """One route for all methods of a path, so that a wrong method is 405 with the right ``Allow``."""

    async def endpoint(request: Request) -> Response:
        handler = methods["GET" if request.method == "HEAD" else request.method]
        return await handler(services, request)

    return Route(path, endpoint, methods=list(methods))


async def _refuse(_: Request, error: Exception) -> Response:
    return problems.response(error)


async def submit_job(services: Services, request: Request) -> Response:
    """POST /v1/jobs."""
    session = await session_of(services, request)
    key = _idempotency_key(request)
    body = schemas.decode(await body_of(services, request, services.conf.limits.job_body_bytes), schemas.JobBody)
    job = await services.jobs.submit(session, body, key)
    return json_answer(job, 201, {"Location": f"/v1/jobs/{job.job_id}"})


async def list_jobs(services: Services, request: Request) -> Response:
    """GET /v1/jobs: the caller's own."""
    return json_answer(await services.jobs.listing(await session_of(services, request)))


async def show_job(services: Services, request: Request) -> Response:
    """GET /v1/jobs/{id}."""
    session = await session_of(services, request)
    return json_answer(await services.jobs.show(session, _job_id(request)))


async def cancel_job(services: Services, request: Request) -> Response:
    """DELETE /v1/jobs/{id}."""
    session = await session_of(services, request)
    await services.jobs.cancel(session, _job_id(request))
    return Response(status_code=204)


async def job_output(services: Services, request: Request) -> Response:
    """GET /v1/jobs/{id}/output?stream=stdout|stderr, with Range."""
    session = await session_of(services, request)
    stream: Literal["stdout", "stderr"]
    match request.query_params.get("stream", "stdout"):
        case "stdout":
            stream = "stdout"
        case "stderr":
            stream = "stderr"
        case _:
            raise RequestError("stream must be stdout or stderr")
    job = await services.jobs.find(session, _job_id(request))
    headers = {"X-Job-State": job.state, "Accept-Ranges": "bytes"}
    try:
        piece, data = await services.outputs.open(job, stream, session.cred, request.headers.get("range"))
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
    return StreamingResponse(data, 200 if piece.whole else 206, headers=headers, media_type="application/octet-stream")


ROUTES: Routes = {
    "/v1/jobs": {"GET": list_jobs, "POST": submit_job},
    "/v1/jobs/{job_id:str}": {"GET": show_job, "DELETE": cancel_job},
    "/v1/jobs/{job_id:str}/output": {"GET": job_output},
    **routes_sessions.ROUTES,
    **routes_operator.ROUTES,
}


class Envelope:
    """Around the application: request id, headers, deadline for sending, the log line, and the last net."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request_id = problems.request_id(header_of(scope, b"x-request-id"))
        structlog.contextvars.bind_contextvars(request_id=request_id)
        extra = [*_HEADERS, (b"x-request-id", request_id.encode())]
        begin, status = time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *extra]
            try:
                async with asyncio.timeout(_SEND_S):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnect from None

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            _log_failure(error)  # nothing is left to answer: that was done, or the answer had begun
        finally:
            log.get().info(
                "http.request",
                method=scope["method"],
                route=getattr(scope.get("route"), "path", None),
                status=status,
                ms=round((time.monotonic() - begin) * 1000, 1),
                address=address_of(scope),
                session_id=scope.get("hipercow.session_id"),
                principal=scope.get("hipercow.principal"),
            )
            structlog.contextvars.unbind_contextvars("request_id")


def _log_failure(error: Exception) -> None:
    """Say in the log why a request ended without its whole answer, or with ``bug``."""
    # The framework wraps an error of ours that came after the answer had begun.
    known = error if isinstance(error, Error) else error.__cause__
    if isinstance(error, ClientDisconnect):
        log.get().info("http.client-gone")
    elif isinstance(known, Error):
        log.get().warning("http.broken-off", code=known.code, why=known.message)
    else:
        log.get().error("http.bug", error=type(error).__name__, trace=_where(error))


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not (1 <= len(key) <= 128 and _KEY_CHARS.issuperset(key)):
        raise RequestError("Idempotency-Key must be 1 to 128 visible ASCII characters")
    return key


def _job_id(request: Request) -> int:
    text = request.path_params["job_id"]
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and 0 < int(text) < 2**32):
        raise RequestError("a job id is a positive number")
    return int(text)


def _where(error: BaseException) -> str:
    """File, line and function of each frame: a trace without values, which could be secrets."""
    frames: list[str] = []
    trace: Any = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}:{code.co_name}")
        trace = trace.tb_next
    return " ".join(frames[-12:])
