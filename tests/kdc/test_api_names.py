"""A password typed into the name field: no log, no audit log and no database has it, and an operator can follow it."""

import base64
import os
import re
import subprocess
import sys

import pytest

from api_box import ApiBox

pytestmark = [pytest.mark.kdc, pytest.mark.xdist_group("api-names")]  # the order counts

TYPED = {"json": "Tr0ub4dor_json", "basic": "Tr0ub4dor_basic", "down": "Tr0ub4dor_down", "queue": "Tr0ub4dor_queue"}
ODD = "Tr0ub4dor &3"  # no account can be called that


@pytest.fixture(scope="module")
def box():
    with ApiBox() as box:
        yield box


def attempt(box, username, password="alice"):
    with box.client() as client:
        return client.post("/v1/sessions", json={"username": username, "password": password})


def basic(box, username):
    header = base64.b64encode(f"{username}:alice".encode()).decode()
    with box.client() as client:  # a request that changes something, so that it is audited as well
        return client.post("/v1/jobs", json={"script": "#!/bin/sh\n"}, headers={"Authorization": f"Basic {header}"})


def written(box):
    """All that our programs have written: logs, audit, databases with their journals; and the metrics."""
    files = [file for folder in ("state", "audit") for file in (box.dir / folder).iterdir()]
    files += [box.dir / name for name in ("api.log", "signer.log", "auksd.log", "auksd.db")]
    with box.client() as client:
        metrics = client.get(f"http://127.0.0.1:{box.metrics_port}/metrics").content
    return {"metrics": metrics, **{file.name: file.read_bytes() for file in files}}


def marks(box):
    return re.findall(r"event=login.refused way=(\S+) principal=(unknown:[0-9a-f]{16}) ", box.log())


def test_a_password_in_the_names_field_is_written_nowhere(box):
    """Would have caught: ``principal=Tr0ub4dor@REALM.TEST`` in the log, the audit log and the throttle's table."""
    assert attempt(box, TYPED["json"]).json()["code"] == "login-failed"
    assert attempt(box, ODD).json()["code"] == "bad-username"
    assert basic(box, TYPED["basic"]).json()["code"] == "login-failed"
    for _ in range(4):
        last = attempt(box, TYPED["queue"])
    assert last.json()["code"] == "too-many-failures"
    box.realm.stop()
    try:
        assert attempt(box, TYPED["down"]).json()["code"] == "kdc-unreachable"
        assert basic(box, TYPED["down"]).json()["code"] == "kdc-unreachable"
    finally:
        box.realm.start()
    found = written(box)
    assert {"api.sqlite", "api.audit", "api.log"} <= set(found)
    for word in (*TYPED.values(), ODD):
        for name, data in found.items():
            assert word.encode() not in data, (name, word)
            assert base64.b64encode(word.encode())[:-4] not in data, (name, word)
    assert b"unknown:" in found["api.sqlite"] + found["api.sqlite-wal"], "the throttle has no row of it"
    assert b"unknown:" in found["api.audit"]
    assert TYPED["json"] in box.realm.log, "the KDC's own log has it: no program of ours can help that"


def test_an_operator_can_follow_a_mark_and_ask_for_a_names(box):
    """The same name is the same mark, also after a restart; and the command tells it, from standard input."""
    before = [mark for _, mark in marks(box)]
    assert len(set(before)) == len(TYPED), "one mark for each name"
    box.restart("api")
    assert attempt(box, TYPED["json"]).status_code == 401
    assert marks(box)[-1][1] == before[0]
    argv = [sys.executable, "-m", "hipercow_slurm", "audit", "mark", "--config", str(box.dir / "api.toml")]
    env = {**os.environ, **box.realm.env}
    done = subprocess.run(argv, input=TYPED["json"] + "\n", env=env, text=True, capture_output=True, timeout=30)
    assert (done.returncode, done.stdout.strip()) == (0, before[0]), done.stderr


def test_names_that_have_an_account_stand_there_as_they_are(box):
    """Also where the password was wrong: an operator must see whose account is under attack."""
    assert attempt(box, "alice", "wrong-for-alice").status_code == 401
    assert "event=login.refused way=password principal=alice@REALM.TEST" in box.log()
    assert b'"who":"alice@REALM.TEST"' in (box.dir / "audit/api.audit").read_bytes().replace(b'": "', b'":"')


def test_a_right_password_makes_a_name_of_it(box):
    """dave is known to the KDC and has no account here."""
    assert attempt(box, "dave", "wrong").status_code == 401
    assert "dave@REALM.TEST" not in box.log()
    assert attempt(box, "dave", box.passwords["dave"]).json()["code"] == "no-such-account"
    assert "principal=dave@REALM.TEST" in box.log()
