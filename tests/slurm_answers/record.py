"""Record what a real slurmrestd answers, for tests/unit. Run by hand as root, once per Slurm and API version:

    python tests/slurm_answers/record.py 24.11 v0.0.42
    python tests/slurm_answers/record.py - v0.0.38                   # this machine's own Slurm
    python tests/slurm_answers/record.py 24.11 v0.0.42 accounting    # slurmdbd's alone

It starts a sandbox with that Slurm, adds what the answers need (partitions short and closed, PrivateData=jobs) and runs
itself again inside, on the head, where slurmrestd and the key of the signer are. The tokens are not recorded.
Nothing of hipercow_slurm's client is used: what is recorded must not depend on what reads it.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.jwk import RSAKey

KEY, SOCKET = "/var/lib/hipercow-slurm/signer/key.pem", "/run/slurmrestd/rest.sock"
SLEEP = "#!/bin/sh\nsleep 300\n"
DEAF = "#!/bin/sh\ntrap '' USR2\nsleep 300\n"
CONF = """
PrivateData=jobs
PartitionName=short Nodes=c1 MaxTime=5 State=UP
PartitionName=closed Nodes=c1 AllowGroups=nogroup State=UP
"""


class Recorder:
    """Runs on the sandbox's head and prints one JSON line for each answer."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.key = RSAKey.import_key(Path(KEY).read_bytes())
        # Newer versions' ping says the same of a bad token and of a dead slurmctld: the client asks for something else.
        self.ping = "ping" if version == "v0.0.38" else "licenses"

    def token(self, user: str, *, life_s: int = 60, key: RSAKey | None = None) -> str:
        now, key = int(time.time()), key or self.key
        claims = {"sun": user, "iat": now, "exp": now + life_s}
        return jwt.encode({"alg": "RS256", "kid": key.thumbprint()}, claims, key, algorithms=["RS256"])

    def ask(
        self, name: str, method: str, path: str, *, user: str = "alice", body: Any = None, token: str | None = None
    ) -> dict[str, Any]:
        """Make one request and print its answer as NAME; returns the answer's JSON (or {})."""
        headers = {"X-SLURM-USER-NAME": user, "X-SLURM-USER-TOKEN": token or self.token(user)}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection("slurmrestd")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(SOCKET)
        begin = time.monotonic()
        where = path if path.startswith("/") else f"/slurm/{self.version}/{path}"
        text_sent = None if body is None else json.dumps(body)
        connection.request(method, where, text_sent, headers if token != "" else {})
        response = connection.getresponse()
        text = response.read().decode()
        seconds = round(time.monotonic() - begin, 3)
        connection.close()
        try:
            content: Any = json.loads(text)
        except ValueError:
            content = text
        job = (body or {}).get("job", body)
        kept = {
            "request": f"{method} {path} as {user}",
            "job": {key: value for key, value in job.items() if key != "script"} if job else None,
            "status": response.status,
            "content_type": response.headers.get("Content-Type", ""),
            "seconds": seconds,
            "body": content,
        }
        print(json.dumps([name, kept]), flush=True)
        return content if isinstance(content, dict) else {}

    def body(self, script: str, job: dict[str, Any]) -> dict[str, Any]:
        """A submission in this version's form; ``job`` is in that of v0.0.38."""
        job = {
            "environment": {"PATH": "/usr/bin:/bin"},
            "current_working_directory": "/home/alice",
            "name": "recorded",
            **job,
        }
        if self.version == "v0.0.38":
            return {"script": script, "job": job}
        job["environment"] = [f"{name}={value}" for name, value in job["environment"].items()]
        return {"job": {"script": script, **self.numbers(job)}}

    def numbers(self, job: dict[str, Any]) -> dict[str, Any]:
        """The numbers that newer versions want in an object."""
        objects = () if self.version == "v0.0.38" else ("time_limit", "memory_per_node", "priority")
        wrapped = {key: {"set": True, "infinite": False, "number": int(job[key])} for key in objects if key in job}
        if self.version != "v0.0.38" and "nodes" in job:
            wrapped["nodes"] = str(job["nodes"])
        return job | wrapped

    def submit(self, name: str, *, script: str = "#!/bin/sh\n", user: str = "alice", **job: Any) -> int:
        answer = self.ask(f"submit-{name}", "POST", "job/submit", user=user, body=self.body(script, job))
        return int(answer.get("job_id") or 0)

    def state(self, name: str, job: int) -> str:
        found = self.ask(name, "GET", f"job/{job}")["jobs"][0]["job_state"]
        return found if isinstance(found, str) else found[0]


