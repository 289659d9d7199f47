"""The routes of hipercow-api (its hpcpack flavour), so that its clients work unchanged: fields, casing and codes.

As ASP.NET does, addresses and the names of fields are matched in any case, except the cluster's name. Errors of the
cluster routes are that framework's ProblemDetails (``type``, ``title``, ``status``, ``traceId``, and ``errors`` where
a request cannot be read); login answers the token as bare text, or as a JSON string to who takes nothing but JSON;
refusals of it are text too. What we do not copy: the job list answers only to its owner, with id, state and name each
in its own field.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from typing import Annotated
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from hipercow_slurm.api import problems, schemas
from hipercow_slurm.api.cluster import View, online
from hipercow_slurm.api.config import Hpcpack
from hipercow_slurm.api.password import wipe
from hipercow_slurm.api.services import Services
from hipercow_slurm.api.web import JSON, Routes, address_of, authorization, body_of, header_text, media_type, session_of
from hipercow_slurm.errors import Error
from hipercow_slurm.slurm.model import Job, Node

FORM, PARTS = "application/x-www-form-urlencoded", "multipart/form-data"
_STATES = {"PENDING": "Queued", "SUSPENDED": "Running", "RUNNING": "Running", "CONFIGURING": "Running"}
_STATES |= {"COMPLETING": "Running", "COMPLETED": "Finished", "CANCELLED": "Canceled", "UNKNOWN": "Finished"}
_LISTED = ("Canceled", "Failed", "Finished", "Queued", "Running")
# HPC Pack's other states: they can be asked for, and no job of Slurm's is ever in one.
_NEVER = frozenset(
    {"Configuring", "Submitted", "Validating", "ExternalValidation", "Finishing", "Canceling", "All"},
)
_ROWS = 500


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
    id: int
    state: str
    job_name: str


class JobRows(msgspec.Struct, rename="camel"):
    name: str
    jobs: list[JobRow]


class Login(schemas.LoginBody, frozen=True, forbid_unknown_fields=False):
    """As our own; what is not known is passed over."""


class PascalLogin(Login, frozen=True, rename="pascal"):
    """As .NET's own clients may write it."""

    username: Annotated[str, msgspec.Meta(max_length=256)]
    password: msgspec.Raw


class Details(msgspec.Struct, rename="camel", omit_defaults=True):
    """ASP.NET's ProblemDetails; ``errors``: what is wrong with each field."""

    type: str
    title: str
    status: int
    trace_id: str
    errors: dict[str, list[str]] | None = None


async def get(services: Services, request: Request) -> Response:
    """GET below /api/v1/: Clusters, Clusters/{cluster}, ClusterLoad/{cluster}, ClusterAccess."""
    conf = services.conf.hpcpack
    if conf is None:
        return _not_found()
    rest = request.path_params["rest"].removesuffix("/")
    first, _, name = rest.partition("/")
    act = _GET.get((first.lower(), bool(name)))
    if act is None:
        return _other_method("POST") if rest.lower() in _POST else _not_found()
    view, refusal = await _view(services, request, conf)
    if view is None:
        return refusal
    return _not_found() if name and name != conf.cluster else act(request, conf, view)


async def post(services: Services, request: Request) -> Response:
    """POST below /api/v1/: Auth/login, JobList."""
    conf = services.conf.hpcpack
    rest = request.path_params["rest"].removesuffix("/")
    act = _POST.get(rest.lower())
    if conf is None:
        return _not_found()
    if act is None:
        first, _, name = rest.partition("/")
        return _other_method("GET") if (first.lower(), bool(name)) in _GET else _not_found()
    return await act(services, request, conf)


async def _view(services: Services, request: Request, conf: Hpcpack) -> tuple[View | None, Response]:
    """The cluster as the caller sees it, or the refusal; for strangers as somebody saw it last, if that is allowed."""
    if authorization(request)[0] or not conf.anonymous:
        try:
            return await services.cluster.view(await session_of(services, request)), _not_found()
        except Error as error:
            return None, _refused(error)
    return await services.cluster.last(conf.keep_s), _details(503, "Service Unavailable", "15.6.4")


def clusters(request: Request, conf: Hpcpack, view: View) -> Response:
    """The names of all clusters: one."""
    return _json([conf.cluster])


def cluster(request: Request, conf: Hpcpack, view: View) -> Response:
    """What the cluster has."""
    default = next((one.name for one in view.partitions if one.is_default), "")
    info = ClusterInfo(
        name=conf.cluster,
        max_ram=round(max((node.memory_mb for node in view.nodes), default=0) / 1024),
        max_cores=max((node.cpus for node in view.nodes), default=0),
        nodes=sorted(node.name for node in view.nodes),
        queues=[one.name for one in view.partitions],
        default_queue=default,
    )
    return _json(info)


