"""Routes for files on the users' Kerberized share, and for a job's output live; always as the user."""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from hipercow_slurm import log
from hipercow_slurm.api import schemas
from hipercow_slurm.api.follow import Asked
from hipercow_slurm.api.output import RangeError
from hipercow_slurm.api.problems import response as problem
from hipercow_slurm.api.routes_jobs import job_id_of, job_output, stream_of, streamed
from hipercow_slurm.api.services import Services
from hipercow_slurm.api.web import OCTETS, Routes, body_of, json_answer, range_of, session_of
from hipercow_slurm.errors import RequestError
from hipercow_slurm.files.as_user import look_at, make_directory, write_file
from hipercow_slurm.files.nfs4_attributes import Attributes

EVENTS = "text/event-stream"
_PATH_BYTES = 4096
_WRITE_S = 90.0


async def read_file(services: Services, request: Request) -> Response:
    """GET /v1/files?path=: a file's bytes, with Range; a directory's entries as JSON."""
    session = await session_of(services, request)
    path = _path(request)
    server, remote = services.outputs.locate(path)
    found, entries = await services.outputs.in_thread(lambda: look_at(server, remote, session.cred), server)
    if found.type == "directory":
        rows = [_entry(entry.name, entry.attributes) for entry in entries]
        return json_answer(schemas.Directory(path=path, entries=rows))
    try:
        piece, data = await services.outputs.open_path(server, remote, session.cred, range_of(request))
    except RangeError as error:
        refusal = problem(error)
        refusal.headers["Content-Range"] = f"bytes */{error.size}"
        return refusal
    headers = {"Accept-Ranges": "bytes", "Content-Length": str(piece.end - piece.start)}
    headers["Content-Disposition"] = "attachment"
    if not piece.whole:
        headers["Content-Range"] = f"bytes {piece.start}-{piece.end - 1}/{piece.size}"
    return streamed(request, data, 200 if piece.whole else 206, headers)


async def write(services: Services, request: Request) -> Response:
    """PUT /v1/files?path=&mode=0600: the body becomes the file's whole content."""
    session = await session_of(services, request)
    path, mode = _path(request), _mode(request)
    server, remote = services.outputs.locate(path)
    body = bytes(await body_of(services, request, services.conf.limits.file_bytes, kind=OCTETS))
    size = await services.outputs.in_thread(
        lambda: write_file(server, remote, session.cred, body, mode=mode), server, deadline_s=_WRITE_S
    )
    log.get().info("file.written", principal=session.principal, uid=session.uid, size=size)
    return json_answer(schemas.Written(path=path, size=size))


async def create_directory(services: Services, request: Request) -> Response:
    """PUT /v1/directories?path=&mode=0700: a directory in one that is there; no error if it is there itself."""
    session = await session_of(services, request)
    path, mode = _path(request), _mode(request, "0700")
    server, remote = services.outputs.locate(path)
    created = await services.outputs.in_thread(lambda: make_directory(server, remote, session.cred, mode=mode), server)
    if created:
        log.get().info("directory.created", principal=session.principal, uid=session.uid)
    return json_answer(schemas.DirectoryMade(path=path, created=created))


async def follow_output(services: Services, request: Request) -> Response:
    """GET /v1/jobs/{id}/output/events: server-sent events until the job's end."""
    session = await session_of(services, request)
    offset = request.headers.get("last-event-id") or request.query_params.get("offset") or "0"
    if not (offset.isascii() and offset.isdigit() and len(offset) <= 18):
        raise RequestError("the offset to begin at (Last-Event-ID, or offset) is a number of bytes")
    encoding = request.query_params.get("encoding", "text")
    if encoding not in ("text", "base64"):
        raise RequestError("encoding must be text or base64")
    job_id = job_id_of(request.path_params["job_id"])
    if request.method == "HEAD":
        return Response(media_type=EVENTS)
    asked = Asked(job_id, stream_of(request), int(offset), exact=encoding == "base64")
    return StreamingResponse(await services.followers.follow(session, asked), media_type=EVENTS)


async def output(services: Services, request: Request) -> Response:
    """GET /v1/jobs/{id}/output: as bytes, or live for a client that accepts events."""
    if EVENTS in request.headers.get("accept", ""):
        return await follow_output(services, request)
    return await job_output(services, request)


def _path(request: Request) -> str:
    """The path asked for: absolute and plain, so that it means the same to everybody who reads it."""
    path = request.query_params.get("path", "")
    if not path.startswith("/") or len(path.encode("utf-8", "surrogatepass")) > _PATH_BYTES:
        raise RequestError(
            f"path must be the absolute path of a file on the cluster, at most {_PATH_BYTES} bytes long",
            code="bad-path",
        )
    parts = path.split("/")
    if ".." in parts or any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise RequestError("path must not have a part .. or a control character", code="bad-path")
    return path


def _mode(request: Request, usual: str = "0600") -> int:
    text = request.query_params.get("mode", usual)
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise RequestError("mode must be three octal digits, such as 0640")
    return int(text, 8)


def _entry(name: str, found: Attributes | None) -> schemas.Entry:
    """A name that is not UTF-8 shows its wrong bytes as \\xNN: JSON can carry nothing else."""
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if found is None:
        return schemas.Entry(name=shown, type="unknown", size=None, mode=None, modified_at=None)
    return schemas.Entry(
        name=shown,
        type=found.type,
        size=found.size,
        mode=None if found.mode is None else f"{found.mode & 0o7777:04o}",
        modified_at=None if found.mtime is None else schemas.rfc3339(int(found.mtime)),
    )


ROUTES: Routes = {
    "/v1/files": {"GET": read_file, "PUT": write},
    "/v1/directories": {"PUT": create_directory},
    "/v1/jobs/{job_id:str}/output": {"GET": output},
    "/v1/jobs/{job_id:str}/output/events": {"GET": follow_output},
}
