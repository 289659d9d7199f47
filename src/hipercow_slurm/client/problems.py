"""From the API's ``application/problem+json`` (RFC 9457) to our errors, and from whatever else an HTTP server may say.

Rule 1: what a server says is printed on a terminal, so control characters are taken out and length is bounded here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from hipercow_slurm.errors import (
    AccessError,
    CredentialError,
    Error,
    InternalError,
    ProtocolError,
    RequestError,
    SchedulerError,
    UnavailableError,
)

# Codes whose family the status alone does not tell: the user can mend these with a better ticket or password.
CREDENTIAL_CODES = frozenset(
    {
        "no-credential",
        "no-tgt",
        "expired",
        "session-expired",
        "renew-exhausted",
        "not-renewable",
        "not-forwardable",
        "addressful",
        "lifetime-too-short",
        "login-failed",
        "weak-encryption",
        "password-expired",
        "password-must-change",
        "ticket-not-delegated",
        "ticket-refused",
        "account-locked",
        "account-expired",
        "clock-skew",
        "not-for-us",
        "ticket-invalid",
        "wrong-address",
    }
)
_FAMILIES: dict[int, type[Error]] = {
    401: CredentialError,
    403: AccessError,
    422: SchedulerError,
    429: UnavailableError,
    500: InternalError,
    502: ProtocolError,
    503: UnavailableError,
    504: SchedulerError,
}
_CONVERSATION = re.compile(r"[A-Za-z0-9_-]{16,64}")
LOG_IN = "hipercow-slurm login"


class MustChangeError(CredentialError):
    """The password was right and must be changed first; ``conversation`` is for ``Client.change_password``."""

    CODE = "password-must-change"
    conversation = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question of the KDC's beside the password, and whether the answer is to be hidden."""

    text: str
    hidden: bool


class AnswersWantedError(CredentialError):
    """The KDC asks for more than a password, a one-time code for instance; ``prompts``: those not answered yet."""

    CODE = "answers-wanted"
    prompts: tuple[Prompt, ...] = ()


def clean(text: str, *, limit: int = 2000) -> str:
    """``text`` on one line, without control characters, of at most ``limit`` characters."""
    line = "".join(c if c.isprintable() else " " for c in text[: limit * 2])
    return " ".join(line.split())[:limit]


def from_answer(status: int, headers: Mapping[str, str], body: bytes, *, server: str, reason: str = "") -> Error:
    """The error an answer of status 400 or more stands for; gateways' pages and broken JSON included."""
    document = _document(headers, body)
    if document is None:
        kind = headers.get("content-type", "something of no type").partition(";")[0]
        family = UnavailableError if status in (502, 504) else _family(status, "")
        return family(
            clean(f"{server} answered {status} {reason}".strip() + f" with {kind}"),
            code="bad-answer",
            hint=LOG_IN if status == 401 else "is the URL right? Something else than the API may have answered",
            status=status,
        )
    return from_document(status, document, server=server)


def from_document(status: int, document: Mapping[str, object], *, server: str) -> Error:
    """The error a problem's JSON object stands for."""
    code = str(document.get("code") or "")
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,63}", code):
        code = ""
    family = _family(status, code)
    message = clean(str(document.get("detail") or document.get("title") or f"{server} answered {status}"))
    hint = document.get("hint")
    if hint is None and status == 401 and code != "login-failed":
        hint = LOG_IN
    if family is InternalError and document.get("request_id"):
        # The operator finds the cause in the server's log by this id; for the user's own errors it is noise.
        message = f"{message} (request {clean(str(document['request_id']), limit=80)})"
    conversation = document.get("conversation")
    if status == 409 and isinstance(conversation, str) and _CONVERSATION.fullmatch(conversation):
        change = MustChangeError(message, code=code or None, status=status, hint="log in from a terminal, or kpasswd")
        change.conversation = conversation
        return change
    if status == 409 and code == AnswersWantedError.CODE:
        wanted = AnswersWantedError(message, status=status, hint="log in from a terminal")
        wanted.prompts = _prompts(document.get("prompts"))
        return wanted
    return family(message, code=code or None, hint=clean(str(hint)) if hint else None, status=status)


def _prompts(value: object) -> tuple[Prompt, ...]:
    rows = [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
    return tuple(
        Prompt(clean(str(row.get("text") or "Answer"), limit=200), row.get("hidden") is not False) for row in rows
    )


def _family(status: int, code: str) -> type[Error]:
    if code in CREDENTIAL_CODES:
        return CredentialError
    if code in ("idempotency-key-reused", "no-such-job", "password-rejected"):
        return RequestError
    return _FAMILIES.get(status, InternalError if status >= 500 else RequestError)


def _document(headers: Mapping[str, str], body: bytes) -> dict[str, object] | None:
    if "json" not in headers.get("content-type", ""):
        return None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
