"""Record what a real slurmrestd answers, for tests/unit/test_slurm_v0038.py. Run by hand, once per Slurm version.

    python tests/slurm_answers/record.py SOCKET KEY OUT up       # slurmctld running; users alice and bob
    python tests/slurm_answers/record.py SOCKET KEY OUT down     # slurmctld stopped

SOCKET is slurmrestd's, KEY the private key (PEM) whose public half slurmctld has, OUT a folder such as
tests/slurm_answers/v0.0.38. The cluster: nodes c[1-2] with 4 CPUs and 8000 MB each; partitions main (both),
short (c1, MaxTime=5), closed (c1, AllowGroups of nobody); PrivateData=jobs, DisableRootJobs=YES; no slurmdbd.
Tokens are made here and are not recorded; they are good for a minute.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
from joserfc import jwt
from joserfc.jwk import RSAKey

API = "http://slurmrestd/slurm/v0.0.38/"
JOB = {"environment": {"PATH": "/usr/bin:/bin"}, "current_working_directory": "/home/alice", "name": "recorded"}


class Recorder:
    def __init__(self, session: aiohttp.ClientSession, key: RSAKey, out: Path) -> None:
        self.session, self.key, self.out = session, key, out

    def token(self, user: str, *, life_s: int = 60, key: RSAKey | None = None) -> str:
        now, key = int(time.time()), key or self.key
        claims = {"sun": user, "iat": now, "exp": now + life_s}
        return jwt.encode({"alg": "RS256", "kid": key.thumbprint()}, claims, key, algorithms=["RS256"])

    async def ask(
        self, name: str, method: str, path: str, *, user: str = "alice", body: object = None, token: str | None = None
    ) -> dict[str, Any]:
        """Make one request and keep its answer as NAME.json; returns the answer's JSON (or {})."""
        headers = {"X-SLURM-USER-NAME": user, "X-SLURM-USER-TOKEN": token or self.token(user)}
        begin = time.monotonic()
        async with self.session.request(
            method, API + path, headers=headers if token != "" else {}, json=body
        ) as response:
            text = await response.text()
            seconds = round(time.monotonic() - begin, 3)
        try:
            content: Any = json.loads(text)
        except ValueError:
            content = text
        kept = {
            "request": f"{method} {path} as {user}",
            "job": (body or {}).get("job") if isinstance(body, dict) else None,
            "status": response.status,
            "content_type": response.headers.get("Content-Type", ""),
            "seconds": seconds,
            "body": content,
        }
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
        print(
            f"{name}: {response.status} in {seconds} s", content.get("errors") if isinstance(content, dict) else content
        )
        return content if isinstance(content, dict) else {}

    async def submit(self, name: str, *, script: str = "#!/bin/sh\n", user: str = "alice", **job: Any) -> int:
        body = {"script": script, "job": {**JOB, **job}}
        return (await self.ask(f"submit-{name}", "POST", "job/submit", user=user, body=body)).get("job_id", 0)


