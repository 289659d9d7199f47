"""The whole API on two hosts with one PostgreSQL: one answer whichever host serves, also when one dies, or PostgreSQL.

"api" and "api-2" share nothing but the database and what every head node has: KDC, signer, cache, Slurm. The second has
two processes. What one must know of the other at once is asked of the database in each request.
"""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from api_box import ApiBox

pytestmark = pytest.mark.kdc
HOSTS = ("api", "api-2")


@pytest.fixture(scope="module")
def postgres(postgres_server):
    """The server, for the API's own account too; each of the tests here leaves it running."""
    postgres_server.folder.chmod(0o755)
    return postgres_server


@pytest.fixture(scope="module")
def box(postgres):
    with ApiBox(database=postgres.database(), passwords_change=True) as box:
        box.stop("api")
        postgres.sql("DROP SCHEMA hipercow_api CASCADE", box.database)
        with ThreadPoolExecutor(2) as threads:  # together, so both want to make the tables
            list(threads.map(box.start, HOSTS))
        yield box


def ask(box: ApiBox, host: str, method: str, path: str, token: str | None = None, **more) -> httpx.Response:
    """One request on a connection of its own: of the second host's processes either may serve it."""
    with box.client(token, host=host) as client:
        return client.request(method, path, **more)


def submit(box: ApiBox, host: str, token: str, key: str) -> httpx.Response:
    return ask(box, host, "POST", "/v1/jobs", token, json={"script": "#!/bin/sh\n"}, headers={"Idempotency-Key": key})


def settled(box: ApiBox, host: str, token: str, key: str) -> httpx.Response:
    """The answer once it is no longer that the first attempt is not settled; a client repeats as we do here."""
    end = time.monotonic() + 60
    while (answer := submit(box, host, token, key)).status_code == 503 and time.monotonic() < end:
        assert answer.json()["code"] == "submit-unsettled", answer.text
        time.sleep(0.2)
    return answer


def test_what_is_no_sessions_id_ends_none(box):
    """Would have caught: 503 "the session database failed" for a NUL, which PostgreSQL takes in no text."""
    token = ask(box, "api", "POST", "/v1/sessions", json={"username": "alice", "password": box.passwords["alice"]})
    for wrong in ("%00", "a%00b", "%ff", "0" * 16, "0" * 5000):
        answer = ask(box, "api", "DELETE", f"/v1/sessions/{wrong}", token.json()["token"])
        assert (answer.status_code, answer.json()["code"]) == (404, "no-such-session"), (wrong, answer.text)


def test_log_in_at_one_host_submit_at_the_other_and_look_from_both(box):
    """Would have caught: a session, a submission or a list of sessions that only its own host knows."""
    made = box.login("alice")
    job = submit(box, "api-2", made["token"], "first").json()
    for host in HOSTS:
        shown = ask(box, host, "GET", f"/v1/jobs/{job['job_id']}", made["token"])
        assert (shown.status_code, shown.json()["job_id"]) == (200, job["job_id"]), shown.text
        again = submit(box, host, made["token"], "first")
        assert (again.status_code, again.json()["job_id"]) == (201, job["job_id"]), again.text
        rows = ask(box, host, "GET", "/v1/sessions", made["token"]).json()["sessions"]
        assert made["session_id"] in {row["session_id"] for row in rows}, rows


@pytest.mark.parametrize(("ends", "other"), [HOSTS, HOSTS[::-1]])
def test_a_session_revoked_at_one_host_is_over_at_the_other_with_the_next_request(box, ends, other):
    """Would have caught: what a host has in memory is believed for some seconds, long enough to do harm."""
    for _ in range(5):
        token = box.login("alice")["token"]
        for host in (ends, other, other, other):  # both processes of the second host have it open
            assert ask(box, host, "GET", "/v1/ticket", token).status_code == 200
        with box.client(token, host=other) as kept:
            assert kept.get("/v1/ticket").status_code == 200
            assert ask(box, ends, "DELETE", "/v1/sessions/current", token).status_code == 204
            late = [kept.get("/v1/ticket"), *(ask(box, host, "GET", "/v1/ticket", token) for host in HOSTS)]
        assert {(one.status_code, one.json()["code"]) for one in late} == {(401, "not-authenticated")}, late


def test_guesses_are_counted_over_hosts(box):
    """Would have caught: as many times the guesses as there are hosts."""
    guesses = [{"username": "nobody", "password": f"guess{n}"} for n in range(12)]
    codes = [ask(box, HOSTS[n % 2], "POST", "/v1/sessions", json=body).json()["code"] for n, body in enumerate(guesses)]
    assert codes == ["login-failed"] * 2 + ["too-many-failures"] * 10