def load(request: Request, conf: Hpcpack, view: View) -> Response:
    """How busy each node is."""
    return _json(ClusterLoad(name=conf.cluster, node_loads=[_node_load(node) for node in view.nodes]))


def access(request: Request, conf: Hpcpack, view: View) -> Response:
    """The cluster the caller may use; one string, as the original answers."""
    return _text(request, conf.cluster)


async def login(services: Services, request: Request, conf: Hpcpack) -> Response:
    """A session; the answer is its token and nothing else."""
    if media_type(request) != JSON:
        return _details(415, "Unsupported Media Type", "15.5.16")
    body = await body_of(services, request, services.conf.limits.login_body_bytes)
    kind = PascalLogin if b'"Username"' in body else Login
    try:
        asked = schemas.decode(body, kind)
        if not asked.username or bytes(asked.password) in (b'""', b"null"):
            return _text(request, "Username or password cannot be empty.", 400)
        created = await services.logins.login(body, address_of(request.scope), kind=kind)
    except schemas.BodyError as error:
        return _unreadable("$", error.message)
    except Error as error:
        if error.status in (400, 401):  # a name or password that nobody can have is a wrong one
            return _text(request, "Failed to login", 401)
        raise
    finally:
        wipe(body)
    return _text(request, created.token)


async def job_list(services: Services, request: Request, conf: Hpcpack) -> Response:
    """The caller's jobs; form fields cluster, user, state, maxRows, of which only the first must be there."""
    try:
        session = await session_of(services, request)
    except Error as error:
        return _refused(error)
    form = await _form(services, request)
    if form is None:
        return _details(415, "Unsupported Media Type", "15.5.16")
    rows = form.get("maxrows", str(_ROWS))
    if not form.get("cluster"):
        return _unreadable("cluster", "The cluster field is required.")
    if not (rows.isascii() and rows.isdigit() and int(rows) < 2**31):
        return _unreadable("maxRows", f"The value '{rows[:40]}' is not valid.")
    state = form.get("state", "")
    if state and state not in _LISTED and state not in _NEVER:
        options = f"Options: {', '.join(_LISTED)} or leave empty."
        return _text(request, f"Job State {state[:40]} not found. {options}", 400)
    if form["cluster"] != conf.cluster:
        return _not_found()
    jobs = [job for job in await services.jobs.mine(session) if form.get("user", job.user) == job.user]
    chosen = [row for row in map(_job_row, jobs) if state in ("", row.state)][: int(rows)]
    return _json(JobRows(name=conf.cluster, jobs=chosen))


async def _form(services: Services, request: Request) -> dict[str, str] | None:
    """The fields of a form that are not empty, by their names in small letters; None: no form of either kind."""
    kind = media_type(request)
    if kind not in (FORM, PARTS):
        return None
    body = bytes(await body_of(services, request, 4096, kind=kind))
    if kind == FORM:
        pairs = parse_qsl(body.decode("utf-8", "replace"))
    else:
        # A body of several parts is built like a mail of several parts.
        head = b"Content-Type: " + header_text(request, b"content-type").encode("latin-1") + b"\r\n\r\n"
        parts = BytesParser(policy=HTTP).parsebytes(head + body).iter_parts()
        pairs = [(str(part.get_param("name", "", "content-disposition")), _text_of(part)) for part in parts]
    return {name.lower(): value for name, value in pairs if value}


def _text_of(part: Message) -> str:
    return bytes(part.get_payload(decode=True) or b"").decode("utf-8", "replace")


def _job_row(job: Job) -> JobRow:
    return JobRow(id=job.job_id, state=_STATES.get(job.state, "Failed"), job_name=job.name)


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


def _other_method(takes: str) -> Response:
    return Response(status_code=405, headers={"Allow": takes})


def _unreadable(field: str, why: str) -> Response:
    return _details(400, "One or more validation errors occurred.", "15.5.1", {field: [why]})


def _details(status: int, title: str, section: str, errors: dict[str, list[str]] | None = None) -> Response:
    found = Details(
        type=f"https://tools.ietf.org/html/rfc9110#section-{section}",
        title=title,
        status=status,
        trace_id=problems.current_request_id(),
        errors=errors,
    )
    return Response(msgspec.json.encode(found), status, media_type="application/problem+json")


def _text(request: Request, words: str, status: int = 200) -> Response:
    """As text; as a JSON string for who takes nothing but JSON."""
    accepted = header_text(request, b"accept").lower()
    if "json" in accepted and "*/*" not in accepted and "text/plain" not in accepted:
        return Response(msgspec.json.encode(words), status, media_type=f"{JSON}; charset=utf-8")
    return PlainTextResponse(words, status)


def _json(answer: object) -> Response:
    return Response(msgspec.json.encode(answer), media_type=JSON)


_GET: dict[tuple[str, bool], Callable[[Request, Hpcpack, View], Response]] = {
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
