"""The lines between the SPANK plugin and the agent. Pure.

    start JOBID UID GID          job prolog          -> answer
    ccache JOBID UID [GID]       each step           -> answer
    end JOBID [UID]              job epilog          -> ok
    status                       anybody             -> one line of JSON, of any length

    answer:  ok CCACHE
             none POLICY CCACHE|- SENTENCE           CCACHE: where a ticket that comes late will be
    refused: error CODE SENTENCE

A request is at most 256 bytes, every reply but the one to ``status`` at most 512, newlines included. Numbers are
decimal, without sign and leading zeros.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from hipercow_slurm.agent.config import Policy
from hipercow_slurm.errors import RequestError

REQUEST_LIMIT = 256
REPLY_LIMIT = 512
NO_UID = 2**32 - 1  # (uid_t)-1 means "nobody in particular" to the kernel


@dataclass(frozen=True, slots=True)
class Start:
    job_id: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class CCache:
    job_id: int
    uid: int
    gid: int | None


@dataclass(frozen=True, slots=True)
class End:
    job_id: int
    uid: int | None


@dataclass(frozen=True, slots=True)
class Status:
    pass


Request = Start | CCache | End | Status

# verb -> fewest and most arguments
_VERBS = {"start": (3, 3), "ccache": (2, 3), "end": (1, 2), "status": (0, 0)}


def parse(line: bytes) -> Request:
    """One request line, with its newline.

    Raises:
        RequestError: what is wrong with it.
    """
    if not line.endswith(b"\n"):
        _bad("a request is one line")
    if len(line) > REQUEST_LIMIT:
        _bad(f"a request is at most {REQUEST_LIMIT} bytes")
    verb, *words = line[:-1].decode("ascii", errors="replace").split(" ")
    if verb not in _VERBS:
        _bad("the requests are " + ", ".join(_VERBS))
    fewest, most = _VERBS[verb]
    if not fewest <= len(words) <= most:
        _bad(f"{verb} takes {fewest} to {most} numbers" if most > fewest else f"{verb} takes {most} numbers")
    numbers = [_number(word) for word in words]
    if verb == "start":
        return Start(*numbers)
    if verb == "ccache":
        return CCache(numbers[0], numbers[1], numbers[2] if len(numbers) > 2 else None)
    if verb == "end":
        return End(numbers[0], numbers[1] if len(numbers) > 1 else None)
    return Status()


def ok(ccache: str | None = None) -> bytes:
    """``ok``, or ``ok CCACHE``."""
    return b"ok\n" if ccache is None else _line(f"ok {ccache}")


def none(policy: Policy, ccache: str | None, sentence: str) -> bytes:
    """No ticket; one may still appear in ``ccache``."""
    return _line(f"none {policy} {ccache or '-'} {sentence}")


def refused(code: str, sentence: str) -> bytes:
    """The request itself was wrong or not allowed."""
    return _line(f"error {code} {sentence}")


def _line(text: str) -> bytes:
    """One line within the limit; a sentence that is too long loses its end, never the words before it."""
    flat = re.sub(r"[\x00-\x1f\x7f]", " ", text)
    return flat.encode("utf-8")[: REPLY_LIMIT - 1].decode("utf-8", errors="ignore").encode("utf-8") + b"\n"


def _number(word: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,9}", word, flags=re.ASCII) or int(word) >= NO_UID:
        _bad("job, user and group ids are numbers of 32 bits")
    return int(word)


def _bad(sentence: str) -> NoReturn:
    raise RequestError(sentence)
