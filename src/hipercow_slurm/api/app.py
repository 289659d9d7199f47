"""The routes of the HTTP API, and what surrounds every request: its id, its limits, its log line, its headers.

Rule 1: every answer that is not a success is problem+json, also those of the framework and of our own bugs.
Rule 2: nothing is done before the session is known, except logging in and the health question. Rule 3: one log
line per request, and it holds no header, body or query.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hipercow_slurm import log
from hipercow_slurm.api import problems, schemas
from hipercow_slurm.api.output import RangeError
from hipercow_slurm.api.password import wipe
from hipercow_slurm.api.problems import not_logged_in
from hipercow_slurm.api.services import Services
from hipercow_slurm.api.sessions import Session
from hipercow_slurm.errors import Error, RequestError

Handler = Callable[[Services, Request], Awaitable[Response]]

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


async def create_session(services: Services, request: Request) -> Response:
    """POST /v1/sessions: username and password for a session."""
    body = await _body(services, request, services.conf.limits.login_body_bytes)
    try:
        created = await services.logins.login(body, _address(request.scope))
    finally:
        wipe(body)
    return _json(created, 201)


async def list_sessions(services: Services, request: Request) -> Response:
    """GET /v1/sessions: the caller's own."""
    session = await _session(services, request)
    rows = [
        schemas.SessionRow(
            session_id=record.session_id,
            created_at=schemas.rfc3339(record.created_at),
            expires_at=schemas.rfc3339(record.expires_at),
            current=record.session_id == session.session_id,
            address=record.address,
        )
        for record in await services.sessions.listing(session.principal)
    ]
    return _json(schemas.SessionList(sessions=rows))


async def end_session(services: Services, request: Request) -> Response:
    """DELETE /v1/sessions/{id|current}."""
    session = await _session(services, request)
    wanted = request.path_params["session_id"]
    session_id = session.session_id if wanted == "current" else wanted
    if not await services.sessions.revoke(session.principal, session_id):
        raise RequestError("you have no such session", code="no-such-session", status=404)
    log.get().info("session.revoked", principal=session.principal, session_id=session_id)
    return Response(status_code=204)


async def submit_job(services: Services, request: Request) -> Response:
    """POST /v1/jobs."""
    session = await _session(services, request)
    key = _idempotency_key(request)
    body = schemas.decode(await _body(services, request, services.conf.limits.job_body_bytes), schemas.JobBody)
    job = await services.jobs.submit(session, body, key)
    return _json(job, 201, {"Location": f"/v1/jobs/{job.job_id}"})


async def list_jobs(services: Services, request: Request) -> Response:
    """GET /v1/jobs: the caller's own."""
    return _json(await services.jobs.listing(await _session(services, request)))


async def show_job(services: Services, request: Request) -> Response:
    """GET /v1/jobs/{id}."""
    session = await _session(services, request)
    return _json(await services.jobs.show(session, _job_id(request)))


async def cancel_job(services: Services, request: Request) -> Response:
    """DELETE /v1/jobs/{id}."""
    session = await _session(services, request)
    await services.jobs.cancel(session, _job_id(request))
    return Response(status_code=204)


async def job_output(services: Services, request: Request) -> Response:
    """GET /v1/jobs/{id}/output?stream=stdout|stderr, with Range."""
    session = await _session(services, request)
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


async def ticket(services: Services, request: Request) -> Response:
    """GET /v1/ticket: the session's ticket and the cache's."""
    session = await _session(services, request)
    filed = await services.tickets.filed(session)
    return _json(
        schemas.TicketAnswer(
            principal=session.principal,
            localname=session.localname,
            uid=session.uid,
            session=schemas.Times.of(session.cred.times),
            cache=schemas.Times.of(filed.times) if filed.times else None,
        )
    )


async def health(services: Services, request: Request) -> Response:
    """GET /v1/health."""
    return _json(await services.health.report())


ROUTES: dict[str, dict[str, Handler]] = {
    "/v1/sessions": {"GET": list_sessions, "POST": create_session},
    "/v1/sessions/{session_id:str}": {"DELETE": end_session},
    "/v1/jobs": {"GET": list_jobs, "POST": submit_job},
    "/v1/jobs/{job_id:str}": {"GET": show_job, "DELETE": cancel_job},
    "/v1/jobs/{job_id:str}/output": {"GET": job_output},
    "/v1/ticket": {"GET": ticket},
    "/v1/health": {"GET": health},
}


class Envelope:
    """Around the application: request id, headers, deadline for sending, the log line, and the last net."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request_id = problems.request_id(_header(scope, b"x-request-id"))
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
                address=_address(scope),
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


async def _session(services: Services, request: Request) -> Session:
    """The caller's session, from ``Authorization: Bearer``."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise not_logged_in("this needs a session: Authorization: Bearer TOKEN")
    session = await services.sessions.authenticate(token.strip())
    request.scope["hipercow.session_id"] = session.session_id
    request.scope["hipercow.principal"] = session.principal
    return session


async def _body(services: Services, request: Request, limit: int) -> bytearray:
    """The request body, at most ``limit`` bytes, within its deadline; refused unread if it says it is longer."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise RequestError("the request body must be application/json", code="unsupported-media-type", status=415)
    too_large = RequestError(f"the request body is larger than {limit} bytes", code="body-too-large", status=413)
    declared = request.headers.get("content-length", "0")
    if not declared.isascii() or not declared.isdigit() or int(declared[:18]) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(services.conf.limits.request_body_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise RequestError("the request body came too slowly", code="request-timeout", status=408) from None
    return body


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


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)


def _json(answer: schemas.Answer, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(answer), status, headers, "application/json")


def _where(error: BaseException) -> str:
    """File, line and function of each frame: a trace without values, which could be secrets."""
    frames: list[str] = []
    trace: Any = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}:{code.co_name}")
        trace = trace.tb_next
    return " ".join(frames[-12:])
