"""``hipercow-slurm doctor``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

MARKS = {"good": "good   ", "warning": "warning", "bad": "BAD    "}


@click.command()
@click.argument("job_id", metavar="[JOBID]", type=click.IntRange(1, 2**32 - 2), required=False)
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("/etc/hipercow-slurm/agent.toml"),
    show_default=True,
    help="This host's agent.toml.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON list of the hops.")
def doctor(job_id: int | None, config: Path, as_json: bool) -> None:
    """Walk the way of a job's ticket hop by hop: where does it stop, and what is to be done.

    On a node of the job, as root or as its owner; without JOBID it looks at this host. Changes nothing. Exits with 1
    if a hop is bad.
    """
    from hipercow_slurm.agent import doctor as agent_doctor
    from hipercow_slurm.agent.doctor_hops import Patient

    hops = []
    for hop in agent_doctor.walk(Patient(config, job_id)):
        hops.append(hop)
        if not as_json:
            click.echo(f"{MARKS[hop.result]}  {hop.hop}: {hop.sentence}")
            if hop.todo and hop.result != "good":
                click.echo(f"         -> {hop.todo}")
    if as_json:
        click.echo(json.dumps(agent_doctor.as_dicts(hops), indent=2))
    if any(hop.result == "bad" for hop in hops):
        sys.exit(1)
