"""Every error a caller can meet, sorted by whose turn it is.

    Error
    +- RequestError      the caller changes the request          HTTP 400/404/413   exit 2
    +- CredentialError   the user gets a better ticket           HTTP 403           exit 3
    +- AccessError       an admin changes a rule                 HTTP 401/403       exit 4
    +- SchedulerError    Slurm said no                           HTTP 422/504       exit 5
    +- ProtocolError     the peer broke the protocol             HTTP 502           exit 6
    +- InternalError     our bug                                 HTTP 500           exit 70
    +- UnavailableError  wait and try again                      HTTP 503           exit 75
    +- ConfigError       the operator mends a file, at start     HTTP 500           exit 78

``code`` is stable and kebab-case; ``str(error)`` is one line; ``hint`` is the next step.
No error ever carries a password, ticket, key or token.
"""

from __future__ import annotations

from typing import ClassVar


class Error(Exception):
    """Base of all our errors.

    Args:
        message: one sentence: what failed, on which object, why.
        code: stable kebab-case code; the family's default when omitted.
        hint: the next step for whoever reads it.
        status: HTTP status, where it differs from the family's.
    """

    CODE: ClassVar[str] = "error"
    HTTP: ClassVar[int] = 500
    EXIT: ClassVar[int] = 1

    def __init__(
        self, message: str, *, code: str | None = None, hint: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.CODE
        self.hint = hint
        self.status = status or self.HTTP


class RequestError(Error):
    """The caller must change the request."""

    CODE, HTTP, EXIT = "bad-request", 400, 2


class CredentialError(Error):
    """The user must get a better ticket (usually: log in again)."""

    CODE, HTTP, EXIT = "no-credential", 403, 3


class AccessError(Error):
    """The caller is not who, or not allowed what, the request needs."""

    CODE, HTTP, EXIT = "access-denied", 403, 4


class SchedulerError(Error):
    """Slurm refused; its own words are in the message."""

    CODE, HTTP, EXIT = "job-rejected", 422, 5


class ProtocolError(Error):
    """A peer sent bytes the protocol does not allow; the connection is finished."""

    CODE, HTTP, EXIT = "wire-malformed", 502, 6


class InternalError(Error):
    """Our own bug."""

    CODE, HTTP, EXIT = "bug", 500, 70


class UnavailableError(Error):
    """Something we need is down, slow or full; trying again later may work."""

    CODE, HTTP, EXIT = "unavailable", 503, 75


class ConfigError(Error):
    """A configuration file is wrong; raised at start only."""

    CODE, HTTP, EXIT = "config-invalid", 500, 78
