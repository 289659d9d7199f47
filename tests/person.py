"""Someone at the sandbox's laptop who speaks HTTP to the API."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import ENDED, eventually

# One HTTP request from the laptop: what to ask comes in, what was answered goes out, both as JSON.
ASK = """
import base64, httpx, json, sys
ask = json.load(sys.stdin)
answer = httpx.request(verify="/etc/hipercow-slurm/ca.pem", timeout=60, trust_env=False, **ask)
print(json.dumps({"status": answer.status_code, "headers": dict(answer.headers), "text": answer.text}))
"""
URL = "https://head.sandbox.test:8443"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Person:
    """Someone at the laptop who speaks HTTP."""

    def __init__(self, sandbox: Sandbox, name: str) -> None:
        self.sandbox = sandbox
        self.headers: dict[str, str] = {}
        made = self.ask("POST", "/v1/sessions", json={"username": name, "password": sandbox.passwords[name]})
        assert made.status == 201, made
        self.headers["Authorization"] = f"Bearer {made.json['token']}"

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> Answer:
        request = {"method": method, "url": URL + path, "headers": {**self.headers, **(headers or {})}, **more}
        done = self.sandbox.run("laptop", ["hipercow-python", "-c", ASK], user="laptop", input=json.dumps(request))
        return Answer(**json.loads(done.stdout))

    def submit(self, script: str, key: str | None = None, **more: Any) -> Answer:
        return self.ask(
            "POST",
            "/v1/jobs",
            headers={"Idempotency-Key": key} if key else {},
            json={"script": "#!/bin/bash\n" + script, "time_limit_min": 2, **more},
        )

    def task(self, array_job_id: int, number: int, state: str) -> int | None:
        """The id of the array's task, if it is in that state."""
        for job in self.ask("GET", "/v1/jobs").json["jobs"]:
            if (job.get("array_job_id"), job.get("array_task_id"), job["state"]) == (array_job_id, number, state):
                return int(job["job_id"])
        return None

    def ended(self, job_id: int) -> dict[str, Any]:
        def probe() -> dict[str, Any] | None:
            job = self.ask("GET", f"/v1/jobs/{job_id}").json
            return job if job["state"] in ENDED else None

        return eventually(f"end of job {job_id}", probe, within_s=40)
