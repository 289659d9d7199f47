"""What a daemon shows to an operator's monitoring: ``GET /metrics`` (Prometheus) and ``GET /health`` (JSON).

Nothing else is served, nothing is read but one request of at most 8 KiB within a deadline, and nobody but this
machine is listened to unless the site says so. Numbers and sentences only: no principal is ever a label, both because
it is nobody's business and because every label value is kept for ever.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec
from prometheus_client import CollectorRegistry, Info, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from hipercow_slurm import __version__, log
from hipercow_slurm.errors import ConfigError

MAX_REQUEST = 8192

_REQUEST = re.compile(rb"([A-Z]{1,16}) (/[!-~]{0,2000}) HTTP/1\.[01]\r\n")
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ``[metrics]`` table of a configuration file.

    Attributes:
        listen: ``PORT`` (on 127.0.0.1) or ``ADDRESS:PORT``, port 0 for any that is free; None: no listener.
        timeout_s: for reading the request, for making the answer, and for its being taken, each.
    """

    listen: str | None = None
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=300)] = 5.0
    connections: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 16

    def address(self) -> tuple[str, int] | None:
        """``listen`` as host and port.

        Raises:
            ConfigError: it is no address and port.
        """
        if self.listen is None:
            return None
        host, _, port = self.listen.rpartition(":")
        try:
            if not 0 <= int(port) <= 65535:
                raise ValueError("no such port")
            return str(ipaddress.ip_address(host.strip("[]") or "127.0.0.1")), int(port)
        except ValueError as error:
            raise ConfigError(f"metrics.listen = {self.listen!r} is not an IP address and port: {error}") from error


@dataclass(frozen=True, slots=True)
class Check:
    """One thing the daemon needs: well or not, and why, in a sentence."""

    ok: bool
    why: str


Health = Callable[[], Awaitable[Mapping[str, Check]]]


def registry(program: str) -> CollectorRegistry:
    """A registry of its own with the program's version and its process's memory, CPU and descriptors."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a second line for each number, which nobody graphs
    made = CollectorRegistry()
    ProcessCollector(registry=made)
    Info("hipercow_slurm_build", "The program and its version.", registry=made).info(
        {"program": program, "version": __version__}
    )
    return made


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"

    def bytes(self) -> bytes:
        head = (
            f"HTTP/1.1 {self.status} {_REASONS[self.status]}\r\nContent-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
        )
        return head.encode("ascii") + self.body


class Listener:
    """Serves a registry and a health function.

    Args:
        health: what ``/health`` shows: 200 if every check is ok, else 503.
        before_scrape: awaited before each ``/metrics``, for numbers that are counted only when somebody looks.
    """

    def __init__(
        self,
        settings: Settings,
        shown: CollectorRegistry,
        health: Health,
        *,
        before_scrape: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._settings = settings
        self._shown = shown
        self._health = health
        self._before_scrape = before_scrape
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> tuple[str, int] | None:
        """Listen; returns the address, or None if the configuration wants no listener.

        Raises:
            ConfigError: the address cannot be used.
        """
        address = self._settings.address()
        if address is None:
            return None
        try:
            self._server = await asyncio.start_server(self._accept, *address, limit=MAX_REQUEST)
        except OSError as error:
            raise ConfigError(f"cannot listen on metrics.listen = {self._settings.listen}: {error}") from error
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    async def aclose(self) -> None:
        """Stop listening and drop who is connected."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            if len(self._open) <= self._settings.connections:
                await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # a scraper that went away or dawdles is nobody's worry
        finally:
            self._open.discard(task)
            writer.transport.abort()  # whatever was to be sent has been, or its time is over

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        timeout_s = self._settings.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                request = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            answer = _Answer(400, b"the request is too long\n")
        else:
            answer = await self._answer(request)
        async with asyncio.timeout(timeout_s):
            writer.write(answer.bytes())
            await writer.drain()
            writer.write_eof()
            # Wait for the peer to close: an abort before it has read would take the answer away from it.
            while await reader.read(4096):
                pass

    async def _answer(self, request: bytes) -> _Answer:
        match = _REQUEST.match(request)
        if match is None:
            return _Answer(400, b"not an HTTP/1 request\n")
        path = match[2].partition(b"?")[0]
        make = {b"/metrics": self._metrics, b"/health": self._healthy}.get(path)
        if make is None:
            return _Answer(404, b"here are /metrics and /health\n")
        if match[1] != b"GET":
            return _Answer(405, b"GET only\n")
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                return await make()
        except TimeoutError:
            return _Answer(503, b"no answer in time\n")
        except Exception:
            log.get().exception("metrics.bug", path=path.decode())
            return _Answer(500, b"a bug; see the log\n")

    async def _metrics(self) -> _Answer:
        if self._before_scrape is not None:
            await self._before_scrape()
        return _Answer(200, generate_latest(self._shown), CONTENT_TYPE_PLAIN_0_0_4)

    async def _healthy(self) -> _Answer:
        checks = await self._health()
        well = all(check.ok for check in checks.values())
        shown = {
            "status": "ok" if well else "degraded",
            "checks": {name: {"ok": check.ok, "why": check.why} for name, check in checks.items()},
        }
        return _Answer(200 if well else 503, json.dumps(shown).encode() + b"\n", "application/json")
