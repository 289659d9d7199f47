"""Abuse that one request cannot show: answers nobody reads, requests hidden in others, tokens as bytes."""

import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from api_box import ApiBox

pytestmark = [pytest.mark.kdc, pytest.mark.xdist_group("api-abuse-more")]


@pytest.fixture(scope="module")
def box():
    with ApiBox() as box:
        yield box


@pytest.fixture(scope="module")
def alice(box):
    with box.as_user("alice") as client:
        yield client


def connect(box, **options):
    raw = socket.socket()
    for name, value in options.items():
        raw.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    raw.settimeout(20)
    raw.connect(("127.0.0.1", box.port))
    return box.certificate.client().wrap_socket(raw, server_hostname="localhost")


def served(box, tls):
    """Does the server still have this connection established?"""
    wanted = f":{box.port:04X} ", f":{tls.getsockname()[1]:04X} 01 "
    return any(wanted[0] in line and wanted[1] in line for line in Path("/proc/net/tcp").read_text().splitlines())


OPENAPI = b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"


def sent(tls, data):
    """As much of it as the other side takes."""
    with contextlib.suppress(OSError):
        tls.sendall(data)


def said(tls):
    """All that comes until the connection is closed."""
    answer = b""
    try:
        while more := tls.recv(65536):
            answer += more
    except OSError:
        pass
    return answer


def test_answers_that_nobody_reads_are_dropped_in_time_and_hold_up_nobody(box, alice):
    """Would have caught: a connection that stays for ever, because closing it waits for its peer to read.

    Each asks for 20 MB of answers: more than the kernel takes in for them.
    """
    silent = [connect(box, SO_RCVBUF=4096) for _ in range(10)]
    writers = [threading.Thread(target=sent, args=(tls, OPENAPI * 600)) for tls in silent]
    try:
        for thread in writers:
            thread.start()
        took, end = [], time.monotonic() + 45
        while box.log().count("event=http.client-gone") < len(silent):
            begin = time.monotonic()
            assert alice.get("/v1/sessions").status_code == 200
            took.append(time.monotonic() - begin)
            assert begin < end, box.log()[-1500:]
        assert sorted(took)[len(took) * 95 // 100] < 1.0, max(took)
        while open_here := [tls for tls in silent if served(box, tls)]:
            assert time.monotonic() < end, f"{len(open_here)} connections wait for a peer that does not read"
            time.sleep(0.1)
    finally:
        for tls in silent:
            tls.close()
        for thread in writers:
            thread.join(20)
    assert "http.bug" not in box.log()


@pytest.mark.parametrize(
    "request_",
    [
        b"Content-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        b"Content-Length: 0\r\nContent-Length: 60\r\n\r\n",
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding:\x0bchunked\r\nContent-Length: 0\r\n\r\n",
        b"X: y\nContent-Length: 0\r\n\r\n",
        b"X: y\r\n Content-Length: 60\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5;x=\r\nhello\r\n0\r\nContent-Length: 60\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
    ],
    ids=range(10),
)
def test_no_request_can_be_hidden_in_another(box, request_):
    """A proxy that reads the first as longer or shorter than we do must not let a stranger's second one through.

    Would have caught: two answers to what is one request for every proxy that follows RFC 9112 section 6.
    """
    token = box.login("bob")["token"].encode()
    hidden = b"DELETE /v1/sessions/current HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + token + b"\r\n\r\n"
    with connect(box) as tls:
        tls.sendall(b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\n" + request_ + hidden)
        tls.settimeout(6)
        answer = said(tls)
    assert answer.count(b"HTTP/1.1 ") <= 1, answer
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
    with box.client(token.decode()) as bob:
        assert bob.get("/v1/ticket").status_code == 200, f"the hidden request was carried out: {answer}"


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b" ",
        b"\xff\xfe\x80",
        "\u00e5lice".encode(),
        b"a b",
        b"A" * 1_000_000,
        b"\t",
        b"=" * 43,
        b"A" * 43 + b"\xc2\xa0",
    ],
    ids=range(9),
)
def test_tokens_as_bytes(box, token):
    """Empty, not ASCII, a megabyte: what a client library would not send."""
    with connect(box) as tls:
        sent(tls, b"GET /v1/ticket HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer ")
        sent(tls, token + b"\r\n\r\n")
        answer = said(tls)
    status = int(answer.split(b" ", 2)[1]) if answer else None
    wanted = {431, None} if len(token) > 32768 else {401, 400}
    assert status in wanted, answer[:300]


