"""What every route needs: the session behind a request, its body within limits, and the answer as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from hipercow_slurm.api import schemas
from hipercow_slurm.api.problems import not_logged_in
from hipercow_slurm.api.services import Services
from hipercow_slurm.api.session import Session
from hipercow_slurm.errors import RequestError

Handler = Callable[[Services, Request], Awaitable[Response]]
Routes = dict[str, dict[str, Handler]]

JSON = "application/json"
OCTETS = "application/octet-stream"


async def session_of(services: Services, request: Request, *, bulk: bool = False) -> Session:
    """The caller's session, from ``Authorization``: Bearer with a session token, or Basic; and a turn for this request.

    ``bulk``: it may take minutes.

    Raises:
        AccessError: 401: none, or not a good one. ThrottledError: ``too-many-requests``.
    """
    scheme, credentials = authorization(request)
    if scheme == "basic":
        session = await services.logins.basic(credentials, address_of(request.scope))
    elif scheme == "bearer" and credentials:
        session = await services.sessions.authenticate(credentials)
    else:
        raise not_logged_in("this needs a session: Authorization: Bearer TOKEN")
    request.scope["hipercow.session_id"] = session.session_id
    request.scope["hipercow.principal"] = session.principal
    if "hipercow.turn" not in request.scope:
        turns = services.bulk_turns if bulk else services.turns
        if not turns.take_now(session.principal):
            await turns.take(session.principal)
        request.scope["hipercow.turn"] = turns, session.principal
    return session


def over(request: Request) -> None:
    """The request is worked on no more; sending its answer is no work of ours."""
    taken = request.scope.pop("hipercow.turn", None)
    if taken is not None:
        turns, user = taken
        turns.leave(user)


def authorization(request: Request) -> tuple[str, str]:
    """Scheme, in small letters, and credentials of the ``Authorization`` header; empty without one."""
    scheme, _, credentials = header_text(request, b"authorization").partition(" ")
    return scheme.lower(), credentials.strip()


def range_of(request: Request) -> str | None:
    """The Range asked for; none if only of what has not changed since: no answer has a tag that could show it."""
    return None if "if-range" in request.headers else request.headers.get("range")


def media_type(request: Request) -> str:
    """The body's media type without parameters; empty if the request names none."""
    return header_text(request, b"content-type").partition(";")[0].strip().lower()


async def body_of(services: Services, request: Request, limit: int, *, kind: str = JSON) -> bytearray:
    """The request body, at most ``limit`` bytes, within its deadline; refused unread if it says it is longer."""
    if media_type(request) != kind:
        raise RequestError(f"the request body must be {kind}", code="unsupported-media-type", status=415)
    declared = header_text(request, b"content-length") or "0"
    if not declared.isascii() or not declared.isdigit() or int(declared[:18]) > limit:
        raise _too_large(limit)
    if request.scope.get("hipercow.whole"):  # nothing to wait for
        return await _read(request, limit)
    try:
        async with asyncio.timeout(services.conf.limits.request_body_s):
            return await _read(request, limit)
    except TimeoutError:
        raise RequestError("the request body came too slowly", code="request-timeout", status=408) from None


async def _read(request: Request, limit: int) -> bytearray:
    """The body to its end; without ``request.stream()``, as the event loop keeps account of each async generator."""
    body, more = bytearray(), True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > limit:
            raise _too_large(limit)
    return body


def _too_large(limit: int) -> RequestError:
    return RequestError(f"the request body is larger than {limit} bytes", code="body-too-large", status=413)


def json_answer(answer: schemas.Answer, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer of ours as JSON."""
    return Response(msgspec.json.encode(answer), status, headers, JSON)


def address_of(scope: Scope) -> str:
    """The client's IP address as the connection has it; no header is believed."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def header_text(request: Request, name: bytes) -> str:
    """As ``header_of``, as text; empty without one. Starlette's mapping of all headers costs five times as much."""
    return (header_of(request.scope, name) or b"").decode("latin-1")


def header_of(scope: Scope, name: bytes) -> bytes | None:
    """The first value of a header."""
    for key, value in scope["headers"]:
        if key == name:
            found: bytes = value
            return found
    return None
