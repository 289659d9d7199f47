"""Abuse: what nobody honest sends is a clear 4xx at once, and the service goes on for everybody else."""

import base64
import json
import os
import secrets
import socket
import ssl
import threading
import time

import pytest

from api_box import ApiBox
from canary import in_memory

pytestmark = pytest.mark.kdc

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def box():
    with ApiBox() as box:
        yield box


@pytest.fixture(autouse=True)
def it_goes_on(box, alice):
    """After each test: nothing was a bug, the process is the same one, and alice is served at once."""
    pid = box.pid("api")
    yield
    begin = time.monotonic()
    assert alice.get("/v1/ticket").status_code == 200
    assert time.monotonic() - begin < 5
    assert box.pid("api") == pid
    assert "http.bug" not in box.log(), [line for line in box.log().splitlines() if "http.bug" in line]


def connect(box):
    raw = socket.create_connection(("127.0.0.1", box.port), timeout=10)
    return box.certificate.client().wrap_socket(raw, server_hostname="localhost")


def raw(box, data):
    """Send bytes, read until the end; the status (None: closed without a word), and all that was said."""
    with connect(box) as tls:
        try:
            tls.sendall(data)
        except OSError:
            pass  # it answered and closed before it had it all
        said = b""
        try:
            while more := tls.recv(65536):
                said += more
        except (OSError, ssl.SSLError):
            pass
    return (int(said.split(b" ", 2)[1]) if said.startswith(b"HTTP/1.1 ") else None), said


def rss_mb(box):
    with open(f"/proc/{box.pid('api')}/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmRSS"))


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("path", ["/v1/sessions", "/v1/jobs"])
def test_a_body_of_100_mb_is_refused_without_being_kept(box, alice, path, declared):
    before = rss_mb(box)
    piece = b" " * 65536

    def much():
        yield from (piece for _ in range(1600))

    headers = {**JSON, **({"Content-Length": str(1600 * 65536)} if declared else {})}
    begin = time.monotonic()
    answer = alice.post(path, content=much(), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "body-too-large"), answer.text
    assert time.monotonic() - begin < 10
    assert rss_mb(box) - before < 60, "the body was kept in memory"


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 1_000_000,
        b'{"script":' * 100_000,
        b'{"environment":' + b"{" * 500_000,
        b'{"script":"\xff\xfe"}',
        b'{"script":"x","script":"y","nodes":1e999}',
        b'{"script":"x","nodes":9999999999999999999999}',
        b'{"script":null}',
        b'"script"',
        b'{"script":"\\ud800"}',
        b"\x00" * 1000,
    ],
    ids=range(10),
)
def test_json_that_is_deep_wrong_or_none(alice, body):
    answer = alice.post("/v1/jobs", content=body, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert len(answer.content) < 2000, "an answer that repeats what was sent"


def test_a_hundred_thousand_environment_variables(box, alice):
    environment = {f"VARIABLE_{number}": "x" * 40 for number in range(100_000)}
    begin = time.monotonic()
    answer = alice.post("/v1/jobs", json={"script": "#!/bin/sh\n", "environment": environment})
    assert 400 <= answer.status_code < 500, answer.text[:500]
    assert time.monotonic() - begin < 10
    assert len(answer.content) < 5000


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../v1/jobs/../../etc/passwd",
        "/v1/jobs/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/v1/jobs/1%00",
        "/v1/jobs/1/output/../../../etc/passwd",
        "/v1//jobs",
        "/v1/jobs/",
        "/v1/jobs/٣",
        "//evil.example/v1/jobs",
        "/v1/sessions/..%2f..%2f",
        "/v1/jobs/1/output?stream=/etc/passwd",
        "/V1/JOBS",
        "/v1/jobs;id",
        "/" + "a" * 20_000,
    ],
)
def test_tricks_with_paths(box, alice, path):
    """Sent byte by byte as they stand here: a client library would tidy them up."""
    token = alice.headers["Authorization"].encode()
    head = b"Host: x\r\nConnection: close\r\nAuthorization: " + token
    status, said = raw(box, b"GET " + path.encode() + b" HTTP/1.1\r\n" + head + b"\r\n\r\n")
    assert status is not None and 400 <= status < 500, (path, said)
    assert b"root:" not in said


@pytest.mark.parametrize(
    "head",
    [
        b"Transfer-Encoding: chunked\r\nContent-Length: 5",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Transfer-Encoding: xchunked",
        b"Content-Length: +5",
        b"Content-Length: 5, 5",
        b"Content-Length: 99999999999999999999999999",
        b"X-A: b\x00c",
        b"Cookie: " + b"a" * 40_000,
        b"\r\n".join(b"X-%d: y" % number for number in range(5000)),
        b"Upgrade: websocket\r\nConnection: Upgrade",
        b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
        b"Expect: 200-maybe",
    ],
    ids=range(12),
)
def test_tricks_with_headers(box, head):
    status, _ = raw(box, b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + head + b"\r\n\r\n12345")
    assert status is None or 400 <= status < 500, status