async def up(r: Recorder) -> None:
    other = RSAKey.generate_key(2048)
    await r.ask("ping", "GET", "ping")
    done = await r.submit("ok", comment="request 7", time_limit=5, standard_output="/home/alice/o-%j-%x.out")
    failed = await r.submit("exit-3", script="#!/bin/sh\nexit 3\n")
    killed = await r.submit("killed", script="#!/bin/sh\nkill -9 $$\n")
    launch = await r.submit("no-such-directory", standard_output="/nonexistent/x.out")
    timeout = await r.submit("timeout", script="#!/bin/sh\nsleep 300\n", time_limit=1)
    running = await r.submit("two-nodes", script="#!/bin/sh\nsleep 300\n", nodes=2, memory_per_node=100)
    limited = await r.submit("limited", script="#!/bin/sh\nsleep 300\n", memory_per_node=100, time_limit=5)
    array = await r.submit("array", script="#!/bin/sh\nsleep 60\n", array="1-3%2", memory_per_node=100)
    held = await r.submit("held", hold=True, standard_output="sub/%N-%A.out", standard_error="e.err")
    await r.submit("too-many-nodes", nodes=9)
    await r.submit("over-time-limit", partition="short", time_limit=60)
    await r.submit("no-such-partition", partition="nosuch")
    await r.submit("closed-partition", partition="closed")
    await r.submit("too-much-memory", memory_per_node=999999)
    await r.submit("bad-array", array="5-3")
    await r.submit("unknown-key", wibble=1)
    await r.submit("no-environment", environment={})
    await r.submit("script-too-large", script="#!/bin/sh\n" + "#" * (4 << 20))
    await r.submit("as-root", user="root")
    await asyncio.sleep(3)
    for name, job in (("done", done), ("exit-3", failed), ("killed", killed), ("launch-failure", launch)):
        await r.ask(f"job-{name}", "GET", f"job/{job}")
    for name, job in (("running", running), ("limited", limited), ("array", array), ("held", held)):
        await r.ask(f"job-{name}", "GET", f"job/{job}")
    await r.ask("jobs", "GET", "jobs")
    await r.ask("jobs-of-bob", "GET", "jobs", user="bob")
    await r.ask("jobs-unchanged", "GET", f"jobs?update_time={int(time.time()) + 60}")
    await r.ask("job-unknown", "GET", "job/999999")
    await r.ask("job-of-another", "GET", f"job/{running}", user="bob")
    await r.ask("cancel-of-another", "DELETE", f"job/{running}", user="bob")
    await r.ask("cancel", "DELETE", f"job/{running}")
    await r.ask("cancel-again", "DELETE", f"job/{running}")
    await r.ask("cancel-held", "DELETE", f"job/{held}")
    await r.ask("cancel-unknown", "DELETE", "job/999999")
    await asyncio.sleep(1)
    await r.ask("job-cancelled", "GET", f"job/{running}")
    await r.ask("job-cancelled-before-start", "GET", f"job/{held}")
    for name, token in (
        ("expired", r.token("alice", life_s=-5)),
        ("other-key", r.token("alice", key=other)),
        ("other-user", r.token("bob")),
    ):
        await r.ask(f"token-{name}-jobs", "GET", "jobs", token=token)
    await r.ask("token-expired-job", "GET", f"job/{done}", token=r.token("alice", life_s=-5))
    await r.ask("token-expired-ping", "GET", "ping", token=r.token("alice", life_s=-5))
    await r.ask("token-expired-cancel", "DELETE", f"job/{done}", token=r.token("alice", life_s=-5))
    expired = r.token("alice", life_s=-5)
    body = {"script": "#!/bin/sh\n", "job": JOB}
    await r.ask("token-expired-submit", "POST", "job/submit", body=body, token=expired)
    await r.ask("token-missing", "GET", "jobs", token="")
    await r.ask("no-such-path", "GET", "nosuch")
    for job in (limited, array):
        await r.ask("cancel", "DELETE", f"job/{job}")
    for _ in range(60):  # a time limit is a minute at least, and enforced every half minute
        answer = await r.ask("job-timeout", "GET", f"job/{timeout}")
        if answer["jobs"][0]["job_state"] not in ("RUNNING", "COMPLETING", "PENDING"):
            break
        await asyncio.sleep(3)


async def down(r: Recorder) -> None:
    await r.ask("down-job", "GET", "job/1")
    await r.ask("down-jobs", "GET", "jobs")
    await r.ask("down-ping", "GET", "ping")
    await r.ask("down-cancel", "DELETE", "job/1")
    await r.ask("down-submit", "POST", "job/submit", body={"script": "#!/bin/sh\n", "job": JOB})


async def main(socket: str, key: RSAKey, out: Path, phase: str) -> None:
    connector = aiohttp.UnixConnector(socket)
    async with aiohttp.ClientSession(connector=connector) as session:
        recorder = Recorder(session, key, out)
        await {"up": up, "down": down}[phase](recorder)


if __name__ == "__main__":
    _, to, pem, folder, which = sys.argv
    asyncio.run(main(to, RSAKey.import_key(Path(pem).read_bytes()), Path(folder), which))
