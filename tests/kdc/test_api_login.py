"""Logging in and sessions, through the real API, KDC, signer and credential cache."""

import json
import os
import signal
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from api_box import API_UID, ApiBox
from hipercow_slurm.testing.realm import Realm

pytestmark = pytest.mark.kdc


@pytest.fixture(scope="module")
def box():
    with ApiBox() as box:
        box.realm.add_user("expired", "x-Expired1", pwexpire="yesterday")
        box.realm.add_user("mustchange", "x-Must1", needchange=True)
        box.realm.add_user("locked", "x-Locked1", allow_tix=False)
        yield box


def attempt(box, username, password, **headers):
    with box.client() as client:
        return client.post("/v1/sessions", json={"username": username, "password": password}, headers=headers)


def test_login_gives_a_session_and_files_the_ticket(box):
    made = box.login("alice")
    assert (made["principal"], made["localname"], made["uid"]) == ("alice@REALM.TEST", "alice", 5001)
    assert made["ticket"]["renewable_until"] and made["ticket"]["valid_until"] and made["expires_at"]
    with box.client(made["token"]) as client:
        ticket = client.get("/v1/ticket").json()
    assert ticket["uid"] == 5001
    assert ticket["cache"] == ticket["session"], "the cache must hold the ticket of the newest login"


def test_the_principal_may_be_spelled_out(box):
    assert attempt(box, "alice@REALM.TEST", box.passwords["alice"]).json()["principal"] == "alice@REALM.TEST"


def test_wrong_password_and_unknown_user_look_alike(box):
    answers, took = [], []
    for name in ("bob", "zoe"):
        begin = time.monotonic()
        answers.append(attempt(box, name, "wrong", **{"X-Request-Id": "same-request"}))
        took.append(time.monotonic() - begin)
    assert [a.status_code for a in answers] == [401, 401]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["code"] == "login-failed"
    assert {k: v for k, v in answers[0].headers.items() if k != "date"} == {
        k: v for k, v in answers[1].headers.items() if k != "date"
    }
    # Both wait for the same moment; how long after it a busy machine answers is not what tells them apart.
    assert min(took) >= 0.3 and abs(took[0] - took[1]) < 1.0, took


@pytest.mark.parametrize(
    ("name", "password", "status", "code"),
    [
        ("expired", "x-Expired1", 409, "password-expired"),
        ("mustchange", "x-Must1", 409, "password-must-change"),
        ("locked", "x-Locked1", 403, "account-locked"),
        ("carol", None, 403, "uid-too-low"),
        ("dave", None, 403, "no-such-account"),
    ],
)
def test_other_reasons_have_codes_of_their_own(box, name, password, status, code):
    answer = attempt(box, name, password or box.passwords[name])
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json()["hint"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "alice@OTHER.REALM",
        "alice@realm.test",
        "host/x",
        "HTTP/localhost",
        "REALM\\alice",
        "alice\n",
        "alice\u0000",
        "al ice",
        "-alice",
        "alice@REALM.TEST@REALM.TEST",
        "a" * 65,
        "a" * 300,
        "alice;id",
        "ålice",
        "../alice",
        "%n",
    ],
)
def test_names_that_no_account_has_never_reach_the_kdc(box, name):
    before = box.realm.log
    answer = attempt(box, name, "whatever")
    assert answer.status_code == 400, answer.text
    assert box.realm.log == before


@pytest.mark.parametrize("password", ["", "x" * 513, "a\u0000b", "a\nb"])
def test_passwords_that_cannot_be_one_are_refused(box, password):
    assert attempt(box, "alice", password).status_code == 400


def test_bogus_tokens(box):
    good = box.login("bob")["token"]
    for header in (
        None,
        "Bearer",
        f"Bearer {good[:-1]}",
        f"Bearer {good}x",
        f"Bearer {'A' * 43}",
        f"Basic {good}",
        "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.",
        "Bearer ' OR 1=1 --",
        "Bearer " + "x" * 5000,
    ):
        with box.client() as client:
            answer = client.get("/v1/ticket", headers={"Authorization": header} if header else {})
        assert (answer.status_code, answer.json()["code"]) == (401, "not-authenticated"), header
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_sessions_are_listed_and_ended_by_their_owner_only(box):
    first, second, bobs = box.login("alice"), box.login("alice"), box.login("bob")
    with box.client(first["token"]) as client, box.client(bobs["token"]) as bob:
        rows = {row["session_id"]: row for row in client.get("/v1/sessions").json()["sessions"]}
        assert rows[first["session_id"]]["current"] and not rows[second["session_id"]]["current"]
        assert rows[second["session_id"]]["address"] == "127.0.0.1"
        assert bobs["session_id"] not in rows
        refused = bob.delete(f"/v1/sessions/{second['session_id']}")
        assert (refused.status_code, refused.json()["code"]) == (404, "no-such-session")
        assert client.delete(f"/v1/sessions/{second['session_id']}").status_code == 204
        assert client.get("/v1/ticket").status_code == 200
    with box.client(second["token"]) as ended:
        assert ended.get("/v1/ticket").status_code == 401
    with box.client(first["token"]) as client:
        assert client.delete("/v1/sessions/current").status_code == 204
        assert client.get("/v1/ticket").status_code == 401


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_session_survives_a_restart(box, number):
    made = box.login("alice")
    box.restart("api", number)
    with box.client(made["token"]) as client:
        assert client.get("/v1/ticket").json()["session"] == made["ticket"]