def up(r: Recorder) -> None:
    """Everything that slurmctld answers by itself."""
    other = RSAKey.generate_key(2048)
    r.ask("ping", "GET", r.ping)
    r.ask("partitions", "GET", "partitions")
    r.ask("nodes", "GET", "nodes")
    done = r.submit("ok", comment="request 7", time_limit=5, standard_output="/home/alice/o-%j-%x.out")
    failed = r.submit("exit-3", script="#!/bin/sh\nexit 3\n")
    killed = r.submit("killed", script="#!/bin/sh\nkill -9 $$\n")
    launch = r.submit("no-such-directory", standard_output="/nonexistent/x.out")
    timeout = r.submit("timeout", script=SLEEP, time_limit=1)
    running = r.submit("two-nodes", script=DEAF, nodes=2, memory_per_node=100)
    limited = r.submit("limited", script=SLEEP, memory_per_node=100, time_limit=5)
    array = r.submit("array", script="#!/bin/sh\nsleep 60\n", array="1-3%2", memory_per_node=100)
    held = r.submit("held", hold=True, standard_output="sub/%N-%A.out", standard_error="e.err")
    r.submit("too-many-nodes", nodes=9)
    r.submit("over-time-limit", partition="short", time_limit=60)
    r.submit("no-such-partition", partition="nosuch")
    r.submit("closed-partition", partition="closed")
    r.submit("too-much-memory", memory_per_node=999999)
    r.submit("bad-array", array="5-3")
    r.submit("unknown-key", wibble=1)
    r.submit("no-environment", environment={})
    r.submit("script-too-large", script="#!/bin/sh\n" + "#" * (4 << 20))
    r.submit("as-root", user="root")
    time.sleep(3)
    for name, job in (("done", done), ("exit-3", failed), ("killed", killed), ("launch-failure", launch)):
        r.ask(f"job-{name}", "GET", f"job/{job}")
    for name, job in (("running", running), ("limited", limited), ("array", array), ("held", held)):
        r.ask(f"job-{name}", "GET", f"job/{job}")
    r.ask("jobs", "GET", "jobs")
    r.ask("jobs-of-bob", "GET", "jobs", user="bob")
    r.ask("jobs-unchanged", "GET", f"jobs?update_time={int(time.time()) + 60}")
    r.ask("job-unknown", "GET", "job/999999")
    r.ask("job-of-another", "GET", f"job/{running}", user="bob")
    r.ask("signal", "DELETE", f"job/{running}?signal=USR2")
    r.ask("signal-bad", "DELETE", f"job/{running}?signal=NOPE")
    r.ask("signal-pending", "DELETE", f"job/{held}?signal=USR1")
    r.ask("signal-unknown", "DELETE", "job/999999?signal=USR1")
    r.ask("update-time-limit", "POST", f"job/{limited}", body=r.numbers({"time_limit": 4}))
    r.ask("update-longer", "POST", f"job/{limited}", body=r.numbers({"time_limit": 50}))
    r.ask("update-of-another", "POST", f"job/{limited}", body=r.numbers({"time_limit": 3}), user="bob")
    r.ask("update-unknown", "POST", "job/999999", body=r.numbers({"time_limit": 5}))
    r.ask("update-priority", "POST", f"job/{held}", body=r.numbers({"priority": "4000000000"}))
    r.ask("cancel", "DELETE", f"job/{running}")
    r.ask("cancel-again", "DELETE", f"job/{running}")
    r.ask("cancel-held", "DELETE", f"job/{held}")
    r.ask("cancel-unknown", "DELETE", "job/999999")
    time.sleep(1)
    r.ask("job-cancelled", "GET", f"job/{running}")
    r.ask("job-cancelled-before-start", "GET", f"job/{held}")
    for name, token in (
        ("expired", r.token("alice", life_s=-5)),
        ("other-key", r.token("alice", key=other)),
        ("other-user", r.token("bob")),
    ):
        r.ask(f"token-{name}-jobs", "GET", "jobs", token=token)
    expired = r.token("alice", life_s=-5)
    r.ask("token-expired-job", "GET", f"job/{done}", token=expired)
    r.ask("token-expired-ping", "GET", r.ping, token=expired)
    r.ask("token-expired-partitions", "GET", "partitions", token=expired)
    r.ask("token-expired-nodes", "GET", "nodes", token=expired)
    r.ask("token-expired-cancel", "DELETE", f"job/{done}", token=expired)
    r.ask("token-expired-update", "POST", f"job/{done}", token=expired, body=r.numbers({"time_limit": 5}))
    r.ask("token-expired-submit", "POST", "job/submit", body=r.body("#!/bin/sh\n", {}), token=expired)
    r.ask("token-missing", "GET", "jobs", token="")
    r.ask("no-such-path", "GET", "nosuch")
    held = r.submit("held", hold=True, standard_output="sub/%N-%A.out", standard_error="e.err")
    r.ask("update-release", "POST", f"job/{held}", body={"hold": False})
    for job in (limited, array):
        r.ask("cancel", "DELETE", f"job/{job}")
    deadline = time.monotonic() + 180  # a time limit is a minute at least, and enforced every half minute
    while r.state("job-timeout", timeout) in ("RUNNING", "COMPLETING", "PENDING") and time.monotonic() < deadline:
        time.sleep(3)


