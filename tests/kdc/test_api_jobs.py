"""Jobs through the real API, signer and credential cache; slurmrestd is a stand-in that can misbehave."""

import signal
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from api_box import ApiBox

pytestmark = pytest.mark.kdc

SCRIPT = "#!/bin/bash\nhostname\n"


@pytest.fixture(scope="module")
def box():
    with ApiBox() as box:
        yield box


@pytest.fixture(autouse=True)
def behaving(box):
    """After each test slurmrestd behaves again."""
    yield
    box.slurm.lose_answers, box.slurm.hidden, box.slurm.refuse = 0, False, None
    box.slurm.mute = False


def submit(client, key=None, **given):
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/v1/jobs", json={"script": SCRIPT, **given}, headers=headers)


def test_a_job_is_made_and_shown(box, alice):
    answer = submit(alice, name="first", time_limit_min=5, environment={"A": "b", "KRB5CCNAME": "FILE:/tmp/evil"})
    assert answer.status_code == 201, answer.text
    job = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{job['job_id']}"
    assert (job["name"], job["user"], job["state"]) == ("first", "alice", "PENDING")
    assert job["working_directory"] == "/home/alice"
    assert job["output"] == job["error"] == f"/home/alice/slurm-{job['job_id']}.out"
    assert job["credential"]["state"] == "ok" and job["credential"]["covers_job"] is True
    assert job["warnings"] == ["these environment variables do not travel to the cluster: KRB5CCNAME"]
    sent = box.slurm.bodies[-1]
    assert sent["script"] == SCRIPT
    assert sent["job"]["environment"] == {
        "A": "b",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/home/alice",
        "USER": "alice",
        "LOGNAME": "alice",
        "SHELL": "/bin/bash",
        "SLURM_SUBMIT_DIR": "/home/alice",
    }
    assert f"request={answer.headers['X-Request-Id']}" in sent["job"]["comment"]
    shown = alice.get(f"/v1/jobs/{job['job_id']}").json()
    # The answer to a submission is made of the request, so it must say what Slurm will; only the reason is not known.
    assert shown.pop("reason") == "Resources" and job.pop("reason") is None and "warnings" not in shown
    shown.pop("submit_time"), job.pop("submit_time")
    for one in (shown, job):  # it says when the job would end if it began now
        one["credential"].pop("sentence")
    assert shown == {key: value for key, value in job.items() if key != "warnings"}
    assert job["job_id"] in [row["job_id"] for row in alice.get("/v1/jobs").json()["jobs"]]


def test_a_job_longer_than_the_ticket_is_warned_about(alice):
    job = submit(alice, time_limit_min=60 * 24 * 30).json()
    assert job["credential"]["covers_job"] is False and job["credential"]["state"] == "expiring"
    assert job["warnings"] == [job["credential"]["sentence"]] and "log in again before then" in job["warnings"][0]
    assert job["credential"]["renewable_until"] in job["warnings"][0]


def test_the_slurm_token_is_alices_short_and_never_shown(box, alice):
    texts = [alice.get(path).text for path in ("/v1/jobs", "/v1/ticket", "/v1/sessions", "/v1/health")]
    claims = box.slurm.claims()
    assert {claim["exp"] - claim["iat"] <= 120 for claim in claims} == {True}
    assert {claim["sun"] for claim in claims} <= {"alice", "bob"}
    for token in box.slurm.tokens:
        for text in (*texts, box.log("api"), box.log("signer")):
            assert token not in text and token.rpartition(".")[2] not in text


def test_one_token_serves_many_calls(box, alice):
    alice.get("/v1/jobs")
    before = len(box.slurm.tokens)
    for _ in range(20):
        assert alice.get("/v1/jobs").status_code == 200
    assert len(box.slurm.tokens) - before <= 1


def test_a_job_of_another_is_not_there(box, alice, bob):
    job_id = submit(alice).json()["job_id"]
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/output")):
        answer = bob.request(method, f"/v1/jobs/{job_id}{path}")
        assert (answer.status_code, answer.json()["code"]) == (404, "no-such-job"), (method, path)
    assert box.slurm.jobs[job_id]["job_state"] == "PENDING", "bob's cancel reached alice's job"
    assert job_id not in [row["job_id"] for row in bob.get("/v1/jobs").json()["jobs"]]
    assert bob.get("/v1/jobs/999999").json()["code"] == "no-such-job"


def test_cancel(box, alice):
    job_id = submit(alice).json()["job_id"]
    assert alice.delete(f"/v1/jobs/{job_id}").status_code == 204
    assert alice.get(f"/v1/jobs/{job_id}").json()["state"] == "CANCELLED"
    assert alice.delete(f"/v1/jobs/{job_id}").status_code == 204, "cancelling twice is fine"


