"""What slurmrestd's answers mean: Slurm's own error numbers, and our error for each.

The HTTP status says next to nothing (measured, 22.05.8): an unknown job, a full queue, a bad token and a dead
slurmctld are all 500, and a job that can never start is a 200 with ``errors``. So ``errors`` is read first,
always; the status only decides where there is no readable body. Numbers are those of slurm_errno.h.

Rule 1: Slurm's own words stay in the message. Rule 2: a submission whose outcome is not certain is
``submit-unknown``, never a plain failure: whoever sees it looks for the job before trying again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from hipercow_slurm.errors import (
    AccessError,
    Error,
    InternalError,
    RequestError,
    SchedulerError,
    UnavailableError,
)

# slurmctld's connection is tried for 9 s before slurmrestd gives up; a token is refused within milliseconds.
UNREACHABLE_AFTER_S = 5.0

NOT_SERVED = "slurm-version"
REFUSED_HINT = "operator: slurmctld's log has the reason; compare the signer's kid with slurmctld's jwks file"


class Answer(msgspec.Struct, frozen=True):
    """One HTTP answer, read to its end: ``seconds`` is how long it took."""

    status: int
    content_type: str
    body: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class Refusal:
    """One entry of ``errors``: Slurm's number (-1: unspecified, 0: none given) and its words."""

    number: int
    words: str


def token_refused(words: str) -> Error:
    """slurmctld did not take our token: the signer's key and its JWKS do not fit, or the clocks do not."""
    return InternalError(
        f"Slurm did not accept the token we made: {words}", code="slurm-token-refused", hint=REFUSED_HINT
    )


def unreachable(words: str) -> Error:
    """Nothing was done; trying again later is right."""
    return UnavailableError(
        f"the Slurm controller cannot be reached: {words}",
        code="scheduler-unreachable",
        hint="try again in a minute; queued and running jobs are not affected",
    )


def submit_unknown(words: str) -> Error:
    """The job may or may not exist."""
    return SchedulerError(
        f"the answer to the submission was lost, so the job may or may not exist: {words}",
        code="submit-unknown",
        status=504,
        hint="look at the list of your jobs before submitting again",
    )


def no_such_job(job_id: int) -> Error:
    """One answer for a job that never was, was forgotten, or is somebody else's."""
    return SchedulerError(
        f"there is no job {job_id} of yours",
        code="no-such-job",
        status=404,
        hint="Slurm forgets a job some minutes after its end",
    )


def unreadable(what: str) -> Error:
    """slurmrestd said something this adapter does not understand."""
    return InternalError(f"slurmrestd answered {what}", code="slurm-answer")


def change_refused(words: str) -> Error:
    """Slurm does not make this change to the job."""
    return SchedulerError(f"Slurm refused the change: {words}", code="change-refused")


def _rejected(words: str) -> Error:
    return SchedulerError(f"Slurm refused the job: {words}")


def _full(words: str) -> Error:
    return UnavailableError(
        f"Slurm takes no more jobs at the moment: {words}",
        code="scheduler-full",
        hint="try again when some of your jobs have ended",
    )


def _too_large(words: str) -> Error:
    return RequestError(f"Slurm refused the script or a name as too long: {words}", code="script-too-large", status=413)


def _user_refused(words: str) -> Error:
    return AccessError(f"Slurm does not let this account submit: {words}", code="scheduler-denied")


