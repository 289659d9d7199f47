"""The TLS listener stands what strangers do to it: silence, floods of headers, garbage, plain HTTP."""

import asyncio
import json
import ssl
import time

import pytest
from starlette.responses import Response

from api_parts import configuration, make_certificate, serving
from hipercow_slurm.api import server
from hipercow_slurm.api.config import Limits
from hipercow_slurm.errors import ConfigError

LIMITS = Limits(request_headers_s=0.4, connections=20)


async def echo(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await Response("fine")(scope, receive, send)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
async def url(certificate, tmp_path):
    async with serving(echo, configuration(certificate, tmp_path, limits=LIMITS)) as url:
        yield url


async def connect(url, certificate):
    host, port = url.removeprefix("https://").split(":")
    return await asyncio.open_connection(host, int(port), ssl=certificate.client())


async def answer_to(url, certificate, data: bytes) -> tuple[int, dict]:
    """Everything the server says to these bytes, until it closes: the status and the problem."""
    reader, writer = await connect(url, certificate)
    writer.write(data)
    said = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    head, _, body = said.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, said
    return int(head.split()[1]), json.loads(body)


REQUEST = b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def test_a_request_is_answered_and_the_connection_kept(url, certificate):
    reader, writer = await connect(url, certificate)
    for _ in range(3):
        writer.write(REQUEST)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(b"HTTP/1.1 200"), head
        assert b"server:" not in head.lower(), "the answer names the software"
        assert await reader.readexactly(4) == b"fine"
    writer.close()


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX: ", b"\r\n\r\n"])
async def test_headers_that_never_end_are_cut_off_in_time(url, certificate, begun):
    begin = time.monotonic()
    status, problem = await answer_to(url, certificate, begun)
    assert (status, problem["code"]) == (408, "request-timeout")
    assert time.monotonic() - begin < 3


async def test_dripping_does_not_move_the_deadline(url, certificate):
    reader, writer = await connect(url, certificate)
    begin = time.monotonic()
    writer.write(b"GET / HTTP/1.1\r\n")
    with pytest.raises((ConnectionError, asyncio.TimeoutError, ssl.SSLError, AssertionError)):
        while True:
            writer.write(b"X-A: b\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)
            assert not reader.at_eof()
    assert time.monotonic() - begin < 3
    writer.close()


async def test_the_second_request_has_the_same_deadline(url, certificate):
    reader, writer = await connect(url, certificate)
    writer.write(REQUEST)
    await reader.readuntil(b"fine")
    writer.write(b"GET / HTTP/1.1\r\nX: ")
    said = await asyncio.wait_for(reader.read(), 5)
    assert b" 408 " in said, said
    writer.close()


async def test_only_a_body_that_has_come_needs_no_deadline(certificate, tmp_path):
    """The mark must not be there early: who sees it waits for the body as long as it takes."""
    whole: asyncio.Queue[bool] = asyncio.Queue()

    async def app(scope, receive, send):
        whole.put_nowait(scope.get("hipercow.whole", False))
        await echo(scope, receive, send)

    begun = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n"
    async with serving(app, configuration(certificate, tmp_path, limits=LIMITS)) as url:
        reader, writer = await connect(url, certificate)
        for first, rest in ((begun + b"body", b""), (begun, b"body"), (begun + b"bo", b"dy")):
            writer.write(first)
            assert await asyncio.wait_for(whole.get(), 5) == (not rest), (first, rest)
            writer.write(rest)
            assert await asyncio.wait_for(reader.readuntil(b"fine"), 5)
        writer.close()


async def test_a_flood_of_headers_is_refused(url, certificate):
    flood = b"GET / HTTP/1.1\r\n" + b"X-Header: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 2000
    assert (await answer_to(url, certificate, flood))[1]["code"] == "headers-too-large"
    assert (await answer_to(url, certificate, b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000))[0] == 431


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_not_http_is_a_400_and_the_service_goes_on(url, certificate, garbage):
    status, problem = await answer_to(url, certificate, garbage)
    assert status == 400 and problem["code"] == "bad-request", problem
    await test_a_request_is_answered_and_the_connection_kept(url, certificate)


async def test_plain_http_is_not_answered(url):
    host, port = url.removeprefix("https://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(REQUEST)
    try:
        said = await asyncio.wait_for(reader.read(), 5)
    except ConnectionError:
        said = b""
    assert b"HTTP/" not in said, said
    writer.close()


async def test_old_tls_is_refused(url, certificate):
    old = certificate.client()
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    host, port = url.removeprefix("https://").split(":")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(host, int(port), ssl=old)


async def test_too_many_connections_are_told_so(certificate, tmp_path):
    patient = Limits(request_headers_s=30, connections=20)  # the first must still be there when the last has come
    async with serving(echo, configuration(certificate, tmp_path, limits=patient)) as url:
        held = [await connect(url, certificate) for _ in range(patient.connections)]
        status, problem = await answer_to(url, certificate, b"")
        assert (status, problem["code"]) == (503, "too-many-connections")
        for _, writer in held:
            writer.close()
        await asyncio.sleep(0.1)
        await test_a_request_is_answered_and_the_connection_kept(url, certificate)


async def test_a_port_that_is_taken_and_a_wrong_key_are_said(certificate, tmp_path):
    conf = configuration(certificate, tmp_path)
    async with serving(echo, conf):
        with pytest.raises(ConfigError, match="cannot listen"):
            async with serving(echo, conf):
                pass
    with pytest.raises(ConfigError, match="cannot use certificate"):
        server.tls_context(str(certificate.certificate), str(tmp_path / "missing"))
