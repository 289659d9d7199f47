"""The HTTP client against a real server on a socket: what it sends, what it repeats, and what it makes of nonsense."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse

from fake_api import PASSWORD, FakeApi, certificate, endless, give, lose, problem, silent, trickle
from hipercow_slurm import Client, errors
from hipercow_slurm.client.models import JobInfo
from hipercow_slurm.client.problems import CREDENTIAL_CODES, clean, from_answer
from hipercow_slurm.client.sync import watch
from hipercow_slurm.errors import AccessError, ConfigError, Error, ProtocolError, UnavailableError

JOBS = ("POST", "/v1/jobs")
SPEC = {"script": "#!/bin/sh\n"}


@pytest.fixture(scope="module")
def server() -> Iterator[FakeApi]:
    with closing(FakeApi()) as api:
        yield api


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a session, so that none of ours is used or overwritten."""
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def api(server: FakeApi) -> FakeApi:
    server.reset()
    server.tokens["token"] = "alice"
    return server


@pytest.fixture
def client(api: FakeApi) -> Iterator[Client]:
    with Client(api.url, token="token", timeout_s=1.0, patience_s=1.0) as client:
        yield client


def failing(ask: Callable[[], object]) -> Error:
    with pytest.raises(Error) as caught:
        ask()
    return caught.value


def test_a_round_trip_over_tls(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path)
    with closing(FakeApi((pem, key))) as api:
        with Client(api.url, ca=str(pem)) as anonymous:
            session = anonymous.login("alice", PASSWORD)
        assert (session.principal, session.ticket.valid_until is not None) == ("alice@REALM.TEST", True)
        assert session.token not in repr(session) and session.token not in json.dumps(session.raw)
        with Client(api.url, token=session.token, ca=str(pem)) as client:
            job = client.submit(**SPEC, name="first")
            assert (job.name, job.state, job.info.time_limit_min, job.ended) == ("first", "PENDING", 5, False)
            assert [j.job_id for j in client.jobs()] == [job.job_id]
            client.cancel(job.job_id)
            assert client.job(job.job_id).state == "CANCELLED"
            assert client.ticket().cache is not None
            assert [row.current for row in client.sessions()] == [True]
            client.logout()
            assert failing(client.jobs).code == "not-logged-in"
        assert api.jobs[job.job_id]["spec"] == {**SPEC, "name": "first"}


def test_a_server_that_is_not_trusted_gets_nothing(tmp_path: Path) -> None:
    """Not the password, and not a second try."""
    with closing(FakeApi(certificate(tmp_path))) as api, Client(api.url, patience_s=30) as client:
        started = time.monotonic()
        error = failing(lambda: client.login("alice", PASSWORD))
        assert (type(error), error.code) == (AccessError, "server-not-trusted"), error
        assert time.monotonic() - started < 5 and api.requests == []
        assert "ca" in (error.hint or "")


@pytest.mark.parametrize(
    "url", ["http://head.example.org", "head.example.org", "ftp://x", "https://", "https://u:p@x", "https://x/?a=1"]
)
def test_urls_that_are_refused(url: str) -> None:
    assert failing(lambda: Client(url)).code == "bad-url"


def test_an_authority_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "not.pem").write_text("nothing")
    for name in ("not.pem", "missing.pem"):
        with pytest.raises(ConfigError, match=name):
            Client("https://localhost", ca=str(tmp_path / name))


@pytest.mark.parametrize(
    ("status", "code", "family"),
    [
        (400, "bad-request", errors.RequestError),
        (404, "no-such-job", errors.RequestError),
        (422, "idempotency-key-reused", errors.RequestError),
        (401, "not-authenticated", errors.CredentialError),
        (401, "session-expired", errors.CredentialError),
        (401, "login-failed", errors.CredentialError),
        (403, "role-denied", errors.AccessError),
        (403, "expired", errors.CredentialError),
        (422, "job-rejected", errors.SchedulerError),
        (429, "too-many-failures", errors.UnavailableError),
        (500, "bug", errors.InternalError),
        (502, "wire-malformed", errors.ProtocolError),
        (503, "kdc-unreachable", errors.UnavailableError),
        (504, "submit-unknown", errors.SchedulerError),
    ],
)
def test_problems_become_our_errors(status: int, code: str, family: type[Error]) -> None:
    answer = problem(status, code, detail="the sentence", hint="the hint")
    error = from_answer(status, answer.headers, bytes(answer.body), server="x")
    assert (type(error), error.code, error.status, error.hint) == (family, code, status, "the hint")
    assert error.message.startswith("the sentence")
    assert ("r-1" in error.message) == (status == 500), "the request id is for what only the operator can mend"


