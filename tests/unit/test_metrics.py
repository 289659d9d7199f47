"""The listener of /metrics and /health on real sockets, and the cache's numbers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hipercow_slurm import metrics
from hipercow_slurm.auksd.metrics import AuksdMetrics
from hipercow_slurm.errors import ConfigError
from hipercow_slurm.metrics import Check, Listener, Settings

GOOD = {"kdc": Check(True, "answered 2 s ago"), "store": Check(True, "17 credentials")}


class Daemon:
    """A registry, a health function and a listener with short deadlines."""

    def __init__(self) -> None:
        self.registry = metrics.registry("auksd")
        self.health: Mapping[str, Check] | Exception = GOOD
        self.delay_s = 0.0
        self.scrapes = 0
        settings = Settings(listen="0", timeout_s=0.3, connections=3)
        self.listener = Listener(settings, self.registry, self._health, before_scrape=self._before)
        self.address = ("", 0)

    async def _health(self) -> Mapping[str, Check]:
        await asyncio.sleep(self.delay_s)
        if isinstance(self.health, Exception):
            raise self.health
        return self.health

    async def _before(self) -> None:
        self.scrapes += 1

    async def ask(self, request: bytes) -> tuple[int, bytes, bytes]:
        """Status, head and body of the answer; status 0 if there was none."""
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(request)
        try:
            answer = await asyncio.wait_for(reader.read(), 3)
        except ConnectionResetError:
            answer = b""
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]) if head else 0, head, body

    async def get(self, path: str) -> tuple[int, bytes]:
        status, _, body = await self.ask(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return status, body


@pytest.fixture
async def daemon() -> AsyncIterator[Daemon]:
    made = Daemon()
    address = await made.listener.start()
    assert address is not None
    made.address = address
    yield made
    await made.listener.aclose()


def numbers(registry_text: str) -> dict[str, float]:
    """``name{label=value,...}`` -> value, read by Prometheus' own parser."""
    found = {}
    for family in text_string_to_metric_families(registry_text):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


async def test_it_listens_on_this_machine_only(daemon: Daemon) -> None:
    assert daemon.address[0] == "127.0.0.1" and daemon.address[1] > 0


async def test_metrics_are_what_prometheus_reads(daemon: Daemon) -> None:
    AuksdMetrics(daemon.registry).request("get", "node", "ok")
    status, body = await daemon.get("/metrics")
    found = numbers(body.decode())
    assert status == 200 and daemon.scrapes == 1
    assert found["hipercow_slurm_auksd_requests_total{result=ok,role=node,verb=get}"] == 1
    assert found["process_resident_memory_bytes{}"] > 0
    assert any(name.startswith("hipercow_slurm_build_info{program=auksd") for name in found), found
    assert not [name for name in found if "_created" in name]


async def test_health_tells_what_is_wrong_and_why(daemon: Daemon) -> None:
    assert json.loads((await daemon.get("/health"))[1]) == {
        "status": "ok",
        "checks": {"kdc": {"ok": True, "why": "answered 2 s ago"}, "store": {"ok": True, "why": "17 credentials"}},
    }
    daemon.health = GOOD | {"kdc": Check(False, "no answer since 03:12")}
    status, body = await daemon.get("/health?verbose")
    assert status == 503 and json.loads(body)["status"] == "degraded"
    assert json.loads(body)["checks"]["kdc"] == {"ok": False, "why": "no answer since 03:12"}


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics/../health HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"GET metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/2.0\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 400),
        (b"x" * 100_000, 400),
    ],
)
async def test_nothing_else_is_served(daemon: Daemon, request_: bytes, status: int) -> None:
    got, head, body = await daemon.ask(request_)
    assert got == status, (head, body)
    assert f"Content-Length: {len(body)}".encode() in head and daemon.scrapes == 0


async def test_a_silent_connection_is_dropped_at_the_deadline(daemon: Daemon) -> None:
    began = time.monotonic()
    assert await daemon.ask(b"GET /metrics HTTP/1.1\r\n") == (0, b"", b"")
    assert 0.25 < time.monotonic() - began < 1.5


