"""An HTTP(S) server that keeps the API's contract for the tests of its client, and breaks it on demand.

``answers[("POST", "/v1/jobs")]`` is a list of functions used up one by one before the contract's own answer is given;
each is given the request and the contract's answer for it, already computed: so a test can lose an answer that the
server has acted upon.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

PASSWORD = "correct horse"
SOON, LATER = "2031-03-01T10:00:00Z", "2031-03-08T10:00:00Z"
Twist = Callable[[Request, Response], Awaitable[Response] | Response]


class LostAnswer(Response):
    """The connection ends in the middle of the answer: uvicorn hangs up on one that is shorter than it says."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"99")]})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def problem(status: int, code: str, *, detail: str = "no", hint: str | None = None, **headers: str) -> JSONResponse:
    body = {"type": f"urn:hipercow-slurm:error:{code}", "title": "No", "status": status, "detail": detail}
    body |= {"code": code, "hint": hint, "request_id": "r-1"}
    return JSONResponse(body, status, headers, "application/problem+json")


def lose(request: Request, answer: Response) -> Response:
    """The server did what it was asked to, and the answer never arrives."""
    return LostAnswer()


def give(answer: Response) -> Twist:
    """Another answer, and nothing done (the contract's own is dropped before it acts)."""
    twist: Twist = lambda request, own: answer  # noqa: E731
    twist.instead = True  # type: ignore[attr-defined]
    return twist


def wanted(*prompts: tuple[str, bool]) -> Twist:
    """The KDC's questions, as the API passes them on."""

    def ask(request: Request, own: Response) -> Response:
        refusal = problem(409, "answers-wanted", detail="the KDC asks for more than a password")
        body = json.loads(refusal.body) | {"prompts": [{"text": text, "hidden": hidden} for text, hidden in prompts]}
        return JSONResponse(body, 409, media_type="application/problem+json")

    ask.instead = True  # type: ignore[attr-defined]
    return ask


