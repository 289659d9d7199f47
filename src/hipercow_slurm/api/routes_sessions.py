"""Routes for ways in, sessions and the ticket."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response

from hipercow_slurm import log
from hipercow_slurm.api import schemas
from hipercow_slurm.api.password import wipe
from hipercow_slurm.api.problems import not_logged_in
from hipercow_slurm.api.services import Services
from hipercow_slurm.api.web import (
    OCTETS,
    Routes,
    address_of,
    authorization,
    body_of,
    json_answer,
    media_type,
    session_of,
)
from hipercow_slurm.errors import RequestError

_SESSION_ID = re.compile(r"[0-9a-f]{16}")  # what else is asked for need not trouble the database, which may not take it


async def create_session(services: Services, request: Request) -> Response:
    """POST /v1/sessions: a password, a Negotiate token or a ticket for a session."""
    scheme, credentials = authorization(request)
    address = address_of(request.scope)
    if scheme == "negotiate" and credentials:
        created, answer = await services.logins.negotiate(credentials, address)
        return json_answer(created, 201, {"WWW-Authenticate": f"Negotiate {answer}"})
    if media_type(request) == OCTETS:
        return json_answer(await services.logins.upload(await _ticket_body(services, request), address), 201)
    if not media_type(request) and request.headers.get("content-length", "0") == "0":
        raise not_logged_in(
            "this needs a username and a password as JSON, a Negotiate token with a ticket, or a ticket"
        )
    body = await body_of(services, request, services.conf.limits.login_body_bytes)
    try:
        return json_answer(await services.logins.login(body, address), 201)
    finally:
        wipe(body)


async def converse(services: Services, request: Request) -> Response:
    """POST /v1/conversations: the new password of a login that needs one."""
    body = await body_of(services, request, services.conf.limits.login_body_bytes)
    try:
        return json_answer(await services.logins.converse(body, address_of(request.scope)), 201)
    finally:
        wipe(body)


async def list_sessions(services: Services, request: Request) -> Response:
    """GET /v1/sessions: the caller's own."""
    session = await session_of(services, request)
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
    return json_answer(schemas.SessionList(sessions=rows))


async def show_session(services: Services, request: Request) -> Response:
    """GET /v1/sessions/current: whose it is, and where that account is at home."""
    session = await session_of(services, request)
    if request.path_params["session_id"] != "current":
        raise RequestError("only the session that asks can be shown", code="no-such-session", status=404)
    account = await services.accounts.of(session.principal)
    return json_answer(
        schemas.Person(
            session_id=session.session_id,
            principal=session.principal,
            localname=session.localname,
            uid=session.uid,
            home=account.home,
            expires_at=schemas.rfc3339(session.record.expires_at),
        )
    )


async def end_session(services: Services, request: Request) -> Response:
    """DELETE /v1/sessions/{id|current}."""
    session = await session_of(services, request)
    wanted = request.path_params["session_id"]
    session_id = session.session_id if wanted == "current" else wanted
    if not _SESSION_ID.fullmatch(session_id) or not await services.sessions.revoke(session.principal, session_id):
        raise RequestError("you have no such session", code="no-such-session", status=404)
    log.get().info("session.revoked", principal=session.principal, session_id=session_id)
    return Response(status_code=204)


async def ticket(services: Services, request: Request) -> Response:
    """GET /v1/ticket: the session's ticket and the cache's."""
    session = await session_of(services, request)
    filed = await services.tickets.filed(session)
    return json_answer(
        schemas.TicketAnswer(
            principal=session.principal,
            localname=session.localname,
            uid=session.uid,
            session=schemas.Times.of(session.cred.times),
            cache=schemas.Times.of(filed.times) if filed.times else None,
            cache_silent=not filed.known,
        )
    )


async def put_ticket(services: Services, request: Request) -> Response:
    """PUT /v1/ticket: another ticket of the session's user, for the session and for the cache."""
    session = await session_of(services, request)
    await services.logins.replace(session, await _ticket_body(services, request), address_of(request.scope))
    return await ticket(services, request)


async def delete_ticket(services: Services, request: Request) -> Response:
    """DELETE /v1/ticket: the cache forgets the user; sessions keep theirs until they end."""
    session = await session_of(services, request)
    if not await services.tickets.remove(session):
        raise RequestError("the credential cache has no ticket of yours", code="no-ticket-filed", status=404)
    log.get().info("ticket.removed", principal=session.principal, uid=session.uid)
    return Response(status_code=204)


async def _ticket_body(services: Services, request: Request) -> bytearray:
    return await body_of(services, request, services.conf.limits.ticket_body_bytes, kind=OCTETS)


ROUTES: Routes = {
    "/v1/sessions": {"GET": list_sessions, "POST": create_session},
    "/v1/sessions/{session_id:str}": {"GET": show_session, "DELETE": end_session},
    "/v1/conversations": {"POST": converse},
    "/v1/ticket": {"GET": ticket, "PUT": put_ticket, "DELETE": delete_ticket},
}