def test_headers_that_claim_to_be_someone_else_are_not_believed(box):
    claims = {
        "X-Forwarded-For": "10.9.8.7",
        "Forwarded": "for=10.9.8.7",
        "X-Real-IP": "10.9.8.7",
        "X-Remote-User": "alice",
        "Remote-User": "alice",
        "X-SLURM-USER-NAME": "root",
        "X-SLURM-USER-TOKEN": "x",
        "Host": "evil.example",
    }
    with box.client() as client:
        assert client.get("/v1/ticket", headers=claims).status_code == 401
        made = client.post(
            "/v1/sessions", json={"username": "bob", "password": box.passwords["bob"]}, headers=claims
        ).json()
        rows = client.get("/v1/sessions", headers={"Authorization": f"Bearer {made['token']}"}).json()["sessions"]
    assert {row["address"] for row in rows} == {"127.0.0.1"}
    assert "10.9.8.7" not in box.log()


def jwt(header, payload, signature=b""):
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


CLAIMS = {"sun": "alice", "sub": "alice", "exp": 4102444800, "iat": 1}


@pytest.mark.parametrize(
    "token",
    [
        jwt({"alg": "none"}, CLAIMS),
        jwt({"alg": "HS256", "kid": "../../dev/null"}, CLAIMS, b"x" * 32),
        jwt({"alg": "RS256", "kid": "1"}, CLAIMS, b"x" * 256),
        base64.urlsafe_b64encode(bytes(32)).rstrip(b"=").decode(),
        base64.b64encode(os.urandom(32)).decode(),
        "A" * 42,
        "A" * 44,
        "' OR '1'='1",
        "null",
        "{}",
        "%00" * 14 + "a",
        "A" * 30_000,
    ],
    ids=range(12),
)
def test_tokens_of_every_wrong_kind(box, token):
    with box.client() as client:
        for scheme in ("Bearer", "bearer", "Token", "JWT", "Digest"):
            answer = client.get("/v1/ticket", headers={"Authorization": f"{scheme} {token}"})
            assert (answer.status_code, answer.json()["code"]) == (401, "not-authenticated"), answer.text


def test_a_token_in_other_places_and_two_headers(box, alice):
    token = alice.headers["Authorization"].removeprefix("Bearer ")
    with box.client() as client:
        for tried in (
            client.get(f"/v1/ticket?access_token={token}&token={token}"),
            client.get("/v1/ticket", headers={"Cookie": f"token={token}; session={token}"}),
            client.get("/v1/ticket", headers={"X-Auth-Token": token}),
            client.get("/v1/ticket", headers={"Authorization": token}),
        ):
            assert tried.status_code == 401, tried.text
    assert token not in box.log()


def test_the_slurm_token_of_the_signer_is_no_session(box, alice):
    """A real token of the right user and key, which a stolen slurmrestd log would have."""
    alice.get("/v1/jobs")
    assert box.slurm.tokens, "the stand-in saw no token"
    for token in box.slurm.tokens:
        with box.client(token) as client:
            assert client.get("/v1/ticket").status_code == 401


def test_slow_clients_do_not_hold_up_the_others(box, alice):
    """A hundred connections that send a byte now and then; alice is answered as before, and they are cut off."""
    stop = threading.Event()
    slow = [connect(box) for _ in range(100)]

    def drip():
        while not stop.wait(0.3):
            for tls in slow:
                try:
                    tls.send(b"G")
                except OSError:
                    pass

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        took = []
        end = time.monotonic() + 4
        while time.monotonic() < end:
            begin = time.monotonic()
            assert alice.get("/v1/sessions").status_code == 200
            took.append(time.monotonic() - begin)
        for tls in slow:
            tls.settimeout(5)
            try:
                said = tls.recv(4096)
            except (OSError, ssl.SSLError):
                said = b""
            assert said == b"" or b" 40" in said[:20], said
    finally:
        stop.set()
        thread.join()
        for tls in slow:
            tls.close()
    assert sorted(took)[len(took) * 95 // 100] < 0.5, max(took)


def test_passwords_do_not_stay_in_memory(box, alice):
    """Ten as JSON, ten as Basic. None should be left; one may be, in memory that is free and was not used again."""
    sent = []
    for number in range(20):
        password = f"in-memory-{secrets.token_hex(8)}"
        box.realm.kadmin(f"cpw -pw {password} bob")
        basic = base64.b64encode(f"bob:{password}".encode())
        sent.append(basic if number % 2 else password.encode())
        with box.client() as client:
            if number % 2:
                answer = client.get("/v1/sessions", headers={"Authorization": f"Basic {basic.decode()}"})
            else:
                answer = client.post("/v1/sessions", json={"username": "bob", "password": password})
        assert answer.status_code in (200, 201), answer.text
    left = in_memory(box.pid("api"), sent)
    assert len(left) <= 1, f"{len(left)} of {len(sent)} passwords are still in memory"
    assert in_memory(box.pid("api"), [b"krbtgt"]), "the scan finds nothing at all"


def test_nothing_of_this_is_in_logs_or_database(box, alice):
    """Last: after all of it, no password, token or ticket in the clear."""
    token = alice.headers["Authorization"].removeprefix("Bearer ")
    logs = "".join(box.log(name) for name in ("api", "signer", "auksd"))
    files = b"".join(file.read_bytes() for file in (box.dir / "state").iterdir())
    stored = files + (box.dir / "auksd.db").read_bytes()
    for secret in (*box.passwords.values(), token, *box.slurm.tokens):
        assert secret not in logs
        assert secret.encode() not in stored
    assert b"krbtgt" not in stored and "krbtgt" not in logs
