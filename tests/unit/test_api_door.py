"""Places for connections: one address cannot take them all, not even with handshakes that it never ends."""

import asyncio
import json
import socket
import time

import pytest
from starlette.responses import Response

from api_parts import configuration, make_certificate, serving
from hipercow_slurm.api.config import Limits
from hipercow_slurm.api.door import Places

REQUEST = b"GET /v1/health HTTP/1.1\r\nHost: localhost\r\n\r\n"
HERE, THERE = "127.0.0.1", "127.0.0.2"


async def fine(scope, receive, send):
    await Response("fine")(scope, receive, send)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"))


async def connect(url, certificate, address=HERE, *, tls=True):
    host, port = url.removeprefix("https://").split(":")
    ssl = certificate.client() if tls else None
    return await asyncio.open_connection(host, int(port), ssl=ssl, local_addr=(address, 0))


async def answer(url, certificate, address):
    """Status and body of what one request from there is answered with."""
    reader, writer = await connect(url, certificate, address)
    writer.write(REQUEST)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    length = next(int(line.split()[1]) for line in head.lower().splitlines() if line.startswith(b"content-length"))
    body = await reader.readexactly(length)
    writer.close()
    return int(head.split()[1]), body


@pytest.mark.parametrize("tls", [True, False], ids=["idle", "without a handshake"])
async def test_one_address_cannot_take_all_places(certificate, tmp_path, tls):
    """Would have caught: [limits] connections held by one peer; and, of connections that never begin TLS, none counted
    at all, for a minute each."""
    limits = Limits(request_headers_s=30, connections=100, connections_per_address=5)
    async with serving(fine, configuration(certificate, tmp_path, limits=limits)) as url:
        held = [await connect(url, certificate, tls=tls) for _ in range(5)]
        await asyncio.sleep(0.2)
        status, body = await answer(url, certificate, HERE)
        problem = json.loads(body)
        assert (status, problem["code"]) == (429, "too-many-from-address") and problem["hint"]
        assert await answer(url, certificate, THERE) == (200, b"fine")
        for _, writer in held:
            writer.close()
        await asyncio.sleep(0.3)
        assert await answer(url, certificate, HERE) == (200, b"fine")


async def test_a_handshake_that_does_not_end_is_cut_off_in_time(certificate, tmp_path):
    """Would have caught: a place held for a minute, which is the event loop's own patience."""
    limits = Limits(request_headers_s=0.5, connections_per_address=3)
    async with serving(fine, configuration(certificate, tmp_path, limits=limits)) as url:
        begin = time.monotonic()
        held = [await connect(url, certificate, tls=False) for _ in range(3)]
        held[0][1].write(b"\x16\x03\x01\x02\x00\x01")  # a ClientHello that begins
        for reader, _ in held:
            try:
                assert await asyncio.wait_for(reader.read(), 5) == b""
            except ConnectionError:
                pass
        assert time.monotonic() - begin < 3
        assert await answer(url, certificate, HERE) == (200, b"fine")


async def test_of_a_crowd_without_places_few_are_told_and_all_leave_nothing_behind(certificate, tmp_path):
    """Would have caught: refusals that cost a handshake each, and places that are never given back."""
    limits = Limits(request_headers_s=2, connections=20, connections_per_address=5)
    async with serving(fine, configuration(certificate, tmp_path, limits=limits)) as url:
        host, port = url.removeprefix("https://").split(":")
        crowd = []
        for _ in range(200):
            one = socket.create_connection((host, int(port)), timeout=5, source_address=(HERE, 0))
            crowd.append(one)
        await asyncio.sleep(0.5)
        closed = 0
        for one in crowd:
            one.setblocking(False)
            try:
                closed += one.recv(1) == b""
            except BlockingIOError:
                pass
            except ConnectionError:
                closed += 1
        assert closed >= 190, closed
        assert await answer(url, certificate, THERE) == (200, b"fine")
        for one in crowd:
            one.close()
        await asyncio.sleep(0.3)
        assert await answer(url, certificate, HERE) == (200, b"fine")


def test_places_are_counted_by_network_and_given_back():
    """Would have caught: an IPv6 customer with a place for each of 2**64 addresses; memory kept of who is gone."""
    refused = []
    places = Places(4, 2, lambda full, told: refused.append((full, told)))
    first = [places.enter(f"2001:db8::{number}") for number in range(8)]
    assert [one and one.full for one in first] == [None, None, *["address"] * 4, None, None]
    others = [places.enter(f"192.0.2.{number}") for number in range(3)]
    assert [one and one.full for one in others] == [None, None, "all"]
    assert refused == [("address", True)] * 4 + [("address", False)] * 2 + [("all", True)]
    for one in (*first, *others):
        if one is not None:
            places.leave(one)
            places.leave(one)
    assert len(places) == 0 and not places._here and not places._told_here
    assert places.enter("::ffff:192.0.2.1").network == "192.0.2.1"


def filled(places, addresses):
    """How many places each of them gets who all ask for one after the other, until nobody gets any more."""
    got = dict.fromkeys(addresses, 0)
    wanting = list(addresses)
    while wanting:
        for address in list(wanting):
            place = places.enter(address)
            if place is None or place.full:
                wanting.remove(address)
            else:
                got[address] += 1
    return list(got.values())


@pytest.mark.parametrize(
    ("addresses", "each"), [(1, 600), (2, 375), (10, 94), (300, 4)], ids=["one", "two", "ten", "many"]
)
def test_several_addresses_together_leave_places_for_others(addresses, each):
    """Would have caught: two addresses with 500 connections each, and nobody else gets in."""
    places = Places(1000, 600)
    crowd = [f"192.0.{number // 250}.{number % 250}" for number in range(addresses)]
    got = filled(places, crowd)
    assert each - 1 <= min(got) and max(got) <= each, got
    assert len(places) < 1000 and places.enter("198.51.100.1").full is None


def test_one_after_the_other_they_leave_places_for_others_too():
    """Would have caught: shares that hold only where all come at once."""
    places = Places(1000, 600)
    got = [filled(places, [f"192.0.2.{number}"])[0] for number in range(7)]
    assert got == [600, 240, 96, 39, 15, 6, 3], got
    assert len(places) < 1000 and places.enter("198.51.100.1").full is None


@pytest.mark.parametrize("per_address", [50, 80], ids=["all of them", "more than there are"])
def test_behind_a_proxy_one_address_may_have_all(per_address):
    """Would have caught: a division by nothing, or a proxy that is held to a share."""
    places = Places(50, per_address)
    assert filled(places, ["192.0.2.1"]) == [50]
    assert places.enter("192.0.2.1").full == ("address" if per_address == 50 else "all")
    assert places.enter("192.0.2.2").full == "all"


def test_telling_is_bounded_for_all_together():
    """Would have caught: a hundred addresses that keep every core busy with handshakes for refusals."""
    places = Places(1, 1)
    places.enter("192.0.2.1")
    told = [places.enter(f"198.51.100.{number}") for number in range(100)]
    assert sum(one is not None for one in told) == 32 and not places._here.get("198.51.100.99")
