"""The API's audit log: who logged in, from where, what was changed; one chain, verified by `hipercow-slurm audit`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from api_box import API_UID, ApiBox, box_on_a_small_disk

pytestmark = [pytest.mark.kdc, pytest.mark.xdist_group("api-audit")]  # one log, read from its beginning

JOB = {"script": "#!/bin/sh\ntrue\n"}


@pytest.fixture(scope="module")
def box():
    """Its audit logs are on a disk of 64 KiB."""
    with box_on_a_small_disk("audit", "64k") as box:
        yield box


def lines(box: ApiBox, name: str = "api") -> list[dict[str, Any]]:
    text = (box.dir / f"audit/{name}.audit").read_text()
    return [json.loads(line) for line in text.splitlines()]


def verify(*files: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "hipercow_slurm", "audit", "verify", *map(str, files)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)


def test_what_people_did_is_in_one_chain(box):
    """Would have caught: a change that leaves no line, a refusal without its reason, a secret in the log."""
    before = len(lines(box))
    with box.as_user("alice") as alice:
        made = alice.post("/v1/jobs", json=JOB)
        bulk = alice.post("/v1/jobs:bulk", json={"jobs": [JOB, {"script": ""}]})
        refused = alice.post("/v1/jobs", json={"script": "no interpreter"})
        alice.delete(f"/v1/jobs/{made.json()['job_id']}")
        alice.get("/v1/jobs")
        token = alice.headers["Authorization"]
        alice.delete("/v1/sessions/current")
    with box.client() as client:
        client.post("/v1/sessions", json={"username": "bob", "password": "not bob's"})
    found = lines(box)[before:]
    told = [(line["verb"], line.get("who"), line["result"]) for line in found]
    alice_ = "alice@REALM.TEST"
    assert told == [
        ("login", alice_, "ok"),
        ("POST /v1/jobs", alice_, "ok"),
        ("POST /v1/jobs:bulk", alice_, "ok"),
        ("POST /v1/jobs", alice_, "refused"),
        ("DELETE /v1/jobs/{job_id:str}", alice_, "ok"),
        ("DELETE /v1/sessions/{session_id:str}", alice_, "ok"),
        ("login", "bob@REALM.TEST", "refused"),
    ], told
    why = [line.get("why", "") for line in found]
    assert why[1] == f"job_id={made.json()['job_id']}" and refused.json()["code"] in why[3] and "login-failed" in why[6]
    made_in_bulk = [item["job_id"] for item in bulk.json()["results"] if item.get("job_id")]
    assert why[2] == f"job_id={made_in_bulk[0]} refused=1", why[2]
    assert found[1]["request_id"] == made.headers["X-Request-Id"]
    assert {line["from"] for line in found} == {"127.0.0.1"} and found[0]["uid"] == 5001
    text = (box.dir / "audit/api.audit").read_text()
    for secret in (token.split()[1], box.passwords["alice"], "not bob's", "interpreter\n"):
        assert secret not in text


def test_a_changed_line_shows(box):
    path = box.dir / "audit/api.audit"
    with box.client() as client:
        client.post("/v1/sessions", json={"username": "bob", "password": "not bob's"})
    assert (path.stat().st_mode & 0o777, path.stat().st_uid) == (0o600, API_UID)
    good = verify(path)
    assert good.returncode == 0 and "as they were written" in good.stdout, good
    forged = box.dir / "forged.audit"
    forged.write_text(path.read_text().replace("bob@REALM.TEST", "eve@REALM.TEST"))
    bad = verify(forged)
    assert bad.returncode == 1 and "forged.audit" in bad.stdout, bad


def test_a_rotated_log_is_one_chain(box):
    path, old = box.dir / "audit/api.audit", box.dir / "audit/api.audit.1"
    path.rename(old)
    box.hang_up("api")
    with box.as_user("alice") as alice:
        assert alice.get("/v1/ticket").status_code == 200
    both = verify(path, old)
    assert both.returncode == 0, both
    assert [line["verb"] for line in lines(box)][:2] == ["audit.opened", "login"], lines(box)


def test_while_nothing_can_be_noted_nothing_is_changed(box):
    """Would have caught: jobs made, and people let in, of whom no trace is left."""
    with box.as_user("alice") as alice:
        ballast = box.dir / "audit/ballast"
        with ballast.open("wb") as full:
            try:
                while True:
                    os.write(full.fileno(), bytes(512))
            except OSError:
                pass
        answers = [alice.post("/v1/jobs", json=JOB) for _ in range(30)]
        made = box.slurm.submits
        first = next(n for n, answer in enumerate(answers) if answer.status_code != 201)
        assert first < 25, "the disk was never full"
        refused = {(answer.status_code, answer.json()["code"]) for answer in answers[first:]}
        assert refused == {(503, "audit-unwritable")}, refused
        more = [alice.post("/v1/jobs", json=JOB) for _ in range(3)]
        assert box.slurm.submits == made and {one.status_code for one in more} == {503}, "made a job in silence"
        assert alice.get("/v1/jobs").status_code == 200, "looking changes nothing"
        with box.client() as client:
            login = client.post("/v1/sessions", json={"username": "bob", "password": box.passwords["bob"]})
            new = client.post("/v1/conversations", json={"conversation": "x" * 43, "new_password": "not set"})
        assert (login.status_code, login.json()["code"]) == (503, "audit-unwritable"), login.text
        assert (new.status_code, new.json()["code"]) == (503, "audit-unwritable"), "passwords are changed in silence"
        ballast.unlink()
        assert alice.post("/v1/jobs", json=JOB).status_code == 201
    done = verify(*(box.dir / "audit").glob("api.audit*"))
    assert done.returncode == 0, done