async def test_who_does_not_take_the_answer_is_dropped_too(daemon: Daemon) -> None:
    reader, writer = await asyncio.open_connection(*daemon.address)
    writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(0.6)  # and now it holds the connection open
    assert not daemon.listener._open, "a lingering scraper keeps its connection"
    writer.close()


async def test_silent_connections_over_the_cap_cost_nothing(daemon: Daemon) -> None:
    held = [await asyncio.open_connection(*daemon.address) for _ in range(3)]
    await asyncio.sleep(0.05)
    assert (await daemon.get("/health"))[0] == 0, "the cap is 3"
    await asyncio.sleep(0.4)
    assert (await daemon.get("/health"))[0] == 200, "their deadline has passed"
    for _, writer in held:
        writer.close()


async def test_a_health_check_that_hangs_or_fails_is_an_answer(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.delay_s = 10
    assert (await daemon.get("/health"))[0] == 503
    daemon.delay_s, daemon.health = 0, KeyError("secret detail")
    status, body = await daemon.get("/health")
    assert status == 500 and b"secret" not in body
    daemon.health = GOOD
    assert (await daemon.get("/health"))[0] == 200


async def test_without_an_address_there_is_no_listener(daemon: Daemon) -> None:
    listener = Listener(Settings(), daemon.registry, daemon._health)
    assert await listener.start() is None
    await listener.aclose()


@pytest.mark.parametrize("listen", ["head:9811", "127.0.0.1:70000", "127.0.0.1:x", "127.0.0.1", "", ":"])
def test_a_wrong_address_is_said_at_start(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.listen"):
        Settings(listen=listen).address()


async def test_a_taken_address_is_said_at_start(daemon: Daemon) -> None:
    settings = Settings(listen=f"127.0.0.1:{daemon.address[1]}")
    with pytest.raises(ConfigError, match="cannot listen"):
        await Listener(settings, daemon.registry, daemon._health).start()


def test_tickets_are_counted_by_time_to_expiry() -> None:
    registry = CollectorRegistry()
    auksd = AuksdMetrics(registry)
    now = 1_000_000
    auksd.count_tickets([now - 5, now, now + 30, now + 60, now + 301, 0xFFFFFFFF], now)
    found = numbers(generate_latest(registry).decode())
    bucket = "hipercow_slurm_auksd_ticket_left_seconds_bucket{le=%s}"
    assert [found[bucket % le] for le in ("0", "60", "300", "900", "86400", "+Inf")] == [2, 4, 4, 5, 5, 6]
    auksd.count_tickets([], now)
    assert numbers(generate_latest(registry).decode())[bucket % "+Inf"] == 0


def test_no_peer_can_make_a_label() -> None:
    """A label's every value is kept for ever: hostile ones would be a leak of memory."""
    registry = CollectorRegistry()
    auksd = AuksdMetrics(registry)
    for number in range(50):
        auksd.request(f"verb{number}", f"role{number}", f"result{number}")
        auksd.renewal(f"r{number}")
    auksd.request("get", None, "refused")
    found = {name: value for name, value in numbers(generate_latest(registry).decode()).items() if "_total" in name}
    assert found["hipercow_slurm_auksd_requests_total{result=other,role=other,verb=other}"] == 50
    assert found["hipercow_slurm_auksd_requests_total{result=refused,role=none,verb=get}"] == 1
    assert found["hipercow_slurm_auksd_renewals_total{result=other}"] == 50
    assert len(found) == 6, found


def test_kdc_latency_is_a_histogram() -> None:
    registry = CollectorRegistry()
    auksd = AuksdMetrics(registry)
    auksd.kdc(0.03, ok=True)
    auksd.kdc(9.5, ok=False)
    auksd.oldest_due.set(12)
    found = numbers(generate_latest(registry).decode())
    assert found["hipercow_slurm_auksd_kdc_seconds_bucket{le=0.05,result=ok}"] == 1
    assert found["hipercow_slurm_auksd_kdc_seconds_sum{result=failed}"] == 9.5
    assert found["hipercow_slurm_auksd_oldest_due_seconds{}"] == 12
