"""Routes for hipercow's drivers: which share is which folder on the nodes, and which programs the nodes have.

The operator writes it down once (``[[paths]]``, ``[hipercow]``), so that no driver has a site's names built in.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hipercow_slurm.api import schemas_cluster
from hipercow_slurm.api.services import Services
from hipercow_slurm.api.web import Routes, json_answer, session_of


async def list_paths(services: Services, request: Request) -> Response:
    """GET /v1/paths: shares as laptops mount them, and where the nodes have them."""
    await session_of(services, request)
    rows = services.conf.paths
    return json_answer(
        schemas_cluster.PathList(paths=[schemas_cluster.SharePath(share=row.share, path=row.path) for row in rows])
    )


async def show_hipercow(services: Services, request: Request) -> Response:
    """GET /v1/hipercow: what hipercow's drivers must know of the nodes."""
    await session_of(services, request)
    told = services.conf.hipercow
    return json_answer(
        schemas_cluster.HipercowAnswer(
            python=told.python,
            r=told.r,
            r_libs=told.r_libs,
            setup=told.setup,
            build_queue=told.build_queue,
            test_queue=told.test_queue,
        )
    )


ROUTES: Routes = {
    "/v1/paths": {"GET": list_paths},
    "/v1/hipercow": {"GET": show_hipercow},
}