def test_every_ticket_trouble_the_server_knows_is_one_here() -> None:
    from hipercow_slurm.krb5 import codes

    rows = [*codes.ERRORS.values(), *codes.DEFAULTS.values()]
    known = {row.code for row in rows if row.family is errors.CredentialError}
    assert known <= CREDENTIAL_CODES, known - CREDENTIAL_CODES


def test_what_a_server_says_cannot_move_the_cursor() -> None:
    assert clean("one\x1b[2J\ntwo\u202e " + "x" * 9000, limit=20) == "one [2J two xxxxxxxx"
    hostile = problem(400, "x\x1b", detail="\x1b]0;title\x07", hint="\x1b[1m")
    error = from_answer(400, hostile.headers, bytes(hostile.body), server="x")
    assert all((error.message + (error.hint or "") + error.code).isprintable() for _ in "x"), repr(error)
    assert error.code == "bad-request"


@pytest.mark.parametrize(
    ("answer", "family"),
    [
        (HTMLResponse("<h1>Bad Gateway</h1>", 502), UnavailableError),
        (HTMLResponse("<h1>Not here</h1>", 404), errors.RequestError),
        (HTMLResponse("<h1>Welcome to the guest network</h1>"), ProtocolError),
        (JSONResponse([1]), ProtocolError),
        (JSONResponse({}), ProtocolError),
        (JSONResponse({"jobs": {}}), ProtocolError),
        (JSONResponse({"jobs": [7]}), ProtocolError),
        (JSONResponse({"jobs": [{"job_id": "7", "state": "RUNNING"}]}), ProtocolError),
        (JSONResponse({"jobs": [{"job_id": True, "state": "RUNNING"}]}), ProtocolError),
        (JSONResponse({"jobs": [{"job_id": 7, "state": "RUNNING", "start_time": "noon"}]}), ProtocolError),
        (PlainTextResponse("[" * 100000, media_type="application/json"), ProtocolError),
        (PlainTextResponse("{", 400, media_type="application/problem+json"), errors.RequestError),
    ],
    ids=lambda value: None,
)
def test_answers_that_are_not_the_api_s(api: FakeApi, client: Client, answer: Any, family: type[Error]) -> None:
    api.answers["GET", "/v1/jobs"] = [give(answer)] * 20
    error = failing(client.jobs)
    assert type(error) is family, error
    assert error.message.isprintable()


