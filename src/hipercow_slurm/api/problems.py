"""Every refusal as ``application/problem+json`` (RFC 9457): a stable code, a sentence, and what to do next.

Rule 1: the answer says what our own errors say and nothing else; an exception we did not foresee becomes ``bug``
with the request id only, and its trace goes to the log. Rule 2: no password, ticket, key or token is ever in it.
"""

from __future__ import annotations

import http
import os
import re
from collections.abc import Sequence

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from hipercow_slurm import log
from hipercow_slurm.errors import AccessError, ConfigError, Error, RequestError, UnavailableError
from hipercow_slurm.krb5.prompting import AnswersWantedError, Prompt

TYPE = "urn:hipercow-slurm:error:"
MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER_S = 5  # for "wait and try again" without a better estimate
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
_DETAIL_LIMIT = 1000


class PromptRow(msgspec.Struct, frozen=True):
    """One question of the KDC's; a ``hidden`` answer is not to be shown while it is typed."""

    text: str
    hidden: bool


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of every answer that is not a success.

    ``conversation`` and ``prompts`` only where a login goes on: with a new password, or with more answers.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str | None
    request_id: str
    conversation: str | None = None
    prompts: list[PromptRow] | None = None


class ThrottledError(RequestError):
    """The caller asks too often; ``retry_after_s`` says when it makes sense again."""

    CODE, HTTP = "too-many-requests", 429

    def __init__(self, message: str, *, code: str, retry_after_s: float, hint: str | None = None) -> None:
        super().__init__(message, code=code, hint=hint)
        self.retry_after_s = retry_after_s


def not_logged_in(message: str, *, code: str = "not-authenticated") -> AccessError:
    """401: there is no session (any more) behind this request."""
    return AccessError(message, code=code, status=401, hint="log in again: hipercow-slurm login")


def request_id(offered: bytes | None) -> str:
    """The caller's ``X-Request-Id`` if it is safe to log and to pass on, else a fresh one."""
    if offered is not None and _REQUEST_ID.fullmatch(offered):
        return offered.decode("ascii")
    return os.urandom(16).hex()


def serving(request_id: str) -> None:
    """From here on this task serves this request; its log lines say so, too."""
    log.request_id.set(request_id)


def current_request_id() -> str:
    """The id of the request this task serves; empty if it serves none."""
    return log.request_id.get()


def response(error: Exception) -> Response:
    """The answer to a request that ended in ``error``."""
    if isinstance(error, Error):
        return _ours(error)
    if isinstance(error, HTTPException):
        return _http(error)
    return render(500, "bug", "the service met an error it did not expect", "give the operator this request id")


def render(
    status: int,
    code: str,
    detail: str,
    hint: str | None,
    headers: dict[str, str] | None = None,
    *,
    conversation: str | None = None,
    prompts: Sequence[Prompt] = (),
) -> Response:
    """A problem+json answer; control characters in ``detail`` (Slurm's words, say) become spaces."""
    body = Problem(
        type=TYPE + code,
        title=http.HTTPStatus(status).phrase,
        status=status,
        detail=_CONTROL.sub(" ", detail)[:_DETAIL_LIMIT],
        code=code,
        hint=hint,
        request_id=current_request_id(),
        conversation=conversation,
        prompts=[PromptRow(one.text, one.hidden) for one in prompts] or None,
    )
    return Response(msgspec.json.encode(body), status, headers, MEDIA_TYPE)


def _ours(error: Error) -> Response:
    headers = {}
    if isinstance(error, ThrottledError):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s + 0.5)))
    elif isinstance(error, UnavailableError):
        headers["Retry-After"] = str(_RETRY_AFTER_S)
    if error.status == 401:
        # Not Basic, though it is taken: a browser that asked for a password would then send it with every request,
        # also with those that other sites make it send.
        headers["WWW-Authenticate"] = 'Bearer realm="hipercow-slurm", Negotiate'
    # A configuration fault found while serving is the operator's; paths in its text are not the user's business.
    detail = "the service is not set up correctly" if isinstance(error, ConfigError) else error.message
    conversation = getattr(error, "conversation", None)
    prompts = error.prompts if isinstance(error, AnswersWantedError) else ()
    return render(error.status, error.code, detail, error.hint, headers, conversation=conversation, prompts=prompts)


_HTTP_CODES = {
    404: ("no-such-page", "there is nothing at this address"),
    405: ("method-not-allowed", "this address does not take this method"),
}


def _http(error: HTTPException) -> Response:
    code, detail = _HTTP_CODES.get(error.status_code, ("bad-request", str(error.detail)))
    return render(error.status_code, code, detail, None, dict(error.headers or {}))
