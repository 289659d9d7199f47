"""The routes of hipercow-api (its hpcpack flavour), so that its clients work unchanged: fields, casing and codes.

As ASP.NET does, addresses are matched in any case, except the cluster's name. Errors of the cluster routes are that
framework's ProblemDetails (``type``, ``title``, ``status``, ``traceId``); login answers the token as bare text;
refusals of it are plain text too. What we do not copy: the job list answers only to its owner.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from hipercow_slurm.api import problems
from hipercow_slurm.api.cluster import View, online
from hipercow_slurm.api.config import Hpcpack
from hipercow_slurm.api.password import wipe
from hipercow_slurm.api.services import Services
from hipercow_slurm.api.web import JSON, Routes, address_of, authorization, body_of, session_of
from hipercow_slurm.errors import Error
from hipercow_slurm.slurm.model import Job, Node

FORM = "application/x-www-form-urlencoded"
_STATES = {"PENDING": "Queued", "SUSPENDED": "Running", "RUNNING": "Running", "CONFIGURING": "Running"}
_STATES |= {"COMPLETING": "Running", "COMPLETED": "Finished", "CANCELLED": "Cancelled", "UNKNOWN": "Finished"}
_ROWS = 10_000


class ClusterInfo(msgspec.Struct, rename="camel"):
    """``maxRam`` in whole GB."""

    name: str
    max_ram: int
    max_cores: int
    nodes: list[str]
    queues: list[str]
    default_queue: str


class NodeLoad(msgspec.Struct, rename="camel"):
    name: str
    cores_in_use: int
    node_cores: int
    state: str


class ClusterLoad(msgspec.Struct, rename="camel"):
    name: str
    node_loads: list[NodeLoad]


class JobRow(msgspec.Struct, rename="camel"):
    id: str
    state: str
    job_name: str


class JobRows(msgspec.Struct, rename="camel"):
    name: str
    jobs: list[JobRow]


class Details(msgspec.Struct, rename="camel"):
    """ASP.NET's ProblemDetails."""

    type: str
    title: str
    status: int
    trace_id: str


async def get(services: Services, request: Request) -> Response:
    """GET below /api/v1/: Clusters, Clusters/{cluster}, ClusterLoad/{cluster}, ClusterAccess."""
    conf = services.conf.hpcpack
    if conf is None:
        return _not_found()
    first, _, name = request.path_params["rest"].partition("/")
    act = _GET.get((first.lower(), bool(name)))
    if act is None:
        return _not_found()
    view, refusal = await _view(services, request, conf)
    if view is None:
        return refusal
    return _not_found() if name and name != conf.cluster else act(conf, view)


async def post(services: Services, request: Request) -> Response:
    """POST below /api/v1/: Auth/login, JobList."""
    conf = services.conf.hpcpack
    act = _POST.get(request.path_params["rest"].lower())
    return _not_found() if conf is None or act is None else await act(services, request, conf)


async def _view(services: Services, request: Request, conf: Hpcpack) -> tuple[View | None, Response]:
    """The cluster as the caller sees it, or the refusal; for strangers as somebody saw it last, if that is allowed."""
    if authorization(request)[0] or not conf.anonymous:
        try:
            return await services.cluster.view(await session_of(services, request)), _not_found()
        except Error as error:
            return None, _refused(error)
    return await services.cluster.last(conf.keep_s), _details(503, "Service Unavailable", "15.6.4")


def clusters(conf: Hpcpack, view: View) -> Response:
    """The names of all clusters: one."""
    return _json([conf.cluster])


def cluster(conf: Hpcpack, view: View) -> Response:
    """What the cluster has."""
    default = next((one.name for one in view.partitions if one.is_default), "")
    info = ClusterInfo(
        name=conf.cluster,
        max_ram=round(max((node.memory_mb for node in view.nodes), default=0) / 1024),
        max_cores=max((node.cpus for node in view.nodes), default=0),
        nodes=[node.name for node in view.nodes],
        queues=[one.name for one in view.partitions],
        default_queue=default,
    )
    return _json(info)


def load(conf: Hpcpack, view: View) -> Response:
    """How busy each node is."""
    return _json(ClusterLoad(name=conf.cluster, node_loads=[_node_load(node) for node in view.nodes]))


def access(conf: Hpcpack, view: View) -> Response:
    """The cluster the caller may use; one string, as the original answers."""
    return PlainTextResponse(conf.cluster)


async def login(services: Services, request: Request, conf: Hpcpack) -> Response:
    """A session; the answer is its token and nothing else."""
    body = await body_of(services, request, services.conf.limits.login_body_bytes)
    try:
        created = await services.logins.login(body, address_of(request.scope))
    except Error as error:
        if error.status == 401:
            return PlainTextResponse("Failed to login", 401)
        if error.status == 400:
            return PlainTextResponse("Username or password cannot be empty.", 400)
        raise
    finally:
        wipe(body)
    return PlainTextResponse(created.token)


async def job_list(services: Services, request: Request, conf: Hpcpack) -> Response:
    """The caller's jobs; form fields cluster, user, state, maxRows."""
    try:
        session = await session_of(services, request)
    except Error as error:
        return _refused(error)
    form = parse_qs(bytes(await body_of(services, request, 4096, kind=FORM)).decode("utf-8", "replace"))
    given = {key.lower(): values[-1] for key, values in form.items()}
    if given.get("cluster") != conf.cluster:
        return _not_found()
    rows = [_job_row(job) for job in await services.jobs.mine(session) if given.get("user", job.user) == job.user]
    state = given.get("state", "")
    most = int(given["maxrows"]) if given.get("maxrows", "").isascii() and given.get("maxrows", "").isdigit() else _ROWS
    chosen = [row for row in rows if state in ("", "*", row.state)][:most]
    return _json(JobRows(name=conf.cluster, jobs=chosen))


def _job_row(job: Job) -> JobRow:
    return JobRow(id=str(job.job_id), state=_STATES.get(job.state, "Failed"), job_name=job.name)


def _node_load(node: Node) -> NodeLoad:
    state = "Online" if online(node) else "Offline"
    return NodeLoad(name=node.name, cores_in_use=node.cpus_allocated, node_cores=node.cpus, state=state)


def _refused(error: Error) -> Response:
    if error.status == 401:
        missing = "TOKEN" in error.message
        return PlainTextResponse("Missing or invalid Authorization header." if missing else "Invalid JWT token.", 401)
    return problems.response(error)


def _not_found() -> Response:
    return _details(404, "Not Found", "15.5.5")


def _details(status: int, title: str, section: str) -> Response:
    found = Details(
        type=f"https://tools.ietf.org/html/rfc9110#section-{section}",
        title=title,
        status=status,
        trace_id=problems.current_request_id(),
    )
    return Response(msgspec.json.encode(found), status, media_type="application/problem+json")


def _json(answer: object) -> Response:
    return Response(msgspec.json.encode(answer), media_type=JSON)


_GET: dict[tuple[str, bool], Callable[[Hpcpack, View], Response]] = {
    ("clusters", False): clusters,
    ("clusters", True): cluster,
    ("clusterload", True): load,
    ("clusteraccess", False): access,
}
_POST: dict[str, Callable[[Services, Request, Hpcpack], Awaitable[Response]]] = {
    "auth/login": login,
    "joblist": job_list,
}
ROUTES: Routes = {"/api/v1/{rest:path}": {"GET": get, "POST": post}}
