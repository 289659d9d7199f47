"""The routes of the HTTP API, and what surrounds every request: its id, its limits, its log line, its headers.

Rule 1: every answer that is not a success is problem+json, also those of the framework and of our own bugs.
Rule 2: nothing is done before the session is known, except logging in and the health question. Rule 3: one log
line per request, and it holds no header, body or query.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hipercow_slurm import log
from hipercow_slurm.api import (
    openapi,
    problems,
    routes_cluster,
    routes_files,
    routes_hpcpack,
    routes_jobs,
    routes_operator,
    routes_paths,
    routes_sessions,
)
from hipercow_slurm.api.metrics import ApiMetrics
from hipercow_slurm.api.services import Services
from hipercow_slurm.api.trail import tell
from hipercow_slurm.api.web import Handler, Routes, address_of, header_of
from hipercow_slurm.errors import Error, InternalError

_HEADERS = [
    (b"strict-transport-security", b"max-age=31536000"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]
_READING = frozenset({"GET", "HEAD"})
_NOTED_THERE = frozenset({"/v1/sessions", "/v1/conversations"})  # by the login, which knows more


def make(services: Services) -> ASGIApp:
    """The whole ASGI application."""
    app = Starlette(
        routes=[_by_method(path, methods, services) for path, methods in ROUTES.items()],
        exception_handlers={Error: _refuse, HTTPException: _refuse, Exception: _refuse},
    )
    app.router.redirect_slashes = False
    app.state.description = openapi.text(ROUTES)
    return Envelope(app, services.metrics, services.conf.limits.answer_s)


def _by_method(path: str, methods: dict[str, Handler], services: Services) -> Route:
    """One route for all methods of a path, so that a wrong method is 405 with the right ``Allow``."""

    async def endpoint(request: Request) -> Response:
        handler = methods["GET" if request.method == "HEAD" else request.method]
        if not services.trail.on or request.method in _READING or path in _NOTED_THERE:
            return await handler(services, request)
        return await _noted(f"{request.method} {path}", handler, services, request)

    return Route(path, endpoint, methods=list(methods))


async def _noted(verb: str, handler: Handler, services: Services, request: Request) -> Response:
    """What a request changed goes into the audit log before its answer goes out."""
    peer, failure = address_of(request.scope), None  # type: str, Error | None
    await services.trail.begin(verb, peer)
    try:
        return await handler(services, request)
    except BaseException as error:
        failure = error if isinstance(error, Error) else InternalError(type(error).__name__, code="bug")
        raise
    finally:
        who = request.scope.get("hipercow.principal")
        tell(**{key: str(value)[:40] for key, value in request.path_params.items()})
        await services.trail.end(verb, failure, who=who, peer=peer)


async def _refuse(_: Request, error: Exception) -> Response:
    return problems.response(error)


ROUTES: Routes = {
    **routes_jobs.ROUTES,
    **routes_files.ROUTES,
    **routes_cluster.ROUTES,
    **routes_hpcpack.ROUTES,
    **routes_paths.ROUTES,
    **routes_sessions.ROUTES,
    **routes_operator.ROUTES,
}


class Envelope:
    """Around the application: request id, headers, deadline for sending, the log line, and the last net."""

    def __init__(self, app: ASGIApp, counted: ApiMetrics, answer_s: float) -> None:
        self._app = app
        self._counted = counted
        self._answer_s = answer_s

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
                async with asyncio.timeout(self._answer_s):
                    await send(message)
            except TimeoutError:
                if (abort := scope.get("hipercow.abort")) is not None:
                    abort()
                raise ClientDisconnect from None

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            _log_failure(error)  # nothing is left to answer: that was done, or the answer had begun
        finally:
            seconds = time.monotonic() - begin
            route = getattr(scope.get("route"), "path", None)
            self._counted.request(scope["method"], route, status, seconds)
            log.get().info(
                "http.request",
                method=scope["method"],
                route=route,
                status=status,
                ms=round(seconds * 1000, 1),
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


def _where(error: BaseException) -> str:
    """File, line and function of each frame: a trace without values, which could be secrets."""
    frames: list[str] = []
    trace: Any = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}:{code.co_name}")
        trace = trace.tb_next
    return " ".join(frames[-12:])
