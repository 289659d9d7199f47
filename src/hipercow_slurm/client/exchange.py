"""One request to the HTTP API and what its answer means, without a socket: what both clients share.

Rule 1: a request is repeated only if that cannot do anything twice: it was never sent, it only reads or deletes, or it
carries an Idempotency-Key, which is the same in every repetition.
Rule 2: a token goes to the URL it came from and nowhere else: redirects are not followed, and clear HTTP is for
loopback only.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import secrets
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

# httpx imports its own command line program if it can, and with it rich and Pygments: a third of its start-up time.
_unwanted = sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
import httpx as httpx  # noqa: E402

if _unwanted is None:
    sys.modules.pop("httpx._main", None)

import tenacity  # noqa: E402

from hipercow_slurm.client.problems import from_answer  # noqa: E402
from hipercow_slurm.errors import AccessError, ConfigError, Error, ProtocolError, UnavailableError  # noqa: E402

ANSWER_LIMIT = 32 * 2**20
# After these no one here knows whether the API made the job.
MAYBE_SUBMITTED = frozenset({"api-broke-off", "api-timeout", "bad-answer", "submit-unsettled"})


OnSent = Callable[[int, int], object]
_PIECE = 64 * 1024


def request_id() -> str:
    """A new one, or the one that HIPERCOW_SLURM_REQUEST_ID names for all requests of a program.

    Raises:
        ConfigError: "bad-request-id": the environment's is none that the API takes.
    """
    named = os.environ.get("HIPERCOW_SLURM_REQUEST_ID")
    if named is None:
        return secrets.token_hex(16)
    if not re.fullmatch(r"[A-Za-z0-9._-]{8,64}", named):
        raise ConfigError(
            "HIPERCOW_SLURM_REQUEST_ID must be 8 to 64 letters, digits, dots, dashes or underscores",
            code="bad-request-id",
        )
    return named


@dataclass(frozen=True, slots=True)
class Ask:
    """A request.

    Attributes:
        body: sent as JSON; ``content``: sent as it is.
        safe: sending it twice does nothing twice.
        patience: how many times the client's patience an error may last after which nobody knows yet whether the
            request took effect.
        accept: statuses that are no errors here.
        cut: stop reading the answer's body there, without an error.
        on_sent: told how many bytes of how many of ``content`` have been sent.
        session: belongs to a session; False for logins and what anyone may ask.
        request_id: goes with it, each time it is sent, into the API's log, its audit log and a job's comment.
    """

    method: str
    path: str
    body: Any = field(default=None, repr=False)
    content: bytes | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    safe: bool = True
    patience: float = 1.0
    accept: tuple[int, ...] = ()
    cut: int | None = None
    on_sent: OnSent | None = None
    session: bool = True
    request_id: str = field(default_factory=request_id)

    def all_headers(self, token: str | None) -> dict[str, str]:
        """What is sent beside the body."""
        authorization = {"Authorization": f"Bearer {token}"} if token is not None else {}
        return {**self.headers, "X-Request-Id": self.request_id, **authorization}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is not a refusal."""

    server: str
    status: int
    headers: httpx.Headers = field(repr=False)
    body: bytes = field(repr=False)

    def document(self) -> Mapping[str, Any]:
        """The JSON object in it. Raises ProtocolError "bad-answer"."""
        try:
            document = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise ProtocolError(
                f"{self.server} answered {self.status} with something that is not JSON", code="bad-answer"
            ) from error
        if not isinstance(document, dict):
            raise ProtocolError(
                f"{self.server} answered {self.status} with JSON that is not an object", code="bad-answer"
            )
        return document


class Watched(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A request's body that tells how much of it has been sent."""

    def __init__(self, content: bytes, told: OnSent) -> None:
        self._content, self._told = content, told

    def __iter__(self) -> Iterator[bytes]:
        size = len(self._content)
        for start in range(0, size, _PIECE):
            piece = self._content[start : start + _PIECE]
            yield piece
            # Asked for the next piece: the last one is in the hands of the system.
            self._told(start + len(piece), size)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


class Again(Exception):  # noqa: N818
    """A failure that may pass: the error to show in the end, and whether the server may have seen the request."""

    def __init__(self, error: Error, *, sent: bool, after_s: float = 0.0) -> None:
        super().__init__()
        self.error, self.sent, self.after_s = error, sent, after_s


class Patience:
    """When to send a request again, in tenacity's words."""

    def __init__(self, ask: Ask, patience_s: float) -> None:
        self._ask, self._patience_s = ask, patience_s
        # Random in part, so that clients do not come back in step.
        self._pause = tenacity.wait_exponential_jitter(multiplier=0.2, max=4.0, jitter=0.2)

    def retry(self, state: tenacity.RetryCallState) -> bool:
        """Only what may pass, and only if it is not done twice."""
        error = state.outcome.exception() if state.outcome else None
        return isinstance(error, Again) and (self._ask.safe or not error.sent)

    def wait(self, state: tenacity.RetryCallState) -> float:
        """The pause before the next attempt; what the server asks for, if that is longer."""
        return max(self._pause(state), _again(state).after_s)

    def stop(self, state: tenacity.RetryCallState) -> bool:
        """The next attempt would come after our patience has ended."""
        unsettled = _again(state).error.code in MAYBE_SUBMITTED
        patience_s = self._patience_s * (self._ask.patience if unsettled else 1.0)
        return (state.seconds_since_start or 0.0) + state.upcoming_sleep > patience_s


def _again(state: tenacity.RetryCallState) -> Again:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, Again)
    return error