def test_an_answer_without_end_is_cut(api: FakeApi, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hipercow_slurm.client.exchange.ANSWER_LIMIT", 1 << 20)
    api.answers["GET", "/v1/jobs"] = [endless]
    assert "more than" in failing(client.jobs).message


@pytest.mark.parametrize("twist", [silent, trickle])
def test_a_slow_server(api: FakeApi, twist: Any) -> None:
    api.answers["GET", "/v1/jobs"] = [twist]
    with Client(api.url, token="token", timeout_s=0.4, patience_s=0.0) as client:
        started = time.monotonic()
        assert failing(client.jobs).code == "api-timeout"
        assert time.monotonic() - started < 2


def test_no_redirect_is_followed(api: FakeApi, client: Client) -> None:
    """A session's token goes to the server it came from."""
    with closing(FakeApi()) as elsewhere:
        api.answers["GET", "/v1/jobs"] = [give(RedirectResponse(f"{elsewhere.url}/v1/jobs"))]
        assert "redirects" in failing(client.jobs).message
        assert elsewhere.requests == []


def test_a_lost_answer_does_not_make_a_second_job(api: FakeApi, client: Client) -> None:
    """The job is made and the answer lost, twice; then a proxy is in the way; the job is one all the same."""
    api.answers[JOBS] = [lose, lose, give(HTMLResponse("busy", 503))]
    job = client.submit(**SPEC)
    sent = api.seen(*JOBS)
    assert len(sent) == 4 and len(api.jobs) == 1, (len(sent), api.jobs)
    assert {headers["idempotency-key"] for headers, _ in sent} == set(api.keys), "the key changed between attempts"
    assert client.submit(**SPEC).job_id != job.job_id, "two submissions shared a key"


def test_an_answer_lost_for_good_tells_how_to_ask_again(api: FakeApi) -> None:
    api.answers[JOBS] = [lose] * 50
    with Client(api.url, token="token", patience_s=0.1) as client:
        error = failing(lambda: client.submit(**SPEC))
        assert isinstance(error, UnavailableError)
        key = (error.hint or "").split()[-1]
        assert api.seen(*JOBS)[0][0]["idempotency-key"] == key, error.hint
        api.answers.clear()
        assert client.submit(**SPEC, idempotency_key=key).job_id == next(iter(api.jobs))
        assert len(api.jobs) == 1


def test_a_fault_of_the_server_may_come_after_the_job(api: FakeApi, client: Client) -> None:
    for fault in (problem(500, "bug"), HTMLResponse("oops", 500)):
        api.answers[JOBS] = [give(fault)]
        error = failing(lambda: client.submit(**SPEC))
        assert error.EXIT == 70 and "--idempotency-key" in (error.hint or ""), error.hint


def test_a_refusal_is_not_repeated(api: FakeApi, client: Client) -> None:
    api.answers[JOBS] = [give(problem(422, "job-rejected", detail="Invalid partition"))]
    error = failing(lambda: client.submit(**SPEC))
    assert (error.EXIT, len(api.seen(*JOBS))) == (5, 1)
    assert "idempotency" not in (error.hint or "")


@pytest.mark.parametrize("twist", [lose, give(problem(503, "kdc-unreachable", detail="the KDC is down"))])
def test_a_password_is_sent_once(api: FakeApi, client: Client, twist: Any) -> None:
    """A second try could be the one that locks an account."""
    api.answers["POST", "/v1/sessions"] = [twist]
    error = failing(lambda: client.login("alice", "wrong"))
    assert isinstance(error, UnavailableError)
    assert len(api.seen("POST", "/v1/sessions")) == 1
    assert "wrong" not in f"{error!r} {error.hint}"


def test_a_server_that_starts_late_is_waited_for() -> None:
    """Also by a login: what was never sent cannot have done anything."""
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    started: list[FakeApi] = []
    starting = threading.Timer(0.4, lambda: started.append(FakeApi(port=port)))
    starting.start()
    told: list[str] = []
    url = f"http://127.0.0.1:{port}"
    with Client(url, patience_s=10, on_retry=lambda error, pause: told.append(error.code)) as client:
        assert client.login("alice", PASSWORD).localname == "alice"
    starting.join(10)  # the API answers before its constructor has returned
    started[0].close()
    assert told and set(told) == {"api-unreachable"}


def test_retry_after_is_respected(api: FakeApi, client: Client) -> None:
    """A longer pause than our patience is not waited for."""
    busy = problem(503, "scheduler-unreachable", **{"Retry-After": "60"})
    api.answers["GET", "/v1/jobs"] = [give(busy)]
    started = time.monotonic()
    assert failing(client.jobs).code == "scheduler-unreachable"
    assert time.monotonic() - started < 5 and len(api.requests) == 1


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as place:
        url = f"http://127.0.0.1:{place.getsockname()[1]}"
    with Client(url, token="token", patience_s=0.0) as client:
        error = failing(client.jobs)
    assert (error.code, url in error.message, "refused" in error.message) == ("api-unreachable", True, True), error


@pytest.mark.parametrize(
    "said", [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\n", b"\x15\x03\x01\0\x02\x02\x46"]
)
def test_something_else_listens(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(said)

        threading.Thread(target=answer, daemon=True).start()
        with Client(f"http://127.0.0.1:{listener.getsockname()[1]}", patience_s=0.0, timeout_s=1) as client:
            error = failing(client.health)
    assert error.code in ("api-broke-off", "api-timeout"), error
    assert error.message.isprintable()


def test_output_in_pieces(api: FakeApi, client: Client) -> None:
    job_id = api.new_job(state="RUNNING")
    assert client.output_piece(job_id).size is None
    api.outputs[job_id, "stdout"] = b""
    assert (client.output_piece(job_id).data, client.output_piece(job_id).size) == (b"", 0)
    api.outputs[job_id, "stdout"] = b"0123456789"
    piece = client.output_piece(job_id, offset=4)
    assert (piece.data, piece.size, piece.state) == (b"456789", 10, "RUNNING")
    assert client.output_piece(job_id, offset=4, limit=3).data == b"456"
    assert (client.output_piece(job_id, offset=10).data, client.output_piece(job_id, offset=99).size) == (b"", 10)
    assert client.output_piece(job_id, stream="stderr").size is None
    assert failing(lambda: client.output_piece(999)).code == "no-such-job"


def test_output_that_is_not_the_asked_part(api: FakeApi, client: Client) -> None:
    """A server (or proxy) that ignores Range must not make us print a part twice."""
    job_id = api.new_job(state="RUNNING")
    api.answers["GET", f"/v1/jobs/{job_id}/output"] = [give(PlainTextResponse("0123456789"))] * 2
    assert client.output_piece(job_id).data == b"0123456789"
    assert failing(lambda: client.output_piece(job_id, offset=4)).code == "bad-answer"


def test_following_a_job(api: FakeApi, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file yet, a growing file, one begun anew by a requeued job, an API that is away, bytes after the end."""
    monkeypatch.setattr(watch, "LINGER_S", 0.3)
    job_id = api.new_job(state="PENDING")
    path = ("GET", f"/v1/jobs/{job_id}/output")
    steps: list[Callable[[], object]] = [
        lambda: api.outputs.update({(job_id, "stdout"): b"one "}),
        lambda: api.outputs.update({(job_id, "stdout"): b"one two "}),
        lambda: api.answers.update({path: [give(HTMLResponse("", 503))] * 4}),
        lambda: api.outputs.update({(job_id, "stdout"): b"new"}),
        lambda: api.jobs[job_id].update(state="COMPLETED"),
        lambda: api.outputs.update({(job_id, "stdout"): b"new end"}),
    ]

    def play() -> None:
        for step in steps:
            time.sleep(0.25)
            step()

    threading.Thread(target=play, daemon=True).start()
    with Client(api.url, token="token", patience_s=0.0) as impatient:
        pieces = list(watch.follow(impatient, job_id, poll_s=0.02))
    assert b"".join(pieces) == b"one two new end", pieces


def test_following_a_job_without_output(api: FakeApi, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LINGER_S", 0.05)
    job_id = api.new_job(state="CANCELLED")
    assert failing(lambda: list(watch.follow(client, job_id, poll_s=0.02))).code == "no-output"


def test_waiting_outlasts_an_outage(api: FakeApi) -> None:
    job_id = api.new_job(state="RUNNING")
    path = ("GET", f"/v1/jobs/{job_id}")
    api.answers[path] = [give(HTMLResponse("", 503))] * 3
    states: list[str] = []
    troubles: list[Error] = []

    def seen(job: JobInfo) -> None:
        states.append(job.state)
        api.jobs[job_id].update(state="FAILED", exit_code=3)

    with Client(api.url, token="token", patience_s=0.0) as client:
        job = watch.wait(client, job_id, poll_s=0.01, on_progress=seen, on_trouble=troubles.append)
        assert (states, len(troubles), job.exit_status) == (["RUNNING", "FAILED"], 3, 3)
        api.answers[path] = [give(HTMLResponse("", 503))] * 1000
        with pytest.raises(UnavailableError):
            watch.wait(client, job_id, poll_s=0.01, outage_s=0.1)


@pytest.mark.parametrize(
    ("state", "exit_code", "signal", "status"),
    [
        ("COMPLETED", 0, None, 0),
        ("COMPLETED", None, None, 0),
        ("FAILED", 3, None, 3),
        ("FAILED", 256, None, 1),
        ("FAILED", 0, 9, 137),
        ("TIMEOUT", 0, None, 1),
        ("CANCELLED", None, None, 1),
    ],
)
def test_exit_status(state: str, exit_code: int | None, signal: int | None, status: int) -> None:
    job = JobInfo.parse({"job_id": 1, "state": state, "exit_code": exit_code, "signal": signal})
    assert job.exit_status == status
