"""Several API processes behind one port: one answer whoever serves, one count of guesses, and none left over."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from api_box import API_UID, ApiBox
from api_parts import make_certificate

pytestmark = pytest.mark.kdc


@pytest.fixture(scope="module")
def box():
    with ApiBox(passwords_change=True) as box:
        box.stop("api")
        box.start("api-several")
        yield box


def workers(box: ApiBox, number: int = 2) -> list[int]:
    """The processes that serve, once there are so many."""
    pid, end = box.pid("api-several"), time.monotonic() + 30
    while len(found := Path(f"/proc/{pid}/task/{pid}/children").read_text().split()) != number:
        assert time.monotonic() < end, (found, box.log("api-several"))
        time.sleep(0.05)
    return [int(one) for one in found]


def runs(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def serving(box: ApiBox) -> set[int]:
    """Which of the workers answer: each new connection goes to either."""
    seen = set()
    for pid in workers(box):
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        if int(state[11]) + int(state[12]):
            seen.add(pid)
    return seen


def attempt(box: ApiBox, username: str, password: str):
    with box.client() as client:
        return client.post("/v1/sessions", json={"username": username, "password": password})


def test_every_process_knows_every_session(box):
    """Would have caught: a session that only the process knows which made it."""
    made = box.login("alice")
    for _ in range(20):  # a connection each
        with box.client(made["token"]) as client:
            answer = client.get("/v1/ticket")
            assert (answer.status_code, answer.json()["session"]) == (200, made["ticket"]), answer.text
    assert len(serving(box)) == 2


def test_guesses_are_counted_over_all_processes(box):
    """Would have caught: as many guesses as are allowed for each process."""
    codes = [attempt(box, "nobody", f"guess{n}").json()["code"] for n in range(12)]
    assert codes == ["login-failed"] * 2 + ["too-many-failures"] * 10


def test_a_conversation_goes_on_in_any_process(box):
    """Would have caught: "no such conversation", every second time."""
    box.realm.kadmin("addpol -minlength 12 strict", "modprinc -policy strict +needchange bob")
    begun = attempt(box, "bob", box.passwords["bob"]).json()
    assert begun["code"] == "password-must-change", begun
    for _ in range(3):
        with box.client() as client:
            body = {"conversation": begun["conversation"], "new_password": "short"}
            answer = client.post("/v1/conversations", json=body)
        assert answer.json()["code"] == "password-rejected", answer.text


def test_the_same_key_through_all_processes_at_once_makes_one_job(box):
    """Would have caught: a lock on the key that only its own process knows."""
    token, before = box.login("alice")["token"], box.slurm.submits

    def submit(_):
        with box.client(token) as client:
            return client.post("/v1/jobs", json={"script": "#!/bin/sh\n"}, headers={"Idempotency-Key": "everywhere"})

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(submit, range(16)))
    assert box.slurm.submits == before + 1
    made = {answer.json()["job_id"] for answer in answers if answer.status_code == 201}
    others = {answer.json()["code"] for answer in answers if answer.status_code != 201}
    assert len(made) == 1 and others <= {"submit-unsettled"}, [answer.text for answer in answers]


def test_a_process_that_dies_is_replaced_and_sessions_stay(box):
    token, (victim, other) = box.login("alice")["token"], workers(box)
    os.kill(victim, signal.SIGKILL)
    end = time.monotonic() + 30
    while victim in (now := workers(box)) or other not in now:
        assert time.monotonic() < end, box.log("api-several")
        time.sleep(0.05)
    deadline = time.monotonic() + 30
    while len(serving(box)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    for _ in range(10):
        with box.client(token) as client:
            assert client.get("/v1/ticket").status_code == 200
    assert "api.worker-died" in box.log("api-several")


def logged_in(box, end):
    """A session's token; where a process was killed just now, the other one may be starting still."""
    while True:
        try:
            return box.login("alice")["token"]
        except httpx.ConnectError:
            assert time.monotonic() < end, box.log("api-several")[-2000:]
            time.sleep(0.05)


def test_a_new_certificate_on_hup_is_that_of_every_process(box):
    """Would have caught: HUP ends a process that is just starting (after a kill -9), so it has to be started again; or
    it goes to the supervisor and no further, so that some connections see the old certificate."""
    victim, other = workers(box)
    os.kill(victim, signal.SIGKILL)
    end = time.monotonic() + 30
    while victim in (before := workers(box)):
        assert time.monotonic() < end, box.log("api-several")
        time.sleep(0.01)
    died = box.log("api-several").count("api.worker-died")
    token = logged_in(box, end)
    with box.client(token) as kept:
        assert kept.get("/v1/ticket").status_code == 200
        box.certificate = make_certificate(box.dir)
        os.chown(box.certificate.key, API_UID, API_UID)
        told = box.log("api-several").count("api.certificate-reloaded")
        os.kill(box.pid("api-several"), signal.SIGHUP)
        end = time.monotonic() + 20
        while box.log("api-several").count("api.certificate-reloaded") < told + len(before):
            assert time.monotonic() < end, box.log("api-several")[-2000:]
            time.sleep(0.05)
        shown = {ssl.get_server_certificate(("127.0.0.1", box.port), timeout=5) for _ in range(30)}
        assert shown == {box.certificate.certificate.read_text()}, "a process shows another certificate"
        assert kept.get("/v1/ticket").status_code == 200, "the connection was dropped"
    assert workers(box) == before and other in before, "a process was started anew"
    assert box.log("api-several").count("api.worker-died") == died, "HUP ended a process"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_supervisor(box, number):
    """Would have caught: after kill -9 an API nobody knows of goes on with the old configuration."""
    left = workers(box)
    box.stop("api-several", number)
    end = time.monotonic() + 30
    while any(map(runs, left)):
        assert time.monotonic() < end, left
        time.sleep(0.05)
    box.start("api-several")


def test_a_process_that_cannot_start_ends_all_with_its_reason(box):
    keytab = box.dir / "api.keytab"
    box.stop("api-several")
    keytab.rename(box.dir / "kept")
    try:
        done = subprocess.run(
            box.command("api-several"), env={**os.environ, **box.realm.env}, capture_output=True, text=True, timeout=60
        )
    finally:
        (box.dir / "kept").rename(keytab)
        box.start("api-several")
    assert done.returncode == 78 and "keytab" in done.stderr and "Traceback" not in done.stderr, done.stderr
