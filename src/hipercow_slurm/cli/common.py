"""What the users' commands share: the connection of whoever is logged in, and how things are written for people.

Rule 1: results go to standard output, everything else to standard error; ``--json`` prints the API's JSON.
Rule 2: only the base install is imported here, and rich only where a table is drawn: ``submit`` starts fast.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from hipercow_slurm.client import profile
from hipercow_slurm.client.http import Client
from hipercow_slurm.errors import Error

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

# Blank-line separated paragraphs that click must not wrap begin with this mark.
EXAMPLES = "\b\nExamples:\n"


def connect() -> Client:
    """A client with the session that ``login`` saved. Raises CredentialError "not-logged-in"."""
    saved = profile.session()
    return Client(saved.url, token=saved.token, ca=saved.ca, retrying=retrying)


def retrying(error: Error, pause_s: float) -> None:
    """Say on a terminal why nothing happens; a script only wants to know what came of it."""
    if sys.stderr.isatty():
        click.echo(f"{error.message}; trying again in {pause_s:.0f} s", err=True)


def print_json(value: Any) -> None:
    """JSON on standard output, indented for people, one document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def warn(text: str) -> None:
    """A line on standard error."""
    click.echo(f"{click.style('warning:', fg='yellow')} {text}", err=True)


def when(moment: datetime | None, *, now: datetime | None = None) -> str:
    """``2026-03-01 14:00 (in 3 h 20 min)``, in the reader's time zone."""
    if moment is None:
        return "never"
    away = moment - (now or datetime.now(UTC))
    distance = f"in {span(away)}" if away > timedelta(0) else f"{span(-away)} ago"
    return f"{moment.astimezone():%Y-%m-%d %H:%M} ({distance})"


def span(length: timedelta) -> str:
    """The two greatest units of a length of time: ``3 h 20 min``."""
    seconds = int(length.total_seconds())
    units = (("d", seconds // 86400), ("h", seconds // 3600 % 24), ("min", seconds // 60 % 60), ("s", seconds % 60))
    first = next((index for index, (_, count) in enumerate(units) if count), len(units) - 1)
    return " ".join(f"{count} {unit}" for unit, count in units[first : first + 2] if count) or "0 s"


def clock(length: timedelta) -> str:
    """Slurm's notation for a length of time: ``1-02:03:04``, ``02:03``."""
    seconds = max(0, int(length.total_seconds()))
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    short = f"{minutes:02}:{seconds % 60:02}"
    if days:
        return f"{days}-{hours:02}:{short}"
    return f"{hours}:{short}" if hours else short
