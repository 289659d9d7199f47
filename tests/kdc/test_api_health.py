"""What ``/v1/health`` and ``/v1/ready`` say of what hangs or is full, which taking a connection does not show."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from api_box import box_on_a_small_disk

# One box, in which things are stopped.
pytestmark = [pytest.mark.kdc, pytest.mark.slow, pytest.mark.xdist_group("api-health")]
KEPT_S = 5.1  # an answer is kept for five seconds


@pytest.fixture(scope="module")
def box():
    """Its database is on a disk of 3 MB."""
    with box_on_a_small_disk("state", "3m") as box:
        yield box


@pytest.fixture(autouse=True)
def it_is_well_again(box):
    yield
    time.sleep(KEPT_S)
    with box.client() as client:
        assert client.get("/v1/health").json()["status"] == "ok"
        assert client.get("/v1/ready").status_code == 200
    assert "http.bug" not in box.log() and "Traceback" not in box.log(), box.log()[-2000:]


@contextmanager
def hanging(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def asked(box):
    """Health and readiness, both asked at once, and the seconds it took."""
    time.sleep(KEPT_S)
    with box.client() as one, box.client() as other, ThreadPoolExecutor(2) as threads:
        begin = time.monotonic()
        ready = threads.submit(other.get, "/v1/ready")
        health = one.get("/v1/health").json()
        return health, ready.result(), time.monotonic() - begin


@pytest.mark.parametrize(("program", "name"), [("signer", "signer"), ("auksd", "cache")])
def test_a_program_that_hangs_is_not_well(box, program, name):
    """Would have caught: "ok" for a process that does nothing any more, because the kernel takes its connections."""
    with hanging(box.pid(program)):
        health, ready, took = asked(box)
    wrong = {key: word for key, word in health["checks"].items() if word != "ok"}
    assert wrong == {name: "timeout"} and "does not answer" in health["reasons"][name], health
    assert ready.status_code == 200, "another process would meet the same"
    assert took < 4.5, took


def test_a_kdc_that_hangs_costs_one_thread_and_no_readiness(box):
    """Would have caught: each question leaves a thread behind in libkrb5, until none is left for the keytab."""

    def threads():
        return len(list(Path(f"/proc/{box.pid('api')}/task").iterdir()))

    asked(box)
    before = threads()
    box.realm.pause()
    try:
        for _ in range(3):
            health, ready, took = asked(box)
            assert health["checks"]["kdc"] == "timeout" and took < 4.5, (health, took)
            assert ready.json() == {"ready": True, "reasons": {}}, ready.text
        assert threads() - before <= 1, f"{threads() - before} more threads after three questions"
    finally:
        box.realm.resume()


def test_a_name_service_that_hangs_is_waited_for_by_nobody_else(box, monkeypatch):
    """Would have caught: logins that wait for ever, and after six of them everybody else's with them."""
    library, source = box.dir / "hang_nss.so", Path(__file__).with_name("hang_nss.c")  # where the API's user may read
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True)
    box.realm.add_user("backup", "pw-of-backup-1")  # the account that it hangs for
    monkeypatch.setenv("LD_PRELOAD", str(library))
    box.restart("api")
    monkeypatch.delenv("LD_PRELOAD")

    def stuck(number):
        with box.client() as client:
            begin = time.monotonic()
            answer = client.post("/v1/sessions", json={"username": "backup", "password": "pw-of-backup-1"})
            return answer, time.monotonic() - begin

    try:
        with ThreadPoolExecutor(10) as threads:
            asked = [threads.submit(stuck, number) for number in range(10)]
            time.sleep(1)
            begin = time.monotonic()
            assert box.login("alice")
            assert time.monotonic() - begin < 3, "alice waited for the account of somebody else"
            said = [one.result() for one in asked]
    finally:
        box.restart("api", signal.SIGKILL)
    codes = {(answer.status_code, answer.json()["code"]) for answer, _ in said}
    assert (503, "name-service-timeout") in codes, codes
    assert codes <= {(503, "name-service-timeout"), (429, "too-many-logins"), (429, "too-many-failures")}, codes
    assert max(took for _, took in said) < 15, [took for _, took in said]


def test_a_full_disk_is_said_and_costs_the_readiness(box):
    """Would have caught: ready for logins that cannot be stored, because a write of nothing needs no room."""
    with box.as_user("alice") as alice:
        ballast = box.dir / "state/ballast"
        with ballast.open("wb") as full:
            try:
                while True:
                    os.write(full.fileno(), bytes(4096))
            except OSError:
                pass
        try:
            for number in range(200):  # what SQLite's log has in room of its own
                job = {"script": "#!/bin/sh\n", "comment": "x" * 700}
                refused = alice.post("/v1/jobs", json=job, headers={"Idempotency-Key": f"full-{number}"})
                if refused.status_code != 201:
                    break
            health, ready, _ = asked(box)
        finally:
            ballast.unlink()
        assert (refused.status_code, refused.json()["code"]) == (503, "database-failed"), refused.text
        assert health["reasons"] == {"database": "the session database cannot be written"}, health
        assert ready.status_code == 503 and set(ready.json()["reasons"]) == {"database"}, ready.text
        assert alice.get("/v1/jobs").status_code == 200, "looking needs no room"
        again = alice.post("/v1/jobs", json=job, headers={"Idempotency-Key": f"full-{number}"})
        assert again.status_code == 201, again.text