@pytest.mark.parametrize("job_id", ["0", "-1", "1.5", "abc", "99999999999", "1_2", "\u0661", "1%2f2", "..%2f1"])
def test_what_is_no_job_id(alice, job_id):
    assert alice.get(f"/v1/jobs/{job_id}").status_code in (400, 404)


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        ({"script": "hostname\n"}, 400, "bad-request"),
        ({"script": SCRIPT + "#" * 4_000_000}, 413, "script-too-large"),
        ({"script": SCRIPT + "#" * 12_000_000}, 413, "body-too-large"),
        ({"wibble": 1}, 400, "bad-request"),
        ({"user_id": 0}, 400, "bad-request"),
        ({"environment": {f"V{n}": "" for n in range(100_000)}}, 400, "bad-request"),
        ({"working_directory": "/home/alice\n/etc"}, 400, "bad-request"),
        ({"array": "0-"}, 400, "bad-request"),
    ],
)
def test_what_cannot_be_a_job_never_reaches_slurm(box, alice, given, status, code):
    before = box.slurm.submits
    answer = submit(alice, **given)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text[:300]
    assert box.slurm.submits == before


def test_slurms_refusal_is_told_in_its_words_and_frees_the_key(box, alice):
    box.slurm.refuse = (2000, "Invalid partition name specified")
    answer = submit(alice, key="refused-1")
    assert answer.status_code == 422 and "Invalid partition name specified" in answer.json()["detail"]
    box.slurm.refuse = None
    assert submit(alice, key="refused-1", partition="main").status_code == 201, "a corrected job may use the key"


def test_the_same_key_is_the_same_job(box, alice, bob):
    before = box.slurm.submits
    answers = [submit(alice, key="same") for _ in range(3)]
    assert [a.status_code for a in answers] == [201] * 3
    assert len({a.json()["job_id"] for a in answers}) == 1
    assert box.slurm.submits == before + 1
    spaced = alice.post(
        "/v1/jobs",
        content=b'{ "hold" : false, "script" : "#!/bin/bash\\u000ahostname\\n" }',
        headers={"Idempotency-Key": "same", "Content-Type": "application/json"},
    )
    assert spaced.json()["job_id"] == answers[0].json()["job_id"], "the same job, spelled otherwise"
    other = submit(alice, key="same", name="other")
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    assert submit(bob, key="same").json()["user"] == "bob", "keys are per user"
    assert submit(alice, key="bad key").status_code == 400 and submit(alice, key="x" * 129).status_code == 400


def test_the_same_key_at_the_same_time_is_one_job(box, alice):
    before = box.slurm.submits
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: submit(alice, key="at-once"), range(8)))
    assert {a.status_code for a in answers} == {201}, [a.text for a in answers]
    assert len({a.json()["job_id"] for a in answers}) == 1 and box.slurm.submits == before + 1


def test_a_lost_answer_is_found_again(box, alice):
    """slurmrestd hangs up after taking the job: with or without a key, the job is found by its marker."""
    for key in ("lost-1", None):
        before, box.slurm.lose_answers = box.slurm.submits, 1
        answer = submit(alice, key=key)
        assert answer.status_code == 201, answer.text
        assert box.slurm.submits == before + 1
        assert answer.json()["job_id"] == 1000 + box.slurm.submits


def test_a_lost_answer_is_not_guessed_at(box, alice):
    """Slurm hides the job for a while: no second one is made, and the retry gets the first."""
    before, box.slurm.lose_answers, box.slurm.hidden = box.slurm.submits, 1, True
    first = submit(alice, key="lost-2")
    assert (first.status_code, first.json()["code"]) == (504, "submit-unknown"), first.text
    again = submit(alice, key="lost-2")
    assert (again.status_code, again.json()["code"]) == (503, "submit-unsettled") and again.headers["Retry-After"]
    box.slurm.hidden = False
    found = submit(alice, key="lost-2")
    assert found.status_code == 201 and box.slurm.submits == before + 1


def test_a_lost_job_that_could_not_be_looked_for_is_not_made_again(box, alice):
    """Slurm answers nobody for as long as a lost attempt takes to settle. Would have caught: no answer read as "no such
    job", and a second one made the moment Slurm was back."""
    before, box.slurm.lose_answers, box.slurm.mute = box.slurm.submits, 1, True
    first = submit(alice, key="lost-3")
    assert (first.status_code, first.json()["code"]) == (504, "submit-unknown"), first.text
    with sqlite3.connect(box.database, timeout=10) as connection:
        old = "UPDATE submission SET attempted_at = attempted_at - 60 WHERE idempotency_key = 'lost-3'"
        assert connection.execute(old).rowcount == 1
    again = submit(alice, key="lost-3")
    assert (again.status_code, again.json()["code"]) == (503, "scheduler-unreachable"), again.text
    box.slurm.mute = False
    found = submit(alice, key="lost-3")
    assert found.status_code == 201 and box.slurm.submits == before + 1, found.text


