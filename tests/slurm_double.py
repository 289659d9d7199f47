"""A stand-in for slurmrestd 22.05 on a unix socket, for what the real one cannot be made to do on demand.

It answers in the recorded forms (``slurm_answers/``), and it can lose an answer after taking the job, or take its
time. What needs a real Slurm is tested on the real one, end to end.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from pathlib import Path
from typing import Any

from aiohttp import web

UIDS = {"alice": 5001, "bob": 5002}


class SlurmDouble:
    """Runs in a thread of its own; attributes may be set from outside at any time.

    Attributes:
        jobs: by id, in slurmrestd's form.
        submits: how often a submission was taken.
        lose_answers: take the job, then hang up instead of answering; this many times.
        mute: the list of jobs is refused as by a slurmctld that is down.
        hidden: jobs are not listed while true (slurmctld is slow to show them).
        tokens: every token seen.
        slow_s: each submission takes so long.
        hold: while set, a submission is never answered; ``hold_before_taking``: nor taken. ``held``: one is.
    """

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.jobs: dict[int, dict[str, Any]] = {}
        self.bodies: list[dict[str, Any]] = []
        self.tokens: set[str] = set()
        self.submits = 0
        self.lose_answers = 0
        self.hidden = False
        self.mute = False
        self.refuse: tuple[int, str] | None = None
        self.slow_s = 0.0
        self.hold = False
        self.hold_before_taking = False
        self.held = False
        self.max_time_min = -1
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> SlurmDouble:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(5)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def claims(self) -> list[dict[str, Any]]:
        """What the tokens say."""
        return [json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "==")) for token in self.tokens]

    async def _start(self) -> None:
        app = web.Application(client_max_size=8 * 2**20)
        base = "/slurm/v0.0.38"
        app.add_routes(
            [
                web.get("/openapi/v3", self._openapi),
                web.post(f"{base}/job/submit", self._submit),
                web.get(f"{base}/jobs", self._list),
                web.get(f"{base}/job/{{id}}", self._show),
                web.delete(f"{base}/job/{{id}}", self._cancel),
                web.get(f"{base}/ping", self._ping),
                web.get(f"{base}/partitions", self._partitions),
            ]
        )
        self._runner = web.AppRunner(app, handler_cancellation=True)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.socket)).start()
        self.socket.chmod(0o777)

    def _who(self, request: web.Request) -> str:
        self.tokens.add(request.headers["X-SLURM-USER-TOKEN"])
        return request.headers["X-SLURM-USER-NAME"]

    async def _submit(self, request: web.Request) -> web.Response:
        user = self._who(request)
        body = await request.json()
        await asyncio.sleep(self.slow_s)
        if self.refuse:
            number, words = self.refuse
            return web.json_response({"errors": [{"error": words, "error_code": number}]}, status=500)
        if self.hold and self.hold_before_taking:
            await self._stay()
        self.bodies.append(body)
        self.submits += 1
        job_id = 1000 + self.submits
        job = body["job"]
        self.jobs[job_id] = {
            "job_id": job_id,
            "name": job["name"],
            "user_name": user,
            "user_id": UIDS[user],
            "partition": job.get("partition", "main"),
            "job_state": "PENDING",
            "state_reason": "Resources",
            "exit_code": 0,
            "nodes": "",
            "node_count": 1,
            "submit_time": int(time.time()),
            "start_time": 0,
            "end_time": 0,
            "time_limit": job.get("time_limit"),
            "current_working_directory": job["current_working_directory"],
            "standard_output": job.get("standard_output", ""),
            "standard_error": job.get("standard_error", ""),
            "comment": job.get("comment", ""),
        }
        if self.hold:
            await self._stay()
        if self.lose_answers:
            self.lose_answers -= 1
            assert request.transport is not None
            request.transport.close()
        return web.json_response({"errors": [], "job_id": job_id, "step_id": "BATCH", "job_submit_user_msg": ""})

    async def _stay(self) -> None:
        """Until the client is gone, which ends this task."""
        self.held = True
        try:
            await asyncio.sleep(30)
        finally:
            self.held = False
        raise web.HTTPGatewayTimeout

    async def _list(self, request: web.Request) -> web.Response:
        self._who(request)
        if self.mute:
            error = {"error": "Unable to contact slurm controller (connect failure)", "error_number": 1001}
            return web.json_response({"errors": [error], "jobs": []}, status=500)
        return web.json_response({"errors": [], "jobs": [] if self.hidden else list(self.jobs.values())})

    async def _show(self, request: web.Request) -> web.Response:
        self._who(request)
        job = self.jobs.get(int(request.match_info["id"]))
        if job is None:
            error = {"error": "Invalid job id specified", "error_number": 2017}
            return web.json_response({"errors": [error], "jobs": []}, status=500)
        return web.json_response({"errors": [], "jobs": [job]})

    async def _cancel(self, request: web.Request) -> web.Response:
        self._who(request)
        self.jobs[int(request.match_info["id"])]["job_state"] = "CANCELLED"
        return web.json_response({"errors": []})

    async def _partitions(self, request: web.Request) -> web.Response:
        self._who(request)
        main = {"name": "main", "flags": ["default"], "max_time_limit": self.max_time_min, "nodes": "c1"}
        return web.json_response({"errors": [], "partitions": [main]})

    async def _openapi(self, request: web.Request) -> web.Response:
        return web.json_response({"paths": {"/slurm/v0.0.38/job/submit": {}}})

    async def _ping(self, request: web.Request) -> web.Response:
        self._who(request)
        return web.json_response({"errors": [], "pings": [{"hostname": "h", "ping": "UP", "status": 0}]})
