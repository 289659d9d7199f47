"""Routes for operators, their load balancers, and makers of clients. All are open to anyone."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hipercow_slurm.api.services import Services
from hipercow_slurm.api.web import JSON, Routes, json_answer


async def health(services: Services, request: Request) -> Response:
    """GET /v1/health: what we depend on; 200 also when something does not answer."""
    return json_answer(await services.health.report())


async def ready(services: Services, request: Request) -> Response:
    """GET /v1/ready: 200 if this process can serve, else 503."""
    found = await services.health.ready()
    return json_answer(found, 200 if found.ready else 503)


async def description(services: Services, request: Request) -> Response:
    """GET /v1/openapi.json."""
    return Response(request.app.description, media_type=JSON)


ROUTES: Routes = {
    "/v1/health": {"GET": health},
    "/v1/ready": {"GET": ready},
    "/v1/openapi.json": {"GET": description},
}