def test_a_conversation_begun_at_one_host_goes_on_at_the_other(box):
    """Would have caught: "no such conversation", every second time; or a try for each host."""
    box.realm.kadmin("addpol -minlength 12 strict", "modprinc -policy strict +needchange bob")
    login = {"username": "bob", "password": box.passwords["bob"]}
    begun = ask(box, "api", "POST", "/v1/sessions", json=login).json()
    assert begun["code"] == "password-must-change", begun
    body = {"conversation": begun["conversation"], "new_password": "short"}
    refused = ask(box, "api-2", "POST", "/v1/conversations", json=body)
    assert refused.json()["code"] == "password-rejected", refused.text
    box.passwords["bob"] = "a much longer one, chosen at the other host"
    done = ask(box, "api-2", "POST", "/v1/conversations", json={**body, "new_password": box.passwords["bob"]})
    assert done.status_code == 201 and ask(box, "api", "GET", "/v1/ticket", done.json()["token"]).status_code == 200
    over = ask(box, "api", "POST", "/v1/conversations", json=body)
    assert over.json()["code"] == "no-such-conversation", over.text


def test_a_host_killed_before_it_answered_and_the_key_repeated_at_the_other_is_one_job(box):
    """kill -9 after Slurm took the job. Would have caught: the other host, which knows no job id, makes a second."""
    token, before = box.login("alice")["token"], box.slurm.submits
    box.slurm.hold = True
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(submit, box, "api", token, "killed")
        wait_for(lambda: box.slurm.held, "Slurm has the job", box)
        box.stop("api", signal.SIGKILL)
        with pytest.raises(httpx.HTTPError):
            first.result()
    box.slurm.hold = False
    second = settled(box, "api-2", token, "killed")
    box.start("api")
    third = submit(box, "api", token, "killed")
    assert (second.status_code, third.status_code) == (201, 201), (second.text, third.text)
    assert second.json()["job_id"] == third.json()["job_id"] and box.slurm.submits == before + 1


def test_of_two_hosts_that_both_find_the_first_attempt_lost_one_makes_the_job(box, postgres):
    """The job never reached Slurm. Would have caught: each host that is asked later asks Slurm, a job each."""
    token, before = box.login("alice")["token"], box.slurm.submits
    box.slurm.hold = box.slurm.hold_before_taking = True
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(submit, box, "api", token, "lost")
        wait_for(lambda: box.slurm.held, "Slurm is asked", box)
        box.stop("api", signal.SIGKILL)
        with pytest.raises(httpx.HTTPError):
            first.result()
        box.slurm.hold = box.slurm.hold_before_taking = False
        assert submit(box, "api-2", token, "lost").json()["code"] == "submit-unsettled"
        box.start("api")
        old = "UPDATE hipercow_api.submission SET attempted_at = attempted_at - 60 WHERE idempotency_key = 'lost'"
        assert postgres.sql(old, box.database) == "UPDATE 1"
        answers = list(threads.map(lambda n: settled(box, HOSTS[n % 2], token, "lost"), range(8)))
    assert {answer.status_code for answer in answers} == {201}, [answer.text for answer in answers]
    assert len({answer.json()["job_id"] for answer in answers}) == 1 and box.slurm.submits == before + 1


def test_a_ticket_is_renewed_once_whichever_processes_have_the_session_open(box, postgres):
    """Would have caught: three processes with a session open ask the KDC for three tickets, and the last is kept."""
    box.realm.kadmin("modprinc -maxlife 8s bob")
    made = box.login("bob")
    for host in HOSTS * 4:
        assert ask(box, host, "GET", "/v1/ticket", made["token"]).status_code == 200

    def generation() -> int:
        sql = f"SELECT generation FROM hipercow_api.session WHERE session_id = '{made['session_id']}'"
        return int(postgres.sql(sql, box.database))

    wait_for(lambda: generation() >= 2, "it was renewed twice", box)
    time.sleep(2)  # whoever were to renew it as well would do so within a second or two
    log = "".join(box.log(host) for host in HOSTS)
    renewed = [line for line in log.splitlines() if "session.renewed" in line and made["session_id"] in line]
    assert len(renewed) == generation(), renewed
    ends = {ask(box, host, "GET", "/v1/ticket", made["token"]).json()["session"]["valid_until"] for host in HOSTS * 3}
    assert len(ends) == 1, "all of them use the new one"