def test_the_stolen_database_opens_nothing(box):
    """No token, no ticket in the clear, in any of its files; and modes that keep others out."""
    made = box.login("alice")
    files = list((box.dir / "state").iterdir())
    assert len(files) >= 2
    everything = b"".join(file.read_bytes() for file in files)
    for secret in (made["token"].encode(), box.passwords["alice"].encode(), b"krbtgt"):
        assert secret not in everything
    for file in files:
        assert (file.stat().st_mode & 0o777, file.stat().st_uid) == (0o600, API_UID), file
    with sqlite3.connect(f"file:{box.dir}/state/api.sqlite?mode=ro", uri=True) as stolen:
        tables = {name for (name,) in stolen.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        sealed = [row for (row,) in stolen.execute("SELECT sealed FROM session")]
    assert tables == {"session", "submission", "bucket", "known_place", "conversation", "last_view"}
    assert len({blob[:12] for blob in sealed}) == len(sealed), "a nonce was used twice"


def test_nothing_secret_is_logged_or_in_argv(box):
    made = box.login("alice")
    attempt(box, "bob", "wrong-but-secret")
    text = box.log("api") + box.log("signer") + box.log("auksd")
    argv = subprocess.run(["ps", "-ww", "-o", "args", "-p", str(box.pid("api"))], capture_output=True, text=True).stdout
    for secret in (*box.passwords.values(), made["token"], "wrong-but-secret", "eyJ"):
        assert secret not in text, "in a log"
        assert secret not in argv, "in argv"
    for event in ("login.accepted", "login.refused", "http.request"):
        assert event in text


def test_the_process_cannot_be_traced_by_its_own_user(box):
    owner = Path(f"/proc/{box.pid('api')}/mem").stat().st_uid
    assert owner == 0, "the process is dumpable: its memory belongs to its own user"


def test_request_ids_are_taken_checked_and_logged(box):
    with box.client() as client:
        mine = client.get("/v1/health", headers={"X-Request-Id": "laptop-0123.4567_x"})
        assert mine.headers["X-Request-Id"] == "laptop-0123.4567_x"
        for bad in ("short", "x" * 65, "has space in it", 'quote"quote"quote', "newline\\nnewline"):
            given = client.get("/v1/health", headers={"X-Request-Id": bad}).headers["X-Request-Id"]
            assert given != bad and len(given) == 32
        wrong = client.get("/v1/nothing", headers={"X-Request-Id": "find-me-in-the-log"})
    assert wrong.json()["request_id"] == "find-me-in-the-log"
    end = time.monotonic() + 5  # the line is written when the answer has gone out
    while not (lines := [line for line in box.log().splitlines() if "find-me-in-the-log" in line]):
        assert time.monotonic() < end, box.log()[-1000:]
    line = lines[0]
    assert "status=404" in line and "address=127.0.0.1" in line


def test_every_refusal_is_a_problem_and_every_answer_has_the_headers(box):
    with box.client() as client:
        answers = {
            404: client.get("/nothing"),
            405: client.put("/v1/jobs"),
            401: client.get("/v1/jobs"),
            415: client.post("/v1/sessions", content=b"{}", headers={"Content-Type": "text/plain"}),
            400: client.post("/v1/sessions", content=b"[" * 5000, headers={"Content-Type": "application/json"}),
            413: client.post("/v1/sessions", json={"username": "a", "password": "x" * 20_000}),
            200: client.get("/v1/health"),
        }
    for status, answer in answers.items():
        assert answer.status_code == status, answer.text
        if status != 200:
            problem = answer.json()
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert set(problem) == {"type", "title", "status", "detail", "code", "hint", "request_id"}
            assert problem["type"] == f"urn:hipercow-slurm:error:{problem['code']}" and problem["status"] == status
        assert answer.headers["Strict-Transport-Security"] and answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert not any(name.lower().startswith("access-control") for name in answer.headers)
    assert set(answers[405].headers["Allow"].split(", ")) >= {"GET", "POST"}


def test_bodies_that_are_too_large_or_too_slow_are_refused_early(box):
    def slowly():
        for _ in range(100):
            yield b" "
            time.sleep(0.1)

    def much():
        yield from (b" " * 65536 for _ in range(200))

    with box.client() as client:
        begin = time.monotonic()
        slow = client.post("/v1/sessions", content=slowly(), headers={"Content-Type": "application/json"})
        assert (slow.status_code, slow.json()["code"]) == (408, "request-timeout")
        assert time.monotonic() - begin < 5
    with box.client() as client:
        chunked = client.post("/v1/sessions", content=much(), headers={"Content-Type": "application/json"})
        assert (chunked.status_code, chunked.json()["code"]) == (413, "body-too-large")


def test_health_says_what_is_down_and_nothing_else(box):
    with box.client() as client:
        assert client.get("/v1/health").json() == {
            "status": "ok",
            "checks": {"kdc": "ok", "signer": "ok", "cache": "ok", "slurm": "ok", "database": "ok"},
        }
        with box.without("auksd"):
            time.sleep(5.1)  # an answer is kept for five seconds
            answer = client.get("/v1/health")
    assert answer.status_code == 200
    assert answer.json()["status"] == "degraded" and answer.json()["checks"]["signer"] == "ok"
    assert answer.json()["checks"]["cache"] != "ok"
    assert "127.0.0.1" not in answer.text


def test_login_needs_the_cache(box):
    """A session whose ticket is not in the cache would submit jobs that cannot reach their files. Would have
    caught: "is auksd running?", and our addresses, told to a user."""
    with box.without("auksd"):
        answer = attempt(box, "alice", box.passwords["alice"])
    assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0, answer.text
    assert answer.json()["code"] == "cache-unreachable" and str(box.cache_port) not in answer.text, answer.text
    assert f"127.0.0.1:{box.cache_port}" in box.log(), "the operator must see which"


def test_logins_beyond_the_queue_are_sent_away_at_once(box):
    """With a KDC that hangs: what a user may fail at one address is asked (two, or three where the user is known), two
    more wait for the verdicts, the rest is told to come back, and nobody is lost."""
    box.realm.pause()
    try:
        with ThreadPoolExecutor(8) as threads:
            asked = [threads.submit(attempt, box, "alice", box.passwords["alice"]) for _ in range(8)]
            done, waiting = wait(asked, timeout=1.0)
            assert 3 <= len(done) <= 4 and {one.result().status_code for one in done} == {429}, done
            assert {one.result().json()["code"] for one in done} == {"too-many-logins"}
            with box.client() as client:
                assert client.get("/v1/ticket").status_code == 401, "everything else goes on"
            box.realm.resume()
            assert {one.result().status_code for one in waiting} == {201}, "a hanging KDC is no failed login"
    finally:
        box.realm.resume()


def test_kdc_down_is_said(box):
    """Would have caught: "cannot log in as alice@REALM.TEST", but "as unknown:...", which tells who has an account."""
    box.realm.stop()
    try:
        answer, unknown = (attempt(box, name, "x", **{"X-Request-Id": "same-request"}) for name in ("alice", "zoe"))
    finally:
        box.realm.start()
    assert (answer.status_code, answer.json()["code"]) == (503, "kdc-unreachable"), answer.text
    assert answer.json() == unknown.json(), "the KDC's silence tells users from strangers"
    assert box.login("alice")


def test_a_lying_kdc_is_caught(box, tmp_path):
    """Same realm, same port, any password accepted, but it does not know our key."""
    box.realm.stop()
    liar = Realm(tmp_path / "liar", port=box.realm.port)
    try:
        with liar:
            liar.add_user("alice", "guessed")
            liar.add_service("HTTP/localhost")
            answer = attempt(box, "alice", "guessed")
    finally:
        box.realm.start()
    assert (answer.status_code, answer.json()["code"]) == (403, "kdc-not-genuine"), answer.text


@pytest.mark.parametrize("what", ["missing", "unreadable", "without our key"])
def test_without_a_good_keytab_it_refuses_to_start(box, what):
    keytab = box.dir / "api.keytab"
    kept = box.dir / "kept.keytab"
    box.stop("api")
    keytab.rename(kept)
    try:
        if what == "unreadable":
            keytab.write_bytes(kept.read_bytes())
            keytab.chmod(0o600)
        elif what == "without our key":
            box.realm.keytab(keytab, "auks/localhost")
            os.chown(keytab, API_UID, API_UID)
        done = subprocess.run(
            box.command("api"), env={**os.environ, **box.realm.env}, capture_output=True, text=True, timeout=20
        )
    finally:
        keytab.unlink(missing_ok=True)
        kept.rename(keytab)
        box.start("api")
    assert done.returncode == 78, done.stderr
    assert "keytab" in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_guessing_is_stopped_and_the_owner_is_not(box):
    """Last: it empties zoe2's bucket. The KDC is asked no more than the bucket allows."""
    answers = [attempt(box, "zoe2", f"guess{n}") for n in range(8)]
    assert [a.status_code for a in answers] == [401] * 2 + [429] * 6
    assert answers[-1].json()["code"] == "too-many-failures" and 0 < int(answers[-1].headers["Retry-After"]) <= 1801
    assert json.dumps(answers[-1].json()).find("guess") == -1
    assert box.login("alice")
