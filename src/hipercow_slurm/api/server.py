"""The TLS listener: uvicorn (uvloop, httptools) with the limits it does not have by itself.

Rule 1: there is no plain HTTP. Rule 2: a connection that does not finish its headers in time, or that sends too
many, is closed; who has no place (``door.py``) is told so and closed. Rule 3: the refusals of this layer are
problem+json as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
from collections.abc import Callable
from typing import cast

import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hipercow_slurm import log
from hipercow_slurm.api import config, problems
from hipercow_slurm.api.config import Config, Limits
from hipercow_slurm.api.door import Full, Listener, Place, Places, Refused
from hipercow_slurm.api.one_write import OneWrite
from hipercow_slurm.errors import ConfigError

OP_CLEANSE_PLAINTEXT = 1 << 1  # <openssl/ssl.h>, 3.0 and newer; Python has no name for it
HEADER_BYTES = 32 * 1024
_TOO_LARGE = "where it is a Negotiate token with a large ticket: upload the ticket instead (POST /v1/sessions)"
_TOO_MANY: dict[Full, tuple[int, str, str, str | None]] = {
    "all": (503, "too-many-connections", "the service has too many connections at this moment", None),
    "address": (
        429,
        "too-many-from-address",
        "your address holds as many connections as one may",
        "keep a connection for several requests; many people behind one address: [limits] connections_per_address",
    ),
}
_BACKLOG = 512
_SHUTDOWN_S = 5
_LINGER_S = 2.0


async def serve(
    app: ASGIApp,
    conf: Config,
    tls: ssl.SSLContext,
    stop: asyncio.Event,
    started: asyncio.Event,
    refused: Refused = lambda full, told: None,
) -> None:
    """Answer requests until ``stop``; what is being answered then has five seconds.

    ``refused`` hears of connections for which there was no place (``door.Places``).

    Raises:
        ConfigError: the address cannot be listened on.
    """
    with contextlib.suppress(ValueError, OSError):  # one descriptor per connection; the soft limit is often 1024
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    listening = listen(conf.api.listen, shared=conf.api.processes > 1)
    settings = uvicorn.Config(
        app,
        http=protocol(conf.limits),
        ws="none",
        lifespan="off",
        loop="none",
        backlog=_BACKLOG,
        timeout_keep_alive=int(conf.limits.idle_s),
        timeout_graceful_shutdown=_SHUTDOWN_S,
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )
    settings.load()
    limits = conf.limits
    places = Places(limits.connections, limits.connections_per_address, refused)
    log.get().info("api.listens", address=listening.getsockname()[0], port=listening.getsockname()[1])
    server = Listener(settings, places, tls, handshake_s=limits.request_headers_s, listening=started)
    running = asyncio.create_task(server.serve([listening]))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await running
    finally:
        stopping.cancel()


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """TLS 1.2 and newer.

    Raises:
        ConfigError: the files are missing, unreadable, or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    # Without it OpenSSL leaves what it deciphered in its record buffers, and passwords were found there for good.
    context.options |= OP_CLEANSE_PLAINTEXT
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot use certificate {certificate} with key {key}: {error}") from error
    return context


def reload_tls(tls: ssl.SSLContext, conf: Config) -> bool:
    """Take the certificate and key from their files again, for connections that begin from now on.

    Files that cannot be used change nothing: the log says so, and the answer is False.
    """
    try:
        tls_context(conf.api.certificate, conf.api.key)  # a context that fails half way has a key without certificate
        tls.load_cert_chain(conf.api.certificate, conf.api.key)
    except (ConfigError, OSError, ssl.SSLError) as error:
        log.get().error("api.certificate-kept", why=str(error))
        return False
    log.get().info("api.certificate-reloaded", certificate=conf.api.certificate)
    return True


def listen(where: str, *, shared: bool = False) -> socket.socket:
    """A listening socket; ``shared``: with other processes of ours.

    Raises:
        ConfigError: as ``bound``.
    """
    sock = bound(where, shared=shared)
    try:
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot listen on {where}: {error.strerror or error}") from error
    sock.setblocking(False)
    return sock


