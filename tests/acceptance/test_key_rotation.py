"""The signing key is changed, and changed again, while people submit and look: not one submission fails."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time

import pytest

from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import eventually
from person import URL, Person

pytestmark = pytest.mark.e2e
PATIENCE_S = 10  # so long after its restart slurmdbd may be out of slurmrestd's reach

# Submits without a pause, no retries, now and then in a new session (which wants a new token); a line per answer. Ends
# when its standard input does.
LOOP = """
import httpx, json, select, sys, time
first = json.loads(sys.stdin.readline())
client = httpx.Client(base_url=first["url"], verify="/etc/hipercow-slurm/ca.pem", timeout=60, trust_env=False)
number = 0
while not select.select([sys.stdin], [], [], 0.05)[0]:
    if number % 20 == 0:
        made = client.post("/v1/sessions", json=first["login"]).json()
        client.headers["Authorization"] = "Bearer " + made["token"]
    number += 1
    job = {"script": "#!/bin/sh\\n", "hold": True, "working_directory": "/tmp"}
    answer = client.post("/v1/jobs", json=job, headers={"Idempotency-Key": f"{made['session_id']}-{number}"})
    print(json.dumps([answer.status_code, answer.json().get("job_id") or answer.text]), flush=True)
"""


# Looks at one job after the other, each until its end is known: Slurm's accounting alone knows it. Always in new
# sessions, so with tokens of the present key. A line per job: its state, and when it was not known yet.
LOOK = """
import httpx, json, select, sys, time
first = json.loads(sys.stdin.readline())
client = httpx.Client(base_url=first["url"], verify="/etc/hipercow-slurm/ca.pem", timeout=60, trust_env=False)
for number, job_id in enumerate(first["jobs"]):
    if select.select([sys.stdin], [], [], 0.05)[0]:
        break
    if number % 3 == 0:
        made = client.post("/v1/sessions", json=first["login"]).json()
        client.headers["Authorization"] = "Bearer " + made["token"]
    before, end = [], time.monotonic() + 60
    while True:
        answer = client.get(f"/v1/jobs/{job_id}")
        state = answer.json().get("state") or answer.text
        if state != "UNKNOWN" or time.monotonic() > end:
            break
        before.append(time.time())
        time.sleep(0.2)
    print(json.dumps([answer.status_code, state, before]), flush=True)
"""


class Loop:
    """Somebody at the laptop who submits, or looks at jobs, all the time."""

    def __init__(self, sandbox: Sandbox, name: str, script: str = LOOP, **more: object) -> None:
        self.answers: list[tuple[int, object]] = []
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = sandbox.popen("laptop", ["hipercow-python", "-c", script], user="laptop", **pipes)
        login = {"username": name, "password": sandbox.passwords[name]}
        self._say(json.dumps({"url": URL, "login": login, **more}) + "\n")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _say(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.answers.append(tuple(json.loads(line)))

    def more(self, number: int) -> None:
        """Wait for so many more answers."""
        want, deadline = len(self.answers) + number, time.monotonic() + 90
        while len(self.answers) < want:
            assert time.monotonic() < deadline, f"not {number} more answers in 90 s; the last: {self.answers[-5:]}"
            time.sleep(0.1)

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._thread.join(10)


def kids(sandbox: Sandbox) -> list[str]:
    """The keys the signer has signed with, in order."""
    found = re.findall(r"event=signer\.signed .*kid=(\S+)", sandbox.service("signer").log())
    return list(dict.fromkeys(found))


def rotate(sandbox: Sandbox) -> None:
    """As the signer's README says: the next key, then the signer anew."""
    command = ["hipercow-slurm", "signer", "--config", "/etc/hipercow-slurm/signer.toml", "--rotate"]
    sandbox.run("head", command, user="root")
    sandbox.service("signer").restart()


def signed_with_another(sandbox: Sandbox, than: list[str]) -> None:
    """Wait until the signer has used a new key: the API keeps a token for half its life."""
    deadline = time.monotonic() + 90
    while len(kids(sandbox)) == len(than):
        assert time.monotonic() < deadline, sandbox.service("signer").log()[-2000:]
        time.sleep(0.2)


def test_no_submission_fails_while_keys_are_changed(sandbox: Sandbox) -> None:
    """Would have caught: tokens of a key that slurmctld does not know yet, or any more; a signer or a slurmctld that
    nobody waits for while it restarts."""
    loop = Loop(sandbox, "bob")
    try:
        loop.more(10)
        for _ in range(2):
            before = kids(sandbox)
            rotate(sandbox)  # to a key that slurmctld has known since its last start
            signed_with_another(sandbox, before)
            loop.more(5)
            sandbox.service("slurmctld").restart()  # it learns the one after
            loop.more(10)
    finally:
        loop.end()
        sandbox.run("head", ["scancel", "--user=bob"])
    none_failed(loop)
    assert len(kids(sandbox)) >= 3


def none_failed(loop: Loop) -> None:
    failed = [answer for answer in loop.answers if answer[0] != 201]
    assert not failed, (len(loop.answers), failed)
    made = [job_id for _, job_id in loop.answers]
    assert len(set(made)) == len(made), "a job was answered twice"


def forgotten_jobs(sandbox: Sandbox, number: int) -> list[int]:
    """alice's jobs that ended, that slurmctld has forgotten, and whose end nobody has looked at."""
    alice = Person(sandbox, "alice")
    jobs = [{"script": "#!/bin/sh\n", "hold": True, "working_directory": "/tmp"}] * number
    made = alice.ask("POST", "/v1/jobs:bulk", json={"jobs": jobs}).json["results"]
    sandbox.run("head", ["scancel", "--user=alice"])
    left = ["squeue", "-h", "--user=alice", "--states=all"]
    eventually("slurmctld forgets", lambda: not sandbox.run("login", left, user="alice").stdout, within_s=120)
    return [one["job"]["job_id"] for one in made]


def test_submissions_and_looks_into_accounting_while_keys_are_changed(proof) -> None:
    """With slurmdbd, which checks tokens with its own copy of the keys.

    Would have caught: a slurmdbd that was forgotten in the rotation: it refuses every token of the second new key.
    """
    with Sandbox(accounting=True) as sandbox:
        jobs = forgotten_jobs(sandbox, 400)
        loop, looks = Loop(sandbox, "bob"), Loop(sandbox, "alice", LOOK, jobs=jobs)
        away: list[tuple[float, float]] = []
        try:
            for _ in range(2):
                loop.more(5)
                looks.more(5)
                before = kids(sandbox)
                rotate(sandbox)  # to a key that slurmctld and slurmdbd have known since their last start
                signed_with_another(sandbox, before)
                loop.more(5)
                looks.more(5)
                begin = time.time()
                sandbox.service("slurmdbd").restart()
                away.append((begin, time.time() + PATIENCE_S))
                sandbox.service("slurmctld").restart()
            loop.more(10)
            looks.more(5)
        finally:
            loop.end()
            looks.end()
        none_failed(loop)
        assert {(status, state) for status, state, _ in looks.answers} == {(200, "CANCELLED")}, looks.answers
        unknown = [at for *_, before in looks.answers for at in before]
        assert all(any(begin <= at <= end for begin, end in away) for at in unknown), (unknown, away)
        assert len(kids(sandbox)) >= 3
        proof(
            "signing key changed twice beside slurmdbd",
            f"{len(loop.answers)} submissions and {len(looks.answers)} looks into accounting, none failed; "
            f"{len(unknown)} had to ask again while slurmdbd restarted",
        )