def foreign(r: Recorder) -> None:
    """bob on alice's job. Last, because Slurm 24.11's slurmctld does not survive it."""
    job = r.submit("held", hold=True, standard_output="sub/%N-%A.out", standard_error="e.err")
    r.ask("cancel-of-another", "DELETE", f"job/{job}", user="bob")
    r.ask("signal-of-another", "DELETE", f"job/{job}?signal=USR1", user="bob")


def accounted(r: Recorder) -> None:
    """slurmdbd runs, and slurmctld forgets soon: how three jobs ended."""
    jobs = {code: r.submit(f"past-{code}", script=f"#!/bin/sh\nexit {code}\n") for code in (0, 3)}
    killed = r.submit("past-cancelled", script=SLEEP)
    time.sleep(3)
    r.ask("past-cancel", "DELETE", f"job/{killed}")
    time.sleep(15)
    for name, job in (("done", jobs[0]), ("exit-3", jobs[3]), ("cancelled", killed), ("unknown", 99)):
        r.ask(f"past-{name}", "GET", f"/slurmdb/{r.version}/job/{job}")
    r.ask("past-token-expired", "GET", f"/slurmdb/{r.version}/job/1", token=r.token("alice", life_s=-60))


def accounting_down(r: Recorder) -> None:
    """slurmdbd is stopped."""
    r.ask("past-down", "GET", f"/slurmdb/{r.version}/job/1")


def down(r: Recorder) -> None:
    """slurmctld is stopped."""
    r.ask("down-job", "GET", "job/1")
    r.ask("down-jobs", "GET", "jobs")
    r.ask("down-ping", "GET", r.ping)
    r.ask("down-partitions", "GET", "partitions")
    r.ask("down-nodes", "GET", "nodes")
    r.ask("down-cancel", "DELETE", "job/1")
    r.ask("down-update", "POST", "job/1", body=r.numbers({"time_limit": 5}))
    r.ask("down-submit", "POST", "job/submit", body=r.body("#!/bin/sh\n", {}))


def outside(release: str, version: str, only: str = "") -> None:
    """The sandbox, and the files."""
    from hipercow_slurm.testing.sandbox import Sandbox
    from hipercow_slurm.testing.sandbox.layout import PYTHON

    folder = Path(__file__).parent / version
    folder.mkdir(exist_ok=True)

    def run(phase: str) -> None:
        argv = [PYTHON, "-c", Path(__file__).read_text(), version, phase]
        for line in sandbox.run("head", argv, timeout=400).stdout.splitlines():
            name, kept = json.loads(line)
            (folder / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")
            print(f"{name}: {kept['status']} in {kept['seconds']} s")

    slurm = None if release == "-" else release
    with Sandbox(slurm=slurm, programs=["signer"], accounting=True) as sandbox:
        run("accounted")
        sandbox.service("slurmdbd").stop()
        run("accounting_down")
    if only == "accounting":
        return
    with Sandbox(slurm=slurm, programs=["signer"]) as sandbox:
        for host in sandbox.options.slurm_hosts:
            sandbox.run(host, ["sh", "-c", "cat >>/etc/slurm/slurm.conf"], input=CONF)
        sandbox.service("slurmctld").restart()
        time.sleep(3)  # until the nodes have registered
        run("up")
        run("foreign")
        sandbox.service("slurmctld").kill()
        run("down")


if __name__ == "__main__":
    phases = {phase.__name__: phase for phase in (up, foreign, down, accounted, accounting_down)}
    if len(sys.argv) == 3 and sys.argv[2] in phases:
        phases[sys.argv[2]](Recorder(sys.argv[1]))
    else:
        outside(*sys.argv[1:])
