"""Which jobs a list shows, and how a long list is cut into pages. Pure functions."""

from __future__ import annotations

import datetime
import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hipercow_slurm.errors import RequestError
from hipercow_slurm.slurm.model import Job

_KEYS = {"state", "name", "partition", "since", "limit", "cursor", "forgotten"}
_STATE = re.compile(r"[A-Z_]{1,32}")
LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """A list's query.

    Attributes:
        states: any of these; empty: all.
        name: a pattern with ``*`` and ``?``; None: all.
        since: submitted then or later, in epoch seconds.
        limit: most jobs of one page; None: all at once.
        after: only jobs with a higher id: where the last page ended.
        forgotten: also jobs that only our own record still has.
    """

    states: frozenset[str] = frozenset()
    name: str | None = None
    partition: str | None = None
    since: int | None = None
    limit: int | None = None
    after: int = 0
    forgotten: bool = False


def wanted(query: Iterable[tuple[str, str]]) -> Wanted:
    """Read a query string's pairs; ``state`` may come several times and hold several, with commas.

    Raises:
        RequestError: a key or a value we do not know.
    """
    found: dict[str, str] = {}
    states: set[str] = set()
    for key, value in query:
        if key not in _KEYS:
            raise RequestError(f"a list of jobs cannot be asked for by {key[:40]!r}; known: {', '.join(sorted(_KEYS))}")
        if key == "state":
            states |= {state.strip().upper() for state in value.split(",") if state.strip()}
        else:
            found[key] = value
    for state in states:
        if not _STATE.fullmatch(state):
            raise RequestError(f"{state[:40]!r} is not a state of a job")
    return Wanted(
        states=frozenset(states),
        name=found.get("name"),
        partition=found.get("partition"),
        since=None if "since" not in found else _moment(found["since"]),
        limit=None if "limit" not in found else _number("limit", found["limit"], LIMIT),
        after=0 if "cursor" not in found else _number("cursor", found["cursor"], 2**32),
        forgotten=_yes(found),
    )


def page(jobs: Iterable[Job], want: Wanted) -> tuple[list[Job], str | None]:
    """One page, by rising id, and the cursor of the next (None: there is none)."""
    chosen = sorted((job for job in jobs if _fits(job, want)), key=lambda job: job.job_id)
    if want.limit is None or len(chosen) <= want.limit:
        return chosen, None
    return chosen[: want.limit], str(chosen[want.limit - 1].job_id)


def _fits(job: Job, want: Wanted) -> bool:
    return (
        job.job_id > want.after
        and (not want.states or job.state in want.states)
        and (want.name is None or fnmatch.fnmatchcase(job.name, want.name))
        and (want.partition is None or job.partition == want.partition)
        and (want.since is None or (job.submit_time or 0) >= want.since)
    )


def _number(what: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and 1 <= int(text) <= most):
        raise RequestError(f"{what} must be a number from 1 to {most}")
    return int(text)


def _moment(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 10:
        return int(text)
    try:
        # "+" arrives as a space if it was not quoted
        parsed = datetime.datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        raise RequestError(f"since={text[:40]!r} is neither RFC 3339 nor seconds since 1970") from None
    return int(parsed.replace(tzinfo=parsed.tzinfo or datetime.UTC).timestamp())


def _yes(found: Mapping[str, str]) -> bool:
    match found.get("forgotten", "false"):
        case "true" | "1":
            return True
        case "false" | "0":
            return False
    raise RequestError("forgotten must be true or false")