def test_a_session_token_of_somebody_who_logged_out_and_one_of_another_service(box):
    """The same random bits in another place, or after their time."""
    made = box.login("bob")
    with box.client(made["token"]) as bob:
        assert bob.delete("/v1/sessions/current").status_code == 204
        assert bob.get("/v1/ticket").json()["code"] == "not-authenticated"
    with box.client(made["session_id"]) as listed:
        assert listed.get("/v1/ticket").status_code == 401, "the id that lists show is no token"


def test_headers_of_answers_cannot_be_written_by_callers(box, alice):
    """Would have caught: a CR LF in a name, a path or an id that begins a header of the answer."""
    for path in ("/v1/jobs/1%0d%0aSet-Cookie:%20x=1", "/v1/files?path=/home/%0d%0aX-Evil:%201", "/%0d%0aX-Evil:%201"):
        answer = alice.get(path, headers={"X-Request-Id": "aaaaaaaa%0d%0aX-Evil"})
        assert 400 <= answer.status_code < 500, answer.text
        assert not {"x-evil", "set-cookie"} & {name.lower() for name in answer.headers}, dict(answer.headers)


def refused(box):
    """How many connections got no place because their address holds all it may, as the operator's numbers say."""
    shown = httpx.get(f"http://127.0.0.1:{box.metrics_port}/metrics", trust_env=False).text
    rows = [line for line in shown.splitlines() if line.startswith("hipercow_slurm_api_connections_refused_total")]
    return sum(float(line.split()[-1]) for line in rows if 'full="address"' in line)


def test_an_address_that_opens_connections_and_says_nothing_keeps_out_only_itself(box, alice):
    """Would have caught: 1000 silent TCP connections, none of which was counted, as uvloop tells of a connection only
    when its handshake is over; they stayed for a minute, and with a handshake took everybody's places."""
    before = refused(box)
    with contextlib.ExitStack() as stack:
        for _ in range(400):
            one = stack.enter_context(socket.socket())
            one.settimeout(10)
            one.connect(("127.0.0.1", box.port))
        begin = time.monotonic()
        assert alice.get("/v1/sessions").status_code == 200, "who is served already goes on"
        there = httpx.HTTPTransport(verify=box.certificate.client(), local_address="127.0.0.2")
        with httpx.Client(base_url=box.url, transport=there) as client:
            assert client.get("/v1/ready").status_code == 200
        assert time.monotonic() - begin < 2
        assert refused(box) - before >= 190
        end = time.monotonic() + 15  # [limits] request_headers_s is 2 here
        while True:
            with contextlib.suppress(httpx.TransportError), box.client() as client:
                if client.get("/v1/ready").status_code == 200:
                    break
            assert time.monotonic() < end, "handshakes that never end keep their places"
            time.sleep(0.1)


def test_a_user_who_sends_a_hundred_requests_at_once_is_served_and_so_are_others(box, alice):
    """Would have caught: bob's submission at the end of a line of hundreds of alice's, until it was too late for it
    ([slurm] timeout_s is 2 here): 503 for bob, and for most of alice's."""
    jobs = {"jobs": [{"script": "#!/bin/sh\n", "time_limit_min": 1}] * 5}
    limits, headers = httpx.Limits(max_connections=100), alice.headers
    with (
        httpx.Client(base_url=box.url, verify=box.certificate.client(), limits=limits, timeout=60) as crowd,
        box.as_user("bob") as bob,
        ThreadPoolExecutor(100) as threads,
    ):
        assert bob.post("/v1/jobs", json=jobs["jobs"][0]).status_code == 201
        box.slurm.slow_s = 0.25
        try:
            asked = [threads.submit(crowd.post, "/v1/jobs:bulk", json=jobs, headers=headers) for _ in range(100)]
            time.sleep(1)
            took = []
            for _ in range(5):
                begin = time.monotonic()
                assert bob.post("/v1/jobs", json=jobs["jobs"][0]).status_code == 201
                took.append(time.monotonic() - begin)
            answers = [one.result() for one in asked]
        finally:
            box.slurm.slow_s = 0.0
    assert sorted(took)[2] < 1.1, took
    assert {answer.status_code for answer in answers} == {200}, [answer.text for answer in answers]
    each = [row["status"] for answer in answers for row in answer.json()["results"]]
    assert each == [201] * 500, f"{500 - each.count(201)} of alice's were given up"
