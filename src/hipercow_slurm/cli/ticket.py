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
    if found.cache is None:
        click.echo("  jobs     no ticket: log in again before you submit")
    else:
        click.echo(f"  jobs     {_validity(found.cache)}")
    if jobs:
        from hipercow_slurm.cli.table import print_table

        click.echo()
        print_table(("JOB", "NAME", "STATE", "COVERED"), [_row(job) for job in jobs])
    if any(job.credential.covers_job is False for job in jobs):
        warn("log in again before a ticket ends: hipercow-slurm login")


def _as_json(job: JobInfo) -> dict[str, Any]:
    credential = job.raw.get("credential") or {}
    return {"job_id": job.job_id, "name": job.name, "state": job.state, **credential}


def _row(job: JobInfo) -> tuple[str, ...]:
    credential = job.credential
    until = credential.validity.renewable_until or credential.validity.valid_until
    covered = {True: "to its end", False: "NOT to its end", None: "cannot tell"}[credential.covers_job]
    if credential.state in ("missing", "expired"):
        covered = f"no: the ticket is {credential.state}"
    elif credential.covers_job is not True and until is not None:
        covered += f": good until {when(until)}"
    return tuple(clean(cell) for cell in (str(job.job_id), job.name, job.state, covered))


def _validity(validity: Validity) -> str:
    if validity.renewable_until is None:
        return f"good until {when(validity.valid_until)}, cannot be renewed"
    return f"good until {when(validity.valid_until)}, renewed until {when(validity.renewable_until)}"
