"""The API described by itself (OpenAPI 3.1), made from the very structs that check requests and answers.

``SHAPES`` says for each handler what it takes and gives; paths, methods and sentences come from the routes. A handler
that is not in it is described without shapes, so nothing that is served is left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from hipercow_slurm import __version__
from hipercow_slurm.api import schemas, schemas_cluster
from hipercow_slurm.api.problems import MEDIA_TYPE, Problem
from hipercow_slurm.api.web import JSON, OCTETS, Handler

EVENTS = "text/event-stream"
_OURS = "/v1/"  # below it; other addresses are those of another service, which describes itself
_TEXT_LIMIT = 512  # bytes of a password


@dataclass(frozen=True, slots=True)
class Shape:
    """What a handler takes and gives.

    Attributes:
        body: JSON body; None: none.
        octets: a body of bytes is taken, too.
        answer: JSON answer. produces: the answer's media type, if it is (or may be, too) something else.
        public: works without a session.
        optional: the body may be left out.
        query: names of query parameters, each with its schema.
    """

    body: type | None = None
    octets: bool = False
    answer: type | None = None
    status: int = 200
    public: bool = False
    optional: bool = False
    produces: str | None = None
    query: Mapping[str, dict[str, Any]] | None = None


_STRING = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 1}
_LIST: dict[str, dict[str, Any]] = {
    "state": _STRING,
    "name": _STRING,
    "partition": _STRING,
    "since": _STRING,
    "limit": {**_COUNT, "maximum": 10_000},
    "cursor": _COUNT,
}
_STREAM: dict[str, dict[str, Any]] = {"stream": {"enum": ["stdout", "stderr"]}}
_FILE: dict[str, dict[str, Any]] = {"path": {"type": "string", "pattern": "^/"}}

SHAPES: dict[str, Shape] = {
    "create_session": Shape(
        schemas.LoginBody, octets=True, answer=schemas.SessionCreated, status=201, public=True, optional=True
    ),
    "converse": Shape(schemas.ConversationBody, answer=schemas.SessionCreated, status=201, public=True),
    "list_sessions": Shape(answer=schemas.SessionList),
    "show_session": Shape(answer=schemas.Person),
    "end_session": Shape(status=204),
    "ticket": Shape(answer=schemas.TicketAnswer),
    "put_ticket": Shape(octets=True, answer=schemas.TicketAnswer),
    "delete_ticket": Shape(status=204),
    "health": Shape(answer=schemas_cluster.Health, public=True),
    "ready": Shape(answer=schemas_cluster.Ready, public=True),
    "description": Shape(public=True, produces=JSON),
    "submit_job": Shape(schemas.JobBody, answer=schemas.JobAnswer, status=201),
    "submit_jobs": Shape(schemas.BulkBody, answer=schemas.Bulk),
    "list_jobs": Shape(answer=schemas.JobList, query=_LIST),
    "cancel_jobs": Shape(answer=schemas.Bulk, query={"job_id": _STRING}),
    "show_job": Shape(answer=schemas.JobAnswer),
    "cancel_job": Shape(status=204),
    "change_job": Shape(schemas.ChangeBody, answer=schemas.JobAnswer),
    "hold_job": Shape(answer=schemas.JobAnswer),
    "release_job": Shape(answer=schemas.JobAnswer),
    "requeue_job": Shape(answer=schemas.JobAnswer),
    "signal_job": Shape(schemas.SignalBody, answer=schemas.JobAnswer),
    "output": Shape(produces=OCTETS, query=_STREAM),
    "follow_output": Shape(
        produces=EVENTS, query={**_STREAM, "offset": {"type": "integer"}, "encoding": {"enum": ["text", "base64"]}}
    ),
    "read_file": Shape(answer=schemas.Directory, produces=OCTETS, query=_FILE),
    "write": Shape(octets=True, answer=schemas.Written, query={**_FILE, "mode": {"pattern": "^0?[0-7]{3}$"}}),
    "create_directory": Shape(answer=schemas.DirectoryMade, query={**_FILE, "mode": {"pattern": "^0?[0-7]{3}$"}}),
    "list_partitions": Shape(answer=schemas_cluster.PartitionList),
    "list_nodes": Shape(answer=schemas_cluster.NodeList),
    "show_cluster": Shape(answer=schemas_cluster.ClusterAnswer),
    "list_paths": Shape(answer=schemas_cluster.PathList),
    "show_hipercow": Shape(answer=schemas_cluster.HipercowAnswer),
}
_SECRETS = {"LoginBody": "password", "ConversationBody": "new_password"}
_SECRET = {"type": "string", "format": "password", "minLength": 1, "maxLength": _TEXT_LIMIT}
_JOB_ID = {"type": "integer", "minimum": 1, "maximum": 2**32 - 1}


def text(routes: Mapping[str, Mapping[str, Handler]]) -> bytes:
    """The description of these routes as JSON."""
    kinds = {kind for shape in SHAPES.values() for kind in (shape.body, shape.answer) if kind is not None}
    ordered = sorted(kinds, key=lambda kind: kind.__name__)
    _, components = msgspec.json.schema_components([*ordered, Problem], ref_template="#/components/schemas/{name}")
    for name, field in _SECRETS.items():  # in memory they are raw bytes that can be overwritten
        components[name]["properties"][field] = _SECRET
    components["LoginBody"]["properties"]["answers"]["items"] = _SECRET
    ours = {path: methods for path, methods in sorted(routes.items()) if path.startswith(_OURS)}
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "hipercow-slurm", "version": __version__},
            "paths": {re.sub(r":(str|path|int)}", "}", path): _path(path, methods) for path, methods in ours.items()},
            "components": {
                "schemas": components,
                "securitySchemes": {
                    "session": {"type": "http", "scheme": "bearer"},
                    "basic": {"type": "http", "scheme": "basic"},
                },
            },
            "security": [{"session": []}, {"basic": []}],
        }
    )


def _path(path: str, methods: Mapping[str, Handler]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": _JOB_ID if name == "job_id" else _STRING}
            for name in re.findall(r"{(\w+)", path)
        ]
    }
    for method, handler in methods.items():
        made[method.lower()] = _operation(handler)
    return made


def _operation(handler: Handler) -> dict[str, Any]:
    name = handler.__name__
    shape = SHAPES.get(name, Shape(status=0))
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": (handler.__doc__ or name).strip().splitlines()[0],
        "responses": _responses(shape),
    }
    if shape.public:
        operation["security"] = []
    if shape.query:
        operation["parameters"] = [{"name": key, "in": "query", "schema": kind} for key, kind in shape.query.items()]
    content: dict[str, Any] = {}
    if shape.body is not None:
        content[JSON] = {"schema": _ref(shape.body)}
    if shape.octets:
        content[OCTETS] = {"schema": {"type": "string", "format": "binary"}}
    if content:
        operation["requestBody"] = {"required": not shape.optional, "content": content}
    return operation


def _responses(shape: Shape) -> dict[str, Any]:
    """The success, and ``default`` for every refusal: they all have one form."""
    made: dict[str, Any] = {
        "default": {"description": "A refusal.", "content": {MEDIA_TYPE: {"schema": _ref(Problem)}}}
    }
    if shape.status:
        content: dict[str, Any] = {}
        if shape.answer is not None:
            content[JSON] = {"schema": _ref(shape.answer)}
        if shape.produces:
            content[shape.produces] = {}
        done: dict[str, Any] = {"description": "Done.", "content": content} if content else {"description": "Done."}
        made[str(shape.status)] = done
    if shape.answer is schemas_cluster.Ready:
        made["503"] = {"description": "Not ready.", "content": {JSON: {"schema": _ref(schemas_cluster.Ready)}}}
    if shape.produces == OCTETS:
        made["206"] = made[str(shape.status)]
    return made


def _ref(kind: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{kind.__name__}"}
