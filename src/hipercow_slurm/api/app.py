"""The routes of the HTTP API, and what surrounds every request: its id, its limits, its log line, its headers.

Rule 1: every answer that is not a success is problem+json, also those of the framework and of our own bugs.
Rule 2: nothing is done before the session is known, except logging in and the health question. Rule 3: one log
line per request, and it holds no header, body or query.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router
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
from hipercow_slurm.api.web import Handler, Routes, address_of, header_of, over
from hipercow_slurm.errors import Error, InternalError

_HEADERS = [
    (b"strict-transport-security", b"max-age=31536000"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]
_HPCPACK = "/api/v1/"
_READING = frozenset({"GET", "HEAD"})
_NOTED_THERE = frozenset({"/v1/sessions", "/v1/conversations"})  # by the login, which knows more


def make(services: Services) -> ASGIApp:
    """The whole ASGI application."""
    routes = [Route(path, Place(path, methods, services), methods=list(methods)) for path, methods in ROUTES.items()]
    return Envelope(Directory(routes), services.metrics, services.conf.limits.answer_s)


class Directory:
    """Finds the place of a request: at once where nothing in its path varies, else as starlette does."""

    def __init__(self, routes: list[Route]) -> None:
        self._router = Router(routes, redirect_slashes=False)
        self._fixed = {(method, one.path): one for one in routes if "{" not in one.path for method in one.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._fixed.get((scope["method"], scope["path"]))
        if route is None:
            if scope["path"][: len(_HPCPACK)].lower() == _HPCPACK:  # there, addresses are matched in any case
                scope["path"] = _HPCPACK + scope["path"][len(_HPCPACK) :]
            await self._router(scope, receive, send)
        else:
            scope["route"], scope["path_params"] = route, {}
            await route.app(scope, receive, send)


class Place:
    """All methods of one path, as an ASGI application: starlette then wraps nothing around it.

    Its own ways of turning errors into answers cost a sixth of a submission's time; the envelope does it once.
    """

    def __init__(self, path: str, methods: dict[str, Handler], services: Services) -> None:
        self._path = path
        self._methods = methods
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        response = await self._answer(request)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        services, method = self._services, request.method
        handler = self._methods["GET" if method == "HEAD" else method]
        try:
            if not services.trail.on or method in _READING or self._path in _NOTED_THERE:
                return await handler(services, request)
            return await _noted(f"{method} {self._path}", handler, services, request)
        finally:
            over(request)


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
    """Around the application: request id, headers, the log line, and an answer to every error."""

    def __init__(self, app: ASGIApp, counted: ApiMetrics, answer_s: float) -> None:
        self._app = app
        self._counted = counted
        self._answer_s = answer_s
        self.description = openapi.text(ROUTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request_id = problems.request_id(header_of(scope, b"x-request-id"))
        problems.serving(request_id)
        extra = [*_HEADERS, (b"x-request-id", request_id.encode())]
        begin, status = time.monotonic(), 0
        scope["app"] = self  # so that starlette raises what it would answer by itself otherwise

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *extra]
            if _waits_for_nobody(scope):
                await send(message)
                return
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
            _log_failure(error, begun=bool(status))
            if not status and not isinstance(error, ClientDisconnect):
                await problems.response(error)(scope, receive, sending)
        finally:
            seconds = time.monotonic() - begin
            route = getattr(scope.get("route"), "path", None)
            self._counted.request(scope["method"], route, status, seconds)
            log.info(
                "http.request",
                {
                    "method": scope["method"],
                    "route": route,
                    "status": status,
                    "ms": round(seconds * 1000, 1),
                    "address": address_of(scope),
                    "session_id": scope.get("hipercow.session_id"),
                    "principal": scope.get("hipercow.principal"),
                    "request_id": request_id,
                },
            )


def _waits_for_nobody(scope: Scope) -> bool:
    """True if the peer has taken what it was sent so far: then sending only adds to what is on its way."""
    flow = scope.get("hipercow.flow")
    return flow is not None and not flow.write_paused


def _log_failure(error: Exception, *, begun: bool) -> None:
    """Say in the log why a request ended without its whole answer, or with ``bug``; a refusal is an answer."""
    if isinstance(error, ClientDisconnect):
        log.get().info("http.client-gone")
    elif isinstance(error, Error | HTTPException):
        if begun:
            log.get().warning("http.broken-off", code=getattr(error, "code", "http"), why=str(error))
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
