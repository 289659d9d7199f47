"""The table of jobs, once or anew every few seconds."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from hipercow_slurm.cli.common import clock
from hipercow_slurm.cli.table import Row, Table
from hipercow_slurm.client.models import JobInfo
from hipercow_slurm.client.problems import clean
from hipercow_slurm.errors import UnavailableError

JOBS = Table(
    ("JOB", "NAME", "PARTITION", "STATE", "TIME", "NODES", "TICKET", "REASON"),
    whole=("JOB", "STATE", "TIME", "TICKET"),
    dropped=("PARTITION", "NODES", "REASON", "TICKET", "TIME"),
    right=("JOB", "TIME"),
    colours={
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
    },
)


def row(job: JobInfo, now: datetime) -> Row:
    """A job's cells, in the order of ``JOBS``."""
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
    JOBS.print([row(job, now) for job in jobs])


def watch_jobs(ask: Callable[[], list[JobInfo]], where: str, every_s: float) -> None:
    """The table on a screen of its own, anew every ``every_s`` seconds, until Ctrl-C; an outage is told, not fatal."""
    from rich.console import Console, Group
    from rich.live import Live
    from rich.text import Text

    console = Console(highlight=False)
    jobs: list[JobInfo] = []
    with Live(console=console, screen=True, auto_refresh=False) as live, contextlib.suppress(KeyboardInterrupt):
        while True:
            now = datetime.now(UTC)
            try:
                jobs, trouble = ask(), ""
            except UnavailableError as error:
                trouble = clean(error.message)
            # The newest are at the end: where not all fit, those are what one waits for.
            rows = [row(job, now) for job in jobs[-(max(3, console.height - 4)) :]]
            hidden = len(jobs) - len(rows)
            shown: Any = JOBS.drawn(rows, console.width) if rows else Text("" if trouble else "no jobs")
            state = Text(
                trouble or (f"{hidden} older ones are not shown" if hidden else ""), "red" if trouble else "dim"
            )
            title = Text(f"{where}  {now.astimezone():%H:%M:%S}  every {every_s:g} s, Ctrl-C ends", "dim")
            title.truncate(console.width)
            live.update(Group(title, Text(""), shown, state), refresh=True)
            time.sleep(every_s)