def judge(ask: Ask, answer: httpx.Response, content: bytes, *, server: str) -> Answer:
    """What an answer means. Raises our errors, and Again for those that may pass."""
    status = answer.status_code
    if 200 <= status < 300 or status in ask.accept:
        return Answer(server, status, answer.headers, content)
    if 300 <= status < 400:
        raise ProtocolError(
            f"{server} redirects to {answer.headers.get('location', 'nowhere')!r}",
            code="bad-answer",
            hint="give the final URL",
        )
    problem = from_answer(status, answer.headers, content, server=server, reason=answer.reason_phrase)
    if status in (429, 502, 503, 504):
        after = answer.headers.get("retry-after", "")
        raise Again(problem, sent=True, after_s=float(after) if re.fullmatch(r"\d{1,6}", after) else 0.0)
    raise problem


def too_much(server: str) -> ProtocolError:
    """The answer has no end."""
    return ProtocolError(f"{server} sent more than {ANSWER_LIMIT} bytes", code="bad-answer")


def too_slow(server: str, timeout_s: float) -> Again:
    """The answer did not arrive in time."""
    message = f"no complete answer from {server} within {timeout_s:g} s"
    return Again(UnavailableError(message, code="api-timeout", hint="try again later"), sent=True)


def failure(error: httpx.HTTPError, *, server: str, timeout_s: float) -> Exception:
    """Our error for httpx's; those that may pass as Again."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return AccessError(
                f"the certificate of {server} is not trusted: {cause.verify_message}",
                code="server-not-trusted",
                hint="give the cluster's certificate authority: ca in the configuration, or login --ca FILE",
            )
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return too_slow(server, timeout_s)
    unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
    lost = UnavailableError(
        f"{'cannot reach' if unsent else 'lost the connection to'} {server}: {error or type(error).__name__}",
        code="api-unreachable" if unsent else "api-broke-off",
        hint="check the URL and your network, or try again later",
    )
    return Again(lost, sent=not unsent)


def checked_url(url: str) -> str:
    """``url`` without a slash at its end, if a password may be sent there; else ConfigError "bad-url"."""
    parts = urlsplit(url.strip())
    hint = "a URL looks like https://head.example.org:8443"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{url!r} is not a URL of the API", code="bad-url", hint=hint)
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError("the URL has a user, a query or a fragment in it", code="bad-url", hint=hint)
    if parts.scheme == "http" and not _loopback(parts.hostname):
        raise ConfigError(
            f"{url} is clear HTTP: anyone on the way could read your password",
            code="bad-url",
            hint="use https://",
        )
    return url.strip().rstrip("/")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def http_settings(url: str, *, ca: str | None, timeout_s: float) -> dict[str, Any]:
    """The arguments of httpx's clients."""
    from hipercow_slurm import __version__

    return {
        "base_url": url,
        "headers": {"User-Agent": f"hipercow-slurm/{__version__}", "Accept": "application/json"},
        # No authorities are read for clear HTTP; the context still trusts no one, should it ever be used.
        "verify": _trust(ca) if url.startswith("https") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        "timeout": httpx.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
    }


def _trust(ca: str | None) -> ssl.SSLContext:
    """TLS settings: ``ca`` is the only authority if given; else the system's, or Python's if it has none."""
    try:
        if ca is not None:
            return ssl.create_default_context(cafile=ca)
        context = ssl.create_default_context()
        paths = ssl.get_default_verify_paths()
        if sys.platform != "win32" and not (paths.cafile or paths.capath):
            import certifi

            context.load_verify_locations(certifi.where())
    except OSError as error:
        raise ConfigError(f"cannot read the certificate authority {ca}: {error}", code="bad-ca") from error
    return context
