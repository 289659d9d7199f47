"""``ticket``: how long one's tickets are good, and how long each job is still covered."""

from __future__ import annotations

from typing import Any

import click

from hipercow_slurm.cli.common import EXAMPLES, connect, print_json, user_options, warn, when
from hipercow_slurm.client.models import JobInfo, Validity
from hipercow_slurm.client.problems import clean


@click.command(
    epilog=EXAMPLES
    + "  hipercow-slurm ticket\n"
    + "  hipercow-slurm ticket --json | jq '.jobs[] | select(.covers_job == false)'"
)
@user_options
def ticket(as_json: bool) -> None:
    """Show until when your tickets are good: your session's, the one your jobs get, and whether each job is covered."""
    with connect() as client:
        found, jobs = client.ticket(), [job for job in client.job_infos() if not job.ended]
        where = client.url
    if as_json:
        print_json({**found.raw, "jobs": [_as_json(job) for job in jobs]})
        return
    click.echo(f"{found.principal} at {where}")
    click.echo(f"  session  {_validity(found.session)}")
    if found.cache_silent:
        click.echo("  jobs     not known: the credential cache does not answer")
    elif found.cache is None:
        click.echo("  jobs     no ticket: log in again before you submit")
    else:
        click.echo(f"  jobs     {_validity(found.cache)}")
    if jobs:
        from hipercow_slurm.cli.table import Table

        table = Table(
            ("JOB", "NAME", "STATE", "TICKET", "GOOD UNTIL", "JOB'S END"),
            whole=("JOB", "STATE", "TICKET", "GOOD UNTIL", "JOB'S END"),
            dropped=("STATE", "NAME", "GOOD UNTIL"),
            right=("JOB",),
            colours={"ok": "green", "covered": "green", "TOO": "red", "missing": "red", "expired": "red"},
        )
        click.echo()
        table.print([_row(job) for job in jobs])
    if any(job.credential.covers_job is False for job in jobs):
        warn("log in again before a ticket ends: hipercow-slurm login")


def _as_json(job: JobInfo) -> dict[str, Any]:
    credential = job.raw.get("credential") or {}
    return {"job_id": job.job_id, "name": job.name, "state": job.state, **credential}


def _row(job: JobInfo) -> tuple[str, ...]:
    credential = job.credential
    until = credential.validity.renewable_until or credential.validity.valid_until
    ticket = credential.state
    if ticket in ("ok", "expiring"):
        ticket = {True: "covered", False: "TOO SHORT", None: "ok"}[credential.covers_job]
    end = f"{job.end_time.astimezone():%Y-%m-%d %H:%M}" if job.end_time else "not known"
    cells = (str(job.job_id), job.name, job.state, ticket, f"{until.astimezone():%Y-%m-%d %H:%M}" if until else "", end)
    return tuple(clean(cell) for cell in cells)


def _validity(validity: Validity) -> str:
    if validity.renewable_until is None:
        return f"good until {when(validity.valid_until)}, cannot be renewed"
    now = f"{validity.valid_until.astimezone():%m-%d %H:%M}" if validity.valid_until else "never"
    return f"renewed until {when(validity.renewable_until)}; good until {now}"
