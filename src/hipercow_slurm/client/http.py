"""The HTTP API's client: blocking, small, typed. All that the command line does goes through it.

    with Client("https://head.example.org:8443", token=token) as client:
        job = client.submit({"script": "#!/bin/sh\\nhostname\\n"})

Rule 1: every request has a deadline and every answer a limit.
Rule 2: a request is repeated only if that cannot do anything twice: it was never sent, it only reads or deletes, or it
carries an Idempotency-Key, which is the same in every repetition.
Rule 3: a token goes to the URL it came from and nowhere else: redirects are not followed, and clear HTTP is for
loopback only.
"""

from __future__ import annotations

import ipaddress
import json
import random
import re
import secrets
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlsplit

# httpx imports its own command line program if it can, and with it rich and Pygments: a third of its start-up time.
_unwanted = sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type]
import httpx  # noqa: E402

if _unwanted is None:
    sys.modules.pop("httpx._main", None)

from hipercow_slurm.client import models  # noqa: E402
from hipercow_slurm.client.models import Job, Output, Session, Ticket  # noqa: E402
from hipercow_slurm.client.problems import from_answer  # noqa: E402
from hipercow_slurm.errors import (  # noqa: E402
    AccessError,
    ConfigError,
    Error,
    InternalError,
    ProtocolError,
    UnavailableError,
)

ANSWER_LIMIT = 32 * 2**20
OUTPUT_LIMIT = 4 * 2**20
# After these no one here knows whether the API made the job.
MAYBE_SUBMITTED = frozenset({"api-broke-off", "api-timeout", "bad-answer", "submit-unsettled"})
Retrying = Callable[[Error, float], None]


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