def test_without_postgresql_each_host_says_so_and_goes_on_by_itself_when_it_is_back(box, postgres):
    """Would have caught: a connection that stays broken, a 500, a session or a note that is lost with the server."""
    token = box.login("alice")["token"]
    box.slurm.hold = True
    with ThreadPoolExecutor(12) as threads:
        # Slurm has taken it; its number is noted only after PostgreSQL is back.
        pending = threads.submit(submit, box, "api-2", token, "meanwhile")
        wait_for(lambda: box.slurm.held, "Slurm has the job", box)
        postgres.stop(signal.SIGQUIT)
        box.slurm.hold = False
        try:
            asked = [threads.submit(ask, box, host, "GET", "/v1/ticket", token) for host in HOSTS]
            login = {"username": "alice", "password": box.passwords["alice"]}
            asked += [threads.submit(ask, box, host, "POST", "/v1/sessions", json=login) for host in HOSTS]
            told = [
                threads.submit(ask, box, host, "GET", path) for path in ("/v1/health", "/v1/ready") for host in HOSTS
            ]
            watched = httpx.get(f"http://127.0.0.1:{box.metrics_port}/health", timeout=20, trust_env=False)
            said, reports = [one.result() for one in asked], [one.result().json() for one in told]
            pending.result()
        finally:
            postgres.start()
    assert {(one.status_code, one.json()["code"]) for one in said} == {(503, "database-failed")}, [x.text for x in said]
    assert [one.get("status") or one["ready"] for one in reports] == ["degraded", "degraded", False, False], reports
    for report in reports:
        assert set(report["reasons"]) == {"database"}, report
        assert report["reasons"]["database"].startswith("the session database "), report
    assert watched.status_code == 503 and not watched.json()["checks"]["database"]["ok"], watched.text
    for host in HOSTS:
        wait_for(
            lambda host=host: ask(box, host, "GET", "/v1/ticket", token).status_code == 200, f"{host} goes on", box
        )
        wait_for(lambda host=host: ask(box, host, "GET", "/v1/health").json()["status"] == "ok", f"{host} is well", box)
    job = settled(box, "api", token, "meanwhile")
    assert job.status_code == 201 and len(box.slurm.jobs) == box.slurm.submits, job.text


@pytest.mark.slow
def test_a_postgresql_that_hangs_is_said_in_time_and_where_it_is_is_said_to_nobody(box, postgres):
    """Would have caught: health that waits as long as PostgreSQL does, so that the operator's listener has no reasons
    to show; and strangers who are told the database's address and account."""
    token = box.login("alice")["token"]
    time.sleep(5.1)  # an answer is kept for five seconds
    postgres.pause()
    try:
        with ThreadPoolExecutor(8) as threads:
            login = {"username": "alice", "password": box.passwords["alice"]}
            asked = [threads.submit(ask, box, host, "POST", "/v1/sessions", json=login) for host in HOSTS]
            asked += [threads.submit(ask, box, host, "GET", "/v1/jobs", token) for host in HOSTS]
            begin = time.monotonic()
            told = [threads.submit(ask, box, "api", "GET", path) for path in ("/v1/health", "/v1/ready")]
            health, ready = (one.result() for one in told)
            took = time.monotonic() - begin
            watched = httpx.get(f"http://127.0.0.1:{box.metrics_port}/health", timeout=20, trust_env=False)
            said = [one.result() for one in asked]
    finally:
        postgres.resume()
    assert health.json()["checks"]["database"] == "timeout" and took < 4.5, (took, health.text)
    assert (ready.status_code, set(ready.json()["reasons"])) == (503, {"database"}), ready.text
    assert watched.status_code == 503 and not watched.json()["checks"]["database"]["ok"], watched.text
    assert {(one.status_code, one.json()["code"]) for one in said} == {(503, "database-failed")}, [x.text for x in said]
    for one in (*said, health, ready, watched):
        assert "postgres://" not in one.text and "postgresql:" not in one.text, one.text
        assert str(postgres.folder) not in one.text and "user=" not in one.text, one.text
    for host in HOSTS:
        wait_for(
            lambda host=host: ask(box, host, "GET", "/v1/ticket", token).status_code == 200, f"{host} goes on", box
        )


def wait_for(condition, what: str, box: ApiBox) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, (what, box.log("api")[-2000:], box.log("api-2")[-2000:])
        threading.Event().wait(0.05)
