"""How sbatch's users write times: lengths (``1-12:30:00``) and moments (``now+1hour``, ``20:00``, a date)."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterator

_LENGTH = re.compile(
    r"(?:(?P<d>[0-9]{1,5})-(?P<dh>[0-9]{1,5})(?::(?P<dm>[0-9]{1,5})(?::(?P<ds>[0-9]{1,5}))?)?)|(?P<r>[0-9:]+)"
)
_AFTER = re.compile(r"now(?:\s*\+\s*([0-9]{1,9})\s*([a-z]*))?")
_CLOCK = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?\s*([ap]m)?", re.IGNORECASE)
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 7 * 86400}
_NAMED = {"midnight": (0, 0), "noon": (12, 0), "teatime": (16, 0), "fika": (15, 0), "elevenses": (11, 0)}
_DATES = (
    re.compile(r"(?P<m>[0-9]{2})(?P<d>[0-9]{2})(?P<y>[0-9]{2})?"),
    re.compile(r"(?P<m>[0-9]{1,2})[/.](?P<d>[0-9]{1,2})(?:[/.](?P<y>[0-9]{2}))?"),
    re.compile(r"(?P<y>[0-9]{4})-(?P<m>[0-9]{1,2})-(?P<d>[0-9]{1,2})"),
)


def minutes(text: str) -> int:
    """A length, to minutes (rounded up): M, M:S, H:M:S, D-H, D-H:M, D-H:M:S.

    Raises:
        ValueError: it is none of these, nothing, or without end.
    """
    if text.upper() in ("UNLIMITED", "INFINITE"):
        raise ValueError("a job needs a time limit, so that its ticket can be told to last")
    wrong = ValueError(f"{text!r} is not a time like 90, 1:30:00, 2-12 or 1-12:30:00")
    match = _LENGTH.fullmatch(text)
    if not match:
        raise wrong
    if match["r"] is None:
        days, hours, minutes_, seconds = (int(match[part] or 0) for part in ("d", "dh", "dm", "ds"))
    else:
        parts = match["r"].split(":")
        if len(parts) > 3 or not all(re.fullmatch(r"[0-9]{1,7}", part) for part in parts):
            raise wrong
        numbers = [int(part) for part in parts]
        days = 0
        hours, minutes_, seconds = numbers if len(numbers) == 3 else (0, *numbers, 0)[:3]
    limit = math.ceil(((days * 24 + hours) * 60 + minutes_) + seconds / 60)
    if limit < 1:
        raise ValueError("a job needs a time limit of at least a minute")
    return limit


def moment(text: str, *, now: datetime.datetime | None = None) -> str:
    """A moment, to RFC 3339 UTC; where no zone is given, this machine's.

    Takes RFC 3339, ``now+1hour``, a time of day (``noon``, ``HH:MM[:SS] [AM|PM]``), a day (``today``, ``tomorrow``,
    ``2030-01-31``, ``01/31/30``, ``013130``, ``01/31``), or both: ``2030-01-31T20:00``, ``16:00 tomorrow``. A time of
    day that is over today means tomorrow, a day alone its midnight, a date without a year the next one.

    Raises:
        ValueError: it is none of these.
    """
    try:
        here = now or datetime.datetime.now().astimezone()
        found = _moment(" ".join(text.split()), here, None if now is None else now.tzinfo)
        utc = None if found is None else found.astimezone(datetime.UTC)
    except (OverflowError, ValueError):  # before the year 1, after 9999
        utc = None
    if utc is None:
        raise ValueError(f"{text[:64]!r} is not a moment like now+1hour, 20:00 or 2030-01-31T20:00:00")
    return utc.strftime("%Y-%m-%dT%H:%M:%SZ")


def _moment(text: str, now: datetime.datetime, zone: datetime.tzinfo | None) -> datetime.datetime | None:
    lower = text.lower()
    if after := _AFTER.fullmatch(lower):
        unit = (after[2] or "seconds").removesuffix("s") if after[1] else "second"
        unit = {"sec": "second", "min": "minute", "hr": "hour"}.get(unit, unit)
        return now + datetime.timedelta(seconds=int(after[1] or 0) * _UNITS[unit]) if unit in _UNITS else None
    if (clock := _clock(lower)) is not None:
        at = _at(now.date(), clock, zone)
        return at if at > now else _at(now.date() + datetime.timedelta(days=1), clock, zone)
    try:
        exact = datetime.datetime.fromisoformat(text)
        return exact if exact.tzinfo else exact.astimezone()
    except (ValueError, OverflowError):
        pass
    found = (_on(day, clock, now, zone) for day, clock in _day_and_clock(lower[:64]))
    return next((at for at in found if at is not None), None)


def _day_and_clock(text: str) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """All ways to read ``text`` as a day and a time of day; a day alone is its midnight."""
    yield text, (0, 0, 0)
    for at, separator in enumerate(text):
        if separator in "t ":
            first, second = text[:at], text[at + 1 :]
            if (clock := _clock(second)) is not None:
                yield first, clock
            if separator == " " and (clock := _clock(first)) is not None:
                yield second, clock


def _on(
    day: str, clock: tuple[int, int, int], now: datetime.datetime, zone: datetime.tzinfo | None
) -> datetime.datetime | None:
    """On the day of that name; of a date without a year the next."""
    if day in ("today", "tomorrow"):
        return _at(now.date() + datetime.timedelta(days=day == "tomorrow"), clock, zone)
    match = next(filter(None, (form.fullmatch(day) for form in _DATES)), None)
    if match is None:
        return None
    month, day_, year = int(match["m"]), int(match["d"]), match["y"]
    if year is not None:
        return _at(datetime.date(int(year) + (2000 if len(year) == 2 else 0), month, day_), clock, zone)
    at = _at(datetime.date(now.year, month, day_), clock, zone)
    return at if at > now else _at(datetime.date(now.year + 1, month, day_), clock, zone)


def _clock(text: str) -> tuple[int, int, int] | None:
    if text in _NAMED:
        return (*_NAMED[text], 0)
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    hour, minute, second = int(match[1]), int(match[2]), int(match[3] or 0)
    if match[4]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if match[4].lower() == "pm" else 0)
    return (hour, minute, second) if hour < 24 and minute < 60 and second < 60 else None


def _at(date: datetime.date, clock: tuple[int, int, int], zone: datetime.tzinfo | None) -> datetime.datetime:
    """On that day at that time, in this machine's zone as it is on that day, or in ``zone``."""
    naive = datetime.datetime.combine(date, datetime.time(*clock))
    return naive.astimezone() if zone is None else naive.replace(tzinfo=zone)