class FakeApi:
    """The server; ``requests`` is all it was sent, as (method, path, headers, body)."""

    def __init__(self, certificate: tuple[Path, Path] | None = None, *, port: int = 0) -> None:
        self.reset()
        app = Starlette(routes=[Route("/{path:path}", self._entry, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])])
        tls = {"ssl_certfile": str(certificate[0]), "ssl_keyfile": str(certificate[1])} if certificate else {}
        config = uvicorn.Config(
            app, host="127.0.0.1", port=port, log_level="critical", lifespan="off", http="h11", **tls
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        end = time.monotonic() + 10
        while not self._server.started:
            assert time.monotonic() < end and self._thread.is_alive(), "the fake API did not start"
            time.sleep(0.005)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{port}"

    def close(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)

    def reset(self) -> None:
        """Forget everything, for the next test."""
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.answers: dict[tuple[str, str], list[Twist]] = {}
        self.jobs: dict[int, dict[str, Any]] = {}
        self.outputs: dict[tuple[int, str], bytes | None] = {}
        self.keys: dict[str, int] = {}
        self.tokens: dict[str, str] = {}
        self.files: dict[str, bytes] = {}
        self.folders: set[str] = {"/home", "/home/alice"}
        self.queries: list[dict[str, str]] = []
        self.page = 10000

    def seen(self, method: str, path: str) -> list[tuple[dict[str, str], bytes]]:
        """Headers and body of the requests for one address."""
        return [(headers, body) for m, p, headers, body in self.requests if (m, p) == (method, path)]

    def new_job(self, **facts: Any) -> int:
        job_id = 100 + len(self.jobs)
        covered = {"state": "ok", "valid_until": SOON, "renewable_until": LATER, "covers_job": True}
        job = dict.fromkeys(("reason", "exit_code", "signal", "start_time", "end_time", "output", "error"))
        job |= {"job_id": job_id, "name": "job", "user": "alice", "partition": "debug", "state": "PENDING", "nodes": []}
        job |= {"node_count": 1, "submit_time": "2026-03-01T10:00:00Z", "time_limit_min": 5}
        job |= {"working_directory": "/home/alice", "credential": {**covered, "sentence": "good until then"}}
        self.jobs[job_id] = job | facts
        return job_id

    async def _entry(self, request: Request) -> Response:
        path, body = request.url.path, await request.body()
        self.requests.append((request.method, path, dict(request.headers), body))
        twists = self.answers.get((request.method, path), [])
        twist = twists.pop(0) if twists else None
        if twist is None:
            return self._contract(request, path, body)
        own = Response() if hasattr(twist, "instead") else self._contract(request, path, body)
        answer = twist(request, own)
        return answer if isinstance(answer, Response) else await answer

    def _contract(self, request: Request, path: str, body: bytes) -> Response:
        method, parts = request.method, path.strip("/").split("/")
        if (method, path) == ("POST", "/v1/sessions"):
            return self._login(json.loads(body))
        if (method, path) == ("GET", "/v1/health"):
            return JSONResponse({"status": "ok", "checks": {"kdc": "ok"}})
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self.tokens:
            return problem(401, "not-authenticated", detail="there is no such session")
        if parts[1] == "sessions":
            return self._sessions(method, token, parts[2:])
        if parts[1] == "ticket":
            times = {"valid_until": SOON, "renewable_until": LATER}
            who = {"principal": "alice@REALM.TEST", "localname": "alice", "uid": 5001}
            return JSONResponse({**who, "session": times, "cache": times})
        if parts[1] in ("partitions", "cluster"):
            return self._cluster(parts[1])
        if parts[1] == "directories":
            return self._make_folder(request.query_params["path"])
        if parts[1] == "files":
            return self._file(request, body)
        if (method, path) == ("POST", "/v1/jobs"):
            return self._submit(json.loads(body), request.headers["idempotency-key"])
        if path == "/v1/jobs:bulk":
            return self._submit_many(json.loads(body), request.headers["idempotency-key"])
        if path == "/v1/jobs":
            return self._list(request)
        job = self.jobs.get(int(parts[2]))
        if job is None:
            return problem(404, "no-such-job", detail=f"you have no job {parts[2]}")
        if parts[3:] == ["output"]:
            return self._output(job, request)
        if method == "DELETE":
            job["state"] = "CANCELLED"
            return Response(status_code=204)
        if method == "POST" and parts[3] in ("hold", "release") and job["state"] != "PENDING":
            return problem(422, "change-refused", detail="Job is no longer pending execution")
        if method in ("POST", "PATCH"):
            job.setdefault("acts", []).append((parts[3:], json.loads(body or b"null")))
        return JSONResponse(job)

    def _list(self, request: Request) -> Response:
        """Filtered by state, and in pages of ``page`` jobs."""
        states = {state for state in request.query_params.get("state", "").split(",") if state}
        after = int(request.query_params.get("cursor", 0))
        fitting = [
            job for job in self.jobs.values() if job["job_id"] > after and (not states or job["state"] in states)
        ]
        rows = fitting[: self.page]
        return JSONResponse(
            {"jobs": rows, "next_cursor": str(rows[-1]["job_id"]) if len(fitting) > len(rows) else None}
        )

    def _cluster(self, what: str) -> Response:
        if what == "partitions":
            rows = [{"name": name, "state": "UP", "total_cpus": 8} for name in ("debug", "long")]
            return JSONResponse({"partitions": rows})
        return JSONResponse({"limits": {"bulk_jobs": 2}})

    def _make_folder(self, path: str) -> Response:
        if path.rpartition("/")[0] not in self.folders:
            return problem(404, "no-such-file", detail=f"there is no {path.rpartition('/')[0]}")
        created = path not in self.folders
        self.folders.add(path)
        return JSONResponse({"path": path, "created": created})

    def _file(self, request: Request, body: bytes) -> Response:
        path = request.query_params["path"].rstrip("/")
        if request.method == "PUT":
            self.queries.append(dict(request.query_params))
            if path.rpartition("/")[0] not in self.folders:
                return problem(404, "no-such-file", detail=f"there is no {path.rpartition('/')[0]}")
            self.files[path] = body
            return JSONResponse({"path": path, "size": len(body)})
        if path in self.folders:
            kinds = [(name, "file", len(data)) for name, data in self.files.items()]
            kinds += [(name, "directory", 0) for name in self.folders]
            rows = [
                {"name": name.rpartition("/")[2], "type": kind, "size": size, "mode": "0640", "modified_at": SOON}
                for name, kind, size in kinds
                if name.rpartition("/")[0] == path
            ]
            return JSONResponse({"path": path, "entries": rows})
        if path not in self.files:
            return problem(404, "no-such-file", detail=f"there is no {path}")
        return self._part(self.files[path], request, {})

    def _login(self, asked: dict[str, str]) -> Response:
        if asked["password"] != PASSWORD:
            return problem(401, "login-failed", detail="wrong user name or password", hint="check both")
        token = f"secret-token-{len(self.tokens)}"
        self.tokens[token] = asked["username"]
        answer = {"session_id": f"s{len(self.tokens)}", "token": token, "principal": f"{asked['username']}@REALM.TEST"}
        answer |= {"localname": asked["username"], "uid": 5001, "expires_at": LATER}
        return JSONResponse({**answer, "ticket": {"valid_until": SOON, "renewable_until": LATER}}, 201)

    def _sessions(self, method: str, token: str, which: list[str]) -> Response:
        if method == "GET" and which:
            who = {"session_id": token, "principal": "alice@REALM.TEST", "localname": "alice", "uid": 5001}
            return JSONResponse({**who, "home": "/home/alice", "expires_at": LATER})
        if method == "DELETE":
            del self.tokens[token if which == ["current"] else which[0]]
            return Response(status_code=204)
        rows = [{"session_id": t, "created_at": SOON, "expires_at": LATER, "current": t == token} for t in self.tokens]
        return JSONResponse({"sessions": [{**row, "address": "127.0.0.1"} for row in rows]})

    def _submit(self, spec: dict[str, Any], key: str) -> Response:
        if key not in self.keys:
            self.keys[key] = self.new_job(name=spec.get("name", ""), spec=spec)
        job = self.jobs[self.keys[key]]
        return JSONResponse(job, 201, {"Location": f"/v1/jobs/{job['job_id']}"})

    def _submit_many(self, asked: dict[str, Any], key: str) -> Response:
        results: list[dict[str, Any]] = []
        for index, spec in enumerate(asked["jobs"]):
            if spec.get("partition") == "nope":
                refusal = {"code": "job-rejected", "detail": "Invalid partition", "status": 422}
                results.append({"index": index, "status": 422, "problem": refusal})
                continue
            job_id = self.keys.setdefault(f"{key}/{index}", 0) or self.new_job(name=spec.get("name", ""), spec=spec)
            self.keys[f"{key}/{index}"] = job_id
            results.append({"index": index, "status": 201, "job_id": job_id, "job": self.jobs[job_id]})
        return JSONResponse({"results": results})

    def _output(self, job: dict[str, Any], request: Request) -> Response:
        data = self.outputs.get((job["job_id"], request.query_params["stream"]))
        headers = {"X-Job-State": job["state"]}
        if data is None:
            refusal = problem(404, "no-output-yet", detail="nothing yet")
            refusal.headers.update(headers)
            return refusal
        return self._part(data, request, headers)

    def _part(self, data: bytes, request: Request, headers: dict[str, str]) -> Response:
        start = int(request.headers["range"].removeprefix("bytes=").partition("-")[0])
        if start >= len(data):
            return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{len(data)}"})
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        return Response(data[start:], 206, headers, "application/octet-stream")


def passing(request: Request, answer: Response) -> Response:
    """The contract's own answer."""
    return answer


async def silent(request: Request, answer: Response) -> Response:
    await asyncio.sleep(5)
    return answer


def trickle(request: Request, answer: Response) -> Response:
    async def drops() -> Any:
        for _ in range(100):
            yield b" "
            await asyncio.sleep(0.05)

    return StreamingResponse(drops(), media_type="application/json")


def endless(request: Request, answer: Response) -> Response:
    async def flood() -> Any:
        for _ in range(200):
            yield b"x" * 65536
            await asyncio.sleep(0)

    return StreamingResponse(flood(), media_type="application/json")


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "fake API")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "api.pem", folder / "api.key"
    paths[0].write_bytes(built.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
