"""``submit``: a script, or a command, with sbatch's options."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from hipercow_slurm.cli.common import EXAMPLES, connect, print_json, user_options, warn
from hipercow_slurm.cli.sbatch import sbatch_options
from hipercow_slurm.client import local
from hipercow_slurm.client.models import JobInfo
from hipercow_slurm.client.problems import clean
from hipercow_slurm.client.sync.client import Client
from hipercow_slurm.errors import Error, RequestError, SchedulerError
from hipercow_slurm.sbatch import directives, environment
from hipercow_slurm.sbatch_options import OWN


@click.command(
    epilog=EXAMPLES
    + "  hipercow-slurm submit -t 30 --mem 4G job.sh\n"
    + "  hipercow-slurm submit -N 2 -J test --wrap 'srun hostname'\n"
    + "  hipercow-slurm submit --wait job.sh > results.txt      # the job's output, and its exit status\n"
    + "  id=$(hipercow-slurm submit --parsable job.sh)\n"
    + "  make-script | hipercow-slurm submit -"
)
@click.argument("script", required=False, type=click.Path(allow_dash=True))
@sbatch_options
@click.option("--wrap", metavar="COMMAND", help="Submit this shell command instead of a script.")
@click.option(
    "-W", "--wait", "wait_", is_flag=True, help="Wait for the job's end, show its output, and end with its exit status."
)
@click.option("--no-log", is_flag=True, help="With --wait: do not show the output.")
@click.option("--parsable", is_flag=True, help="Print the job's id and nothing else.")
@click.option("--ignore-directives", is_flag=True, help="Do not read #SBATCH lines in the script.")
@click.option("--idempotency-key", metavar="KEY", help="Repeat a submission whose answer was lost.")
@user_options
@click.pass_context
def submit(
    ctx: click.Context,
    /,
    script: str | None,
    wrap: str | None,
    wait_: bool,
    no_log: bool,
    parsable: bool,
    ignore_directives: bool,
    idempotency_key: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Submit the job script SCRIPT (a file, or - for standard input).

    Options are sbatch's, also in #SBATCH lines of the script; the command line wins. The job gets a Kerberos ticket
    of yours that is kept fresh as long as the job lives.
    """
    if (script is None) == (wrap is None):
        raise click.UsageError("give either a script (- for standard input) or --wrap COMMAND", ctx)
    text, name = _script(script) if script is not None else (f"#!/bin/sh\n{wrap}\n", "wrap")
    asked = {} if ignore_directives else directives(text, own=True)
    own = {option.key: asked.pop(option.key, False) for option in OWN}
    wait_, parsable = wait_ or own["wait"], parsable or own["parsable"]
    given = {key: options[key] for key in options if ctx.get_parameter_source(key) is ParameterSource.COMMANDLINE}
    spec = _spec(text, name, {**asked, **given})
    with connect() as client:
        job = _submitted(client, spec, idempotency_key)
        # While its output goes to standard output, nothing else does.
        log = wait_ and not (no_log or parsable or as_json)
        _announce(job, as_json=as_json and not wait_, parsable=parsable, quiet=as_json or own["quiet"], err=log)
        for warning in job.warnings:
            # Slurm warns that a job is held; whoever asked for just that knows.
            if not (spec.get("hold") and "held state" in warning):
                warn(clean(warning))
        if wait_:
            ctx.exit(_wait(client, job, as_json=as_json, log=log))


def _submitted(client: Client, spec: dict[str, Any], idempotency_key: str | None) -> JobInfo:
    try:
        return client.submit(**spec, idempotency_key=idempotency_key).info
    except SchedulerError as error:
        if error.hint is None and "partition" in error.message.lower():
            with contextlib.suppress(Error):
                names = ", ".join(str(one.get("name")) for one in client.partitions())
                error.hint = clean(f"the partitions here are {names}")
        raise


def _spec(script: str, name: str | None, wanted: dict[str, Any]) -> dict[str, Any]:
    """The API's JSON object; only what was asked for is in it. #SBATCH lines have been read here, if at all."""
    spec: dict[str, Any] = {"script": script, **({"name": name} if name else {}), **wanted}
    spec["environment"] = environment(spec.pop("export", ()), os.environ)
    spec["ignore_directives"] = "#SBATCH" in script
    return {
        key: value
        for key, value in spec.items()
        if value not in (None, {}) and (value is not False or key != "ignore_directives")
    }


def _script(argument: str) -> tuple[str, str | None]:
    """The script's text, and the job's name if none is given."""
    if argument != "-":
        path = Path(argument)
        text, name = local.text(path), path.name
    else:
        if sys.stdin.isatty():
            click.echo("Type the script; Ctrl-D ends it.", err=True)
        text, name = local.script(sys.stdin.buffer.read(local.SCRIPT_LIMIT + 1), "standard input"), None
    if not text.startswith("#!"):
        raise RequestError(
            f"{'standard input' if name is None else argument} is not a script: it does not begin with #!",
            code="no-script",
            hint="begin it with a line like #!/bin/bash, or give the command with --wrap",
        )
    return text, name


def _announce(job: JobInfo, *, as_json: bool, parsable: bool, quiet: bool, err: bool) -> None:
    """In sbatch's own words, which scripts know how to read."""
    if as_json:
        print_json(job.raw)
    elif parsable:
        click.echo(str(job.job_id))
    elif not quiet:
        click.echo(f"Submitted batch job {job.job_id}", err=err)


def _wait(client: Client, job: JobInfo, *, as_json: bool, log: bool) -> int:
    """Wait for the end, saying on standard error what the job does; its exit status."""
    from hipercow_slurm.cli.live import accompany

    try:
        job = accompany(client, job, log=log)
    except KeyboardInterrupt:
        click.echo(f"job {job.job_id} goes on without you.", err=True)
        click.echo(
            f"hint: hipercow-slurm logs -f {job.job_id}, or to end it: hipercow-slurm cancel {job.job_id}", err=True
        )
        return 130
    if as_json:
        print_json(job.raw)
    return job.exit_status