@pytest.mark.parametrize("taken", [True, False])
def test_killed_between_slurms_answer_and_ours(box, taken):
    """kill -9 while the submission is under way; after the restart the same key gives one job, whichever way."""
    with box.as_user("alice") as alice:
        before = box.slurm.submits
        key = f"killed-{taken}"
        box.slurm.hold = True
        box.slurm.hold_before_taking = not taken
        with ThreadPoolExecutor(1) as threads:
            lost = threads.submit(lambda: submit(alice, key=key))
            deadline = time.monotonic() + 10
            while not box.slurm.held and time.monotonic() < deadline:
                time.sleep(0.01)
            assert box.slurm.held, box.log()
            box.stop("api", signal.SIGKILL)
            assert lost.exception() is not None
        box.slurm.hold = False
        box.start("api")
        assert box.slurm.submits == before + taken
        deadline = time.monotonic() + 30
        while (answer := submit(alice, key=key)).status_code == 503 and time.monotonic() < deadline:
            assert answer.json()["code"] == "submit-unsettled", answer.text
            time.sleep(1)
    assert answer.status_code == 201, answer.text
    assert box.slurm.submits == before + 1, "one key, one job"


def test_a_cache_that_forgot_is_fed_before_the_job(box):
    with box.as_user("alice") as alice:
        box.stop("auksd")
        for file in box.dir.glob("auksd.db*"):
            file.unlink()
        box.start("auksd")
        time.sleep(2.1)  # what the cache said is remembered for two seconds
        job_id = submit(alice, time_limit_min=1).json()["job_id"]
        ticket = alice.get("/v1/ticket").json()
        assert ticket["cache"] == ticket["session"], "the job was submitted without a ticket in the cache"
        assert alice.get(f"/v1/jobs/{job_id}").json()["credential"]["state"] == "ok"


def test_without_the_cache_nothing_is_submitted_but_jobs_are_shown(box, alice):
    job_id = submit(alice, time_limit_min=1).json()["job_id"]
    before = box.slurm.submits
    with box.without("auksd"):
        time.sleep(2.1)
        refused = submit(alice, key="no-cache")
        assert refused.status_code == 503 and box.slurm.submits == before, refused.text
        shown = alice.get(f"/v1/jobs/{job_id}").json()
        ticket = alice.get("/v1/ticket").json()
    assert (ticket["cache"], ticket["cache_silent"]) == (None, True), "told as if the cache had no ticket"
    assert shown["credential"]["state"] == "unknown" and shown["credential"]["covers_job"] is None
    time.sleep(2.1)
    assert submit(alice, key="no-cache").status_code == 201, "the key must be free again"


def test_without_the_signer_nothing_is_submitted(box):
    """A login works without it, too: what a login would release stays held until the next."""
    with box.without("signer"), box.as_user("bob") as bob:
        before = box.slurm.submits
        answer = submit(bob)
        assert (answer.status_code, answer.json()["code"]) == (503, "signer-unreachable"), answer.text
        assert box.slurm.submits == before


def test_output_is_read_from_known_file_servers_only(alice):
    job_id = submit(alice, output="/etc/passwd").json()["job_id"]
    answer = alice.get(f"/v1/jobs/{job_id}/output")
    assert (answer.status_code, answer.json()["code"]) == (404, "output-elsewhere"), answer.text
    assert answer.headers["X-Job-State"] == "PENDING"
    assert alice.get(f"/v1/jobs/{job_id}/output?stream=stdin").status_code == 400


def test_output_without_its_file_server_is_said(alice):
    job_id = submit(alice).json()["job_id"]
    answer = alice.get(f"/v1/jobs/{job_id}/output")
    assert answer.status_code in (403, 503) and answer.headers["X-Job-State"] == "PENDING", answer.text


def test_sessions_are_renewed_in_the_background():
    """Tickets of 8 s: after 10 s without a request the session is alive, and after a restart it is renewed again."""
    with ApiBox(max_life="8s", max_renew="10m", clockskew_s=1) as box, box.as_user("alice") as client:
        first = client.get("/v1/ticket").json()["session"]
        time.sleep(10)
        second = client.get("/v1/ticket").json()["session"]
        assert second["valid_until"] > first["valid_until"], box.log()
        assert second["renewable_until"] == first["renewable_until"]
        box.restart("api", signal.SIGKILL)
        third = client.get("/v1/ticket")
        assert third.status_code == 200, "what was renewed was sealed again"
        assert third.json()["session"]["valid_until"] >= second["valid_until"]
        with box.without("api"):
            time.sleep(9)
        late = client.get("/v1/ticket")
        assert (late.status_code, late.json()["code"]) == (401, "session-expired"), late.text
        assert "log in again" in late.json()["hint"]
