"""Routes for operators and their tools."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hipercow_slurm.api.services import Services
from hipercow_slurm.api.web import Routes, json_answer


async def health(services: Services, request: Request) -> Response:
    """GET /v1/health."""
    return json_answer(await services.health.report())


ROUTES: Routes = {
    "/v1/health": {"GET": health},
}
