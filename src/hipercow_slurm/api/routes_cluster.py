"""Routes for what the cluster has and how busy it is."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from hipercow_slurm.api import cluster, schemas_cluster
from hipercow_slurm.api.services import Services
from hipercow_slurm.api.web import Routes, json_answer, session_of


async def list_partitions(services: Services, request: Request) -> Response:
    """GET /v1/partitions: those the caller may see."""
    view = await services.cluster.view(await session_of(services, request))
    return json_answer(schemas_cluster.PartitionList(partitions=[cluster.partition(one) for one in view.partitions]))


async def list_nodes(services: Services, request: Request) -> Response:
    """GET /v1/nodes."""
    view = await services.cluster.view(await session_of(services, request))
    return json_answer(schemas_cluster.NodeList(nodes=[cluster.node(one) for one in view.nodes]))


async def show_cluster(services: Services, request: Request) -> Response:
    """GET /v1/cluster: load and limits."""
    return json_answer(await services.cluster.summary(await session_of(services, request)))


ROUTES: Routes = {
    "/v1/partitions": {"GET": list_partitions},
    "/v1/nodes": {"GET": list_nodes},
    "/v1/cluster": {"GET": show_cluster},
}
