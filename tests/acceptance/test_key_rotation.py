"""The signing key is changed, and changed again, while people submit: not one submission fails."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time

import pytest

from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import eventually
from person import URL

pytestmark = pytest.mark.e2e

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


class Loop:
    """Somebody at the laptop who submits all the time."""

    def __init__(self, sandbox: Sandbox, name: str) -> None:
        self.answers: list[tuple[int, object]] = []
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = sandbox.popen("laptop", ["hipercow-python", "-c", LOOP], user="laptop", **pipes)
        login = {"username": name, "password": sandbox.passwords[name]}
        self._say(json.dumps({"url": URL, "login": login}) + "\n")
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
        want = len(self.answers) + number
        eventually(f"{want} answers", lambda: len(self.answers) >= want, within_s=90, every_s=0.1)

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


def test_no_submission_fails_while_keys_are_changed(sandbox: Sandbox) -> None:
    """Would have caught: tokens of a key that slurmctld does not know yet, or any more; a signer or a slurmctld that
    nobody waits for while it restarts."""
    loop = Loop(sandbox, "bob")
    try:
        loop.more(10)
        for _ in range(2):
            before = len(kids(sandbox))
            rotate(sandbox)  # to a key that slurmctld has known since its last start
            deadline = time.monotonic() + 90
            while len(kids(sandbox)) == before:  # the API keeps a token for half its life
                assert time.monotonic() < deadline, sandbox.service("signer").log()[-2000:]
                time.sleep(0.2)
            loop.more(5)
            sandbox.service("slurmctld").restart()  # it learns the one after
            loop.more(10)
    finally:
        loop.end()
        sandbox.run("head", ["scancel", "--user=bob"])
    failed = [answer for answer in loop.answers if answer[0] != 201]
    assert not failed, (len(loop.answers), failed)
    made = [job_id for _, job_id in loop.answers]
    assert len(set(made)) == len(made), "a job was answered twice"
    assert len(kids(sandbox)) >= 3
