"""The table of jobs: cut to fit a terminal, complete when it goes to a file or a pipe."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from hipercow_slurm.cli.common import clock, when
from hipercow_slurm.client.models import JobInfo, SessionInfo
from hipercow_slurm.client.problems import clean
from hipercow_slurm.errors import UnavailableError

if TYPE_CHECKING:
    from rich.table import Table

HEADINGS = ("JOB", "NAME", "PARTITION", "STATE", "TIME", "NODES", "TICKET", "REASON")
COLOURS = {
    "RUNNING": "green",
    "COMPLETED": "dim",
    "PENDING": "yellow",
    "FAILED": "red",
    "TIMEOUT": "red",
    "NODE_FAIL": "red",
    "OUT_OF_MEMORY": "red",
    "CANCELLED": "magenta",
    "expired": "red",
    "missing": "red",
    "expiring": "yellow",
}


def row(job: JobInfo, now: datetime) -> tuple[str, ...]:
    """A job's cells, in the order of ``HEADINGS``."""
    length = ""
    if job.start_time and job.state != "PENDING":
        length = clock((job.end_time if job.ended and job.end_time else now) - job.start_time)
    until = job.credential.validity.renewable_until or job.credential.validity.valid_until
    ticket = "" if job.ended else job.credential.state
    if ticket in ("ok", "expiring") and until:
        ticket = f"{ticket} {until.astimezone():%a %H:%M}"
    nodes = ",".join(job.nodes) or str(job.node_count or "")
    reason = "" if job.ended or job.reason in (None, "None") else str(job.reason)
    cells = (str(job.job_id), job.name, job.partition, job.state, length, nodes, ticket, reason)
    return tuple(clean(cell) for cell in cells)


def print_jobs(jobs: list[JobInfo]) -> None:
    """Print the table."""
    now = datetime.now(UTC)
    rows = [row(job, now) for job in jobs]
    if sys.stdout.isatty():
        _print_for_terminal(rows)
        return
    print_table(HEADINGS, rows)


def _print_for_terminal(rows: list[tuple[str, ...]]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_terminal_table(rows, console.width))


def _terminal_table(rows: list[tuple[str, ...]], available: int) -> Table:
    """The table in colours, cut to so many columns."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    longest = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    widths = fit({h: max(len(h), w) for h, w in zip(HEADINGS, longest, strict=True) if w}, available)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for heading, width in widths.items():
        right = heading in ("JOB", "TIME")
        table.add_column(heading, width=width, no_wrap=True, justify="right" if right else "left")
    for cells in rows:
        shown = dict(zip(HEADINGS, cells, strict=True))
        table.add_row(*(Text(shown[h], COLOURS.get(shown[h].partition(" ")[0], "")) for h in widths))
    return table


def print_table(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A small table of a few columns, the same on a terminal and in a pipe."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for cells in (headings, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


def print_sessions(sessions: list[SessionInfo]) -> None:
    """The user's sessions; the one that asks has a star."""
    rows: list[tuple[str, ...]] = [
        (
            "*" if one.current else "",
            clean(one.session_id),
            clean(one.address),
            when(one.created_at) if one.created_at else "",
            when(one.expires_at),
        )
        for one in sessions
    ]
    print_table(("", "SESSION", "FROM", "SINCE", "UNTIL"), rows)


def print_clusters(rows: list[dict[str, Any]]) -> None:
    """The clusters that are known here; the one that is used has a star."""
    cells: list[tuple[str, ...]] = [
        (
            "*" if row["current"] else "",
            row["name"] or "(no name)",
            clean(row["url"] or ""),
            clean(row["username"] or ""),
            "yes" if row["logged_in"] else "no",
        )
        for row in rows
    ]
    print_table(("", "CLUSTER", "URL", "USERNAME", "SESSION"), cells)


def watch_jobs(ask: Callable[[], list[JobInfo]], where: str, every_s: float) -> None:
    """The table on a screen of its own, anew every ``every_s`` seconds, until Ctrl-C; an outage is told, not fatal."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    shown: Any = Text("")
    with Live(console=console, screen=True, auto_refresh=False) as live, contextlib.suppress(KeyboardInterrupt):
        while True:
            now = datetime.now(UTC)
            try:
                jobs = ask()
                # The newest are at the end: where not all fit, those are what one waits for.
                rows = [row(job, now) for job in jobs[-(max(3, console.height - 4)) :]]
                hidden = len(jobs) - len(rows)
                shown = _terminal_table(rows, console.width) if rows else Text("no jobs")
                state = Text(f"{hidden} older ones are not shown" if hidden else "", "dim")
            except UnavailableError as error:
                state = Text(clean(error.message), "red")
            title = Text(f"{where}  {now.astimezone():%H:%M:%S}  every {every_s:g} s, Ctrl-C ends", "dim")
            title.truncate(console.width)
            live.update(Group(title, Text(""), shown, state), refresh=True)
            time.sleep(every_s)


GAP = 2
# An id that is cut cannot be typed again, and half a state is another one: these are shown whole.
WHOLE = ("JOB", "STATE", "TIME", "TICKET")
DROPPED_FIRST = ("PARTITION", "NODES", "REASON", "TICKET", "TIME")
LEAST = 6


def fit(widths: dict[str, int], available: int) -> dict[str, int]:
    """Widths that together fit ``available`` characters: the widest texts are cut, then whole columns go."""
    widths = dict(widths)
    for leaving in (None, *DROPPED_FIRST):
        widths.pop(leaving or "", None)
        excess = sum(widths.values()) + GAP * (len(widths) - 1) - available
        spare = {heading: width - LEAST for heading, width in widths.items() if heading not in WHOLE}
        if excess <= sum(room for room in spare.values() if room > 0):
            break
    while excess > 0 and any(room > 0 for room in spare.values()):
        widest = max(spare, key=lambda heading: spare[heading])
        spare[widest] -= 1
        widths[widest] -= 1
        excess -= 1
    return widths