# Slurm's number -> our error, for every request. What is not here is Slurm's plain "no".
ERRORS: dict[int, Callable[[str], Error]] = {
    11: _full,  # EAGAIN: MaxJobCount reached
    111: unreachable,  # ECONNREFUSED
    1001: unreachable,
    1007: token_refused,
    1800: unreachable,
    2010: _user_refused,  # root with DisableRootJobs, or a uid Slurm does not know
    2012: _too_large,
    2027: unreachable,  # backup controller in standby
    2105: unreachable,  # submissions are disabled
    2131: unreachable,
    5005: token_refused,  # slurmctld hung up on us; see AMBIGUOUS
}
# The connection to slurmctld broke after the request may have been read: fatal for a submit, a pause for a read.
BROKEN = frozenset({32, 104, 110, 1000, 1002, 1003, 1004, 1801, 1802, 1803, 5000, 5001, 5002, 5003, 5004})
# Said of a request that waited for slurmctld in vain: "Unspecified error", and newer "Operation not permitted".
UNTRUE = frozenset({-1, 1})
# A refused token; or slurmctld died while it had our request. Whoever asked must find out which.
AMBIGUOUS = frozenset({-1, 5005})

UNKNOWN_JOB = frozenset({2002, 2017})  # access denied, invalid job id
ALREADY_OVER = frozenset({2021, 2085})  # already done, job finished
HELD = 2042
UNPARSED = frozenset({9000, 9001})


def describe(refusals: Sequence[Refusal]) -> str:
    """Slurm's words and numbers, on one line."""
    text = "; ".join(
        f"{refusal.words} ({refusal.number})" if refusal.number > 0 else refusal.words for refusal in refusals
    )
    return " ".join(text.split())[:500]


def error_for(refusals: Sequence[Refusal], answer: Answer) -> Error:
    """Our error for a refused read or cancellation."""
    words = describe(refusals)
    number = refusals[0].number
    slow = answer.seconds >= UNREACHABLE_AFTER_S
    if number in BROKEN or (number in UNTRUE and slow):
        return unreachable(words)
    if number == -1:
        return token_refused(words)
    return ERRORS.get(number, _rejected)(words)


def unexplained(answer: Answer) -> Error:
    """Our error for a refusal with no entry in ``errors``: newer slurmrestds' of partitions have a status alone."""
    words = f"HTTP {answer.status} without a reason"
    if answer.status == 511:
        return token_refused(words)
    return unreachable(words) if answer.status in (502, 503, 504) else unreadable(words)


def submit_error(refusals: Sequence[Refusal], answer: Answer) -> Error:
    """Our error for a refused submission."""
    if refusals[0].number in BROKEN:
        return submit_unknown(describe(refusals))
    if any(refusal.number in UNPARSED for refusal in refusals):
        # What slurmrestd cannot parse it sends to nobody; its first words on it may carry -1, as a refused token does.
        return _rejected(describe(refusals))
    return error_for(refusals, answer)


def change_error(refusals: Sequence[Refusal], answer: Answer, job_id: int) -> Error:
    """Our error for a refused change: of another's job slurmctld says 2010, of a longer time limit 2002."""
    numbers = {refusal.number for refusal in refusals}
    if numbers & {2010, 2017}:
        return no_such_job(job_id)
    found = error_for(refusals, answer)
    # What slurmrestd cannot parse it also calls -1, which else means a refused token.
    service = isinstance(found, UnavailableError | InternalError) and not numbers & UNPARSED
    return found if service else change_refused(describe(refusals))


def not_served(words: str) -> Error:
    """slurmrestd has none of the API versions we know, or not any more the one it had."""
    return InternalError(
        words,
        code="slurm-version",  # NOT_SERVED; written out for the page of errors
        hint="operator: run slurmrestd with -s openapi/slurmctld, or, before Slurm 23.11, -s openapi/v0.0.38",
    )


def plain_error(answer: Answer) -> Error:
    """Our error for an answer that is not JSON: slurmrestd speaks for itself then, in text."""
    words = " ".join(answer.body[:200].decode("ascii", "replace").split())
    if answer.status == 401:
        return token_refused(f"slurmrestd says {words!r} (does it run with rest_auth/jwt?)")
    if answer.status in (404, 405):
        return not_served(f"slurmrestd does not serve this API version: {words!r}")
    return unreadable(f"HTTP {answer.status} {answer.content_type} {words!r}")