def bound(where: str, *, shared: bool = False) -> socket.socket:
    """A socket that has this address.

    Raises:
        ConfigError: the address is taken, not ours, or not an address.
    """
    host, port = config.address(where)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot listen on {where}: {error.strerror or error}") from error
    return sock


def protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """uvicorn's connection class with our limits."""

    class Guarded(HttpToolsProtocol):
        """One connection."""

        head_bytes = 0
        in_head = True
        head_timer: asyncio.TimerHandle | None = None
        answers: OneWrite
        place: Place
        left: Callable[[], None]

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.answers = OneWrite(transport, self.loop)
            self.transport = cast(asyncio.Transport, self.answers)
            if self.place.full is None:
                self.start_timer()
            else:
                self.refuse(*_TOO_MANY[self.place.full])

        def connection_lost(self, exc: Exception | None) -> None:
            self.stop_timer()
            self.left()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            if self.in_head:
                self.head_bytes += len(data)
            super().data_received(data)
            if self.in_head and self.head_bytes > HEADER_BYTES:
                self.refuse(431, "headers-too-large", "the request's headers are too large", _TOO_LARGE)
            elif self.in_head and self.head_bytes:  # most come in one piece, and there is nothing to wait for
                self.start_timer()

        def on_message_begin(self) -> None:
            super().on_message_begin()
            # Closing waits until the peer has taken what is on its way, and who takes nothing would be waited for.
            self.scope["hipercow.abort"] = self.transport.abort  # type: ignore[typeddict-unknown-key]
            self.scope["hipercow.flow"] = self.flow  # type: ignore[typeddict-unknown-key]

        def on_headers_complete(self) -> None:
            self.stop_timer()
            self.in_head = False
            self.answers.expecting = True
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self.in_head, self.head_bytes = True, 0
            self.scope["hipercow.whole"] = True  # type: ignore[typeddict-unknown-key]
            super().on_message_complete()

        def on_response_complete(self) -> None:
            unread = self.cycle.response_complete and self.cycle.more_body
            super().on_response_complete()
            if unread:  # answered before the end of the body: what still comes is read for a moment, and dropped
                self.loop.call_later(_LINGER_S, self.hang_up, self.cycle)

        def hang_up(self, cycle: object) -> None:
            """The body that nobody wants still comes: enough."""
            if self.cycle is cycle and not self.in_head:
                self.transport.abort()

        def send_400_response(self, msg: str) -> None:
            self.refuse(400, "bad-request", "this is not an HTTP request")

        def start_timer(self) -> None:
            """The headers that have begun, or that a new connection promises, have their time."""
            if self.head_timer is None:
                self.head_timer = self.loop.call_later(
                    limits.request_headers_s, self.refuse, 408, "request-timeout", "the headers came too slowly"
                )

        def stop_timer(self) -> None:
            if self.head_timer is not None:
                self.head_timer.cancel()
                self.head_timer = None

        def refuse(self, status: int, code: str, detail: str, hint: str | None = None) -> None:
            """Say why, and close."""
            self.stop_timer()
            if self.transport.is_closing():
                return
            if not self.answering():
                self.transport.write(_answer(status, code, detail, hint))
            self.transport.close()
            # Closing TLS waits for the peer's own goodbye, which a hostile peer never says.
            self.loop.call_later(_LINGER_S, self.transport.abort)

        def answering(self) -> bool:
            """An answer is on its way; ours would land in the middle of it."""
            cycle = self.cycle
            begun = cycle is not None and cycle.response_started and not cycle.response_complete
            return bool(begun or self.pipeline)

    return Guarded


def _answer(status: int, code: str, detail: str, hint: str | None) -> bytes:
    response = problems.render(status, code, detail, hint)
    lines = [f"HTTP/1.1 {status} {msgspec.json.decode(bytes(response.body))['title']}".encode()]
    lines += [key + b": " + value for key, value in response.raw_headers]
    return b"\r\n".join([*lines, b"connection: close", b"", bytes(response.body)])
