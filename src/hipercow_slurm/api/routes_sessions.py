"""Routes for ways in, sessions and the ticket."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hipercow_slurm import log
from hipercow_slurm.api import schemas
from hipercow_slurm.api.password import wipe
from hipercow_slurm.api.services import Services
from hipercow_slurm.api.web import Routes, address_of, body_of, json_answer, session_of
from hipercow_slurm.errors import RequestError


async def create_session(services: Services, request: Request) -> Response:
    """POST /v1/sessions: username and password for a session."""
    body = await body_of(services, request, services.conf.limits.login_body_bytes)
    try:
        created = await services.logins.login(body, address_of(request.scope))
    finally:
        wipe(body)
    return json_answer(created, 201)


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


async def end_session(services: Services, request: Request) -> Response:
    """DELETE /v1/sessions/{id|current}."""
    session = await session_of(services, request)
    wanted = request.path_params["session_id"]
    session_id = session.session_id if wanted == "current" else wanted
    if not await services.sessions.revoke(session.principal, session_id):
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
        )
    )


ROUTES: Routes = {
    "/v1/sessions": {"GET": list_sessions, "POST": create_session},
    "/v1/sessions/{session_id:str}": {"DELETE": end_session},
    "/v1/ticket": {"GET": ticket},
}