class Client:
    """A connection to the API at ``url``.

    Args:
        token: the session's secret, for everything but ``login`` and ``health``.
        ca: PEM file with the only certificate authority to trust; None: the system's.
        timeout_s: greatest wait for an answer, and again for the whole of its body.
        patience_s: how long safe requests are repeated while the server is unavailable.
        retrying: told of each repetition, with the error and the pause in seconds.

    Every method raises our errors: UnavailableError (server down, slow or full), AccessError ("not-authenticated",
    "server-not-trusted"), ProtocolError ("bad-answer"), and what the API itself refuses.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ca: str | None = None,
        timeout_s: float = 30.0,
        patience_s: float = 12.0,
        retrying: Retrying | None = None,
    ) -> None:
        self.url = checked_url(url)
        self._timeout_s, self._patience_s, self._retrying = timeout_s, patience_s, retrying
        # The API needs its time to find out what became of a submission whose answer it lost itself.
        self._submit_patience_s = 4 * patience_s
        from hipercow_slurm import __version__

        headers = {"User-Agent": f"hipercow-slurm/{__version__}", "Accept": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            # No authorities are read for clear HTTP; the context still trusts no one, should it ever be used.
            verify=_trust(ca) if self.url.startswith("https") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # ---- what the API offers ---------------------------------------------------------------------------------

    def login(self, username: str, password: str) -> Session:
        """Begin a session. CredentialError "login-failed", "account-locked", ...; MustChangeError: go on with
        ``change_password``."""
        body = {"username": username, "password": password}
        return Session.parse(self._json("POST", "/v1/sessions", body=body, safe=False))

    def change_password(self, conversation: str, new_password: str) -> Session:
        """Go on with a login that ended in MustChangeError; RequestError "password-rejected": try another one."""
        body = {"conversation": conversation, "new_password": new_password}
        return Session.parse(self._json("POST", "/v1/conversations", body=body, safe=False))

    def logout(self, session: str = "current") -> None:
        """End a session: this one, or another of the user's by its id."""
        self._request("DELETE", f"/v1/sessions/{quote(session, safe='')}")

    def sessions(self) -> list[models.Json]:
        """The user's sessions as JSON objects."""
        return models.objects(self._json("GET", "/v1/sessions"), "sessions")

    def submit(self, spec: dict[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Submit a job; ``spec`` is the API's JSON object (``script`` and options).

        However often the answer gets lost, the same key makes one job. If it is lost for good, the error's hint
        names the key with which to ask again.
        """
        key = idempotency_key or secrets.token_hex(16)
        try:
            answer = self._json(
                "POST", "/v1/jobs", body=spec, headers={"Idempotency-Key": key}, unsettled_s=self._submit_patience_s
            )
        except Error as error:
            if error.code in MAYBE_SUBMITTED or isinstance(error, InternalError):
                error.hint = f"to make one job and no more, submit again with --idempotency-key {key}"
            raise
        return Job.parse(answer)

    def jobs(self) -> list[Job]:
        """The user's jobs."""
        return [Job.parse(job) for job in models.objects(self._json("GET", "/v1/jobs"), "jobs")]

    def job(self, job_id: int) -> Job:
        """One job. RequestError or SchedulerError "no-such-job"."""
        return Job.parse(self._json("GET", f"/v1/jobs/{job_id}"))

    def cancel(self, job_id: int) -> None:
        """Cancel a job."""
        self._request("DELETE", f"/v1/jobs/{job_id}")

    def ticket(self) -> Ticket:
        """How long the user's tickets are good."""
        return Ticket.parse(self._json("GET", "/v1/ticket"))

    def health(self) -> models.Json:
        """The service's view of its own parts."""
        return self._json("GET", "/v1/health")

    def output(self, job_id: int, *, stream: str = "stdout", offset: int = 0, limit: int = OUTPUT_LIMIT) -> Output:
        """Bytes of a job's output from ``offset`` on, at most ``limit``; ``size`` None: there is no file yet."""
        status, headers, body = self._request(
            "GET",
            f"/v1/jobs/{job_id}/output?stream={quote(stream)}",
            headers={"Range": f"bytes={offset}-", "Accept": "*/*"},
            accept=(404, 416),
            cut=limit,
        )
        state = headers.get("x-job-state")
        if status == 404:
            error = from_answer(status, headers, body, server=self.url)
            if error.code != "no-output-yet":
                raise error
            return Output(offset, b"", None, state)
        size = _total(headers)
        if status == 416:
            return Output(offset, b"", offset if size is None else size, state)
        start = re.match(r"bytes (\d+)-", headers.get("content-range", ""))
        if (int(start[1]) if start else 0) != offset:
            raise ProtocolError(f"{self.url} sent another part of the output than byte {offset} on", code="bad-answer")
        return Output(offset, body, offset + len(body) if size is None else size, state)

    # ---- how it is asked -------------------------------------------------------------------------------------

    def _json(self, method: str, path: str, **how: Any) -> models.Json:
        """The JSON object in the answer."""
        status, _, body = self._request(method, path, **how)
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise ProtocolError(
                f"{self.url} answered {status} with something that is not JSON", code="bad-answer"
            ) from error
        if not isinstance(document, dict):
            raise ProtocolError(f"{self.url} answered {status} with JSON that is not an object", code="bad-answer")
        return document

    def _request(
        self, method: str, path: str, *, safe: bool = True, unsettled_s: float = 0.0, **how: Any
    ) -> tuple[int, httpx.Headers, bytes]:
        """Send a request, and again while that is safe and useful, until patience ends; status, headers, body.

        ``unsettled_s`` is the patience with an error after which nobody knows yet whether the request took effect.
        """
        start = time.monotonic()
        for pause in _pauses():
            try:
                return self._once(method, path, **how)
            except _Again as again:
                error, pause = again.error, max(pause, again.after_s)
                patience_s = max(self._patience_s, unsettled_s if error.code in MAYBE_SUBMITTED else 0.0)
                if not (safe or not again.sent) or time.monotonic() + pause > start + patience_s:
                    raise error from error.__cause__
            if self._retrying:
                self._retrying(error, pause)
            time.sleep(pause)
        raise AssertionError("pauses never end")

    def _once(
        self,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        accept: tuple[int, ...] = (),
        cut: int | None = None,
    ) -> tuple[int, httpx.Headers, bytes]:
        """One request and its answer; _Again for what may pass. ``cut``: stop reading there, without an error."""
        try:
            with self._http.stream(method, path, json=body, headers=headers) as answer:
                status, content = answer.status_code, self._body(answer, cut)
        except httpx.HTTPError as error:
            raise self._failure(error) from error
        if 200 <= status < 300 or status in accept:
            return status, answer.headers, content
        if 300 <= status < 400:
            raise ProtocolError(
                f"{self.url} redirects to {answer.headers.get('location', 'nowhere')!r}",
                code="bad-answer",
                hint="give the final URL",
            )
        problem = from_answer(status, answer.headers, content, server=self.url, reason=answer.reason_phrase)
        if status in (429, 502, 503, 504):
            raise _Again(problem, sent=True, after_s=_retry_after(answer.headers))
        raise problem

    def _body(self, answer: httpx.Response, cut: int | None) -> bytes:
        """The answer's body, as long as limit and deadline allow."""
        end, content = time.monotonic() + self._timeout_s, bytearray()
        for chunk in answer.iter_bytes():
            content += chunk
            if cut is not None and len(content) >= cut:
                return bytes(content[:cut])
            if len(content) > ANSWER_LIMIT:
                raise ProtocolError(f"{self.url} sent more than {ANSWER_LIMIT} bytes", code="bad-answer")
            if time.monotonic() > end:
                raise _Again(self._slow(), sent=True)
        return bytes(content)

    def _slow(self) -> UnavailableError:
        return UnavailableError(
            f"no complete answer from {self.url} within {self._timeout_s:g} s",
            code="api-timeout",
            hint="try again later",
        )

    def _failure(self, error: httpx.HTTPError) -> Exception:
        """Our error for httpx's; those that may pass as _Again."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return AccessError(
                    f"the certificate of {self.url} is not trusted: {cause.verify_message}",
                    code="server-not-trusted",
                    hint="give the cluster's certificate authority: ca in the configuration, or login --ca FILE",
                )
            cause = cause.__cause__ or cause.__context__
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return _Again(self._slow(), sent=True)
        unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        lost = UnavailableError(
            f"{'cannot reach' if unsent else 'lost the connection to'} {self.url}: {error or type(error).__name__}",
            code="api-unreachable" if unsent else "api-broke-off",
            hint="check the URL and your network, or try again later",
        )
        return _Again(lost, sent=not unsent)


class _Again(Exception):  # noqa: N818
    """A failure that may pass: the error to show in the end, and whether the server may have seen the request."""

    def __init__(self, error: Error, *, sent: bool, after_s: float = 0.0) -> None:
        super().__init__()
        self.error, self.sent, self.after_s = error, sent, after_s


def _pauses() -> Iterator[float]:
    """Pauses between attempts: doubling up to 4 s; random in part, so that clients do not come back in step."""
    pause_s = 0.2
    while True:
        yield pause_s * random.uniform(0.5, 1.5)  # noqa: S311
        pause_s = min(pause_s * 2, 4.0)


def _retry_after(headers: httpx.Headers) -> float:
    text = headers.get("retry-after", "")
    return float(text) if re.fullmatch(r"\d{1,6}", text) else 0.0


def _total(headers: httpx.Headers) -> int | None:
    """The file's size from Content-Range ("bytes 5-9/10", "bytes */10"), else from Content-Length."""
    found = re.fullmatch(r"bytes (?:\d+-\d+|\*)/(\d{1,19})", headers.get("content-range", ""))
    if found:
        return int(found[1])
    length = headers.get("content-length", "")
    return int(length) if not headers.get("content-range") and length.isdigit() else None
