"""``submit``, ``jobs``, ``show``, ``logs`` and ``cancel``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from hipercow_slurm.cli.common import EXAMPLES, clock, connect, print_json, user_options, warn, when
from hipercow_slurm.cli.sbatch import sbatch_options
from hipercow_slurm.client.models import JobInfo
from hipercow_slurm.client.problems import clean
from hipercow_slurm.client.sync import watch
from hipercow_slurm.client.sync.client import Client
from hipercow_slurm.errors import Error, RequestError
from hipercow_slurm.sbatch import directives, environment

SCRIPT_LIMIT = 16 * 2**20


@click.command(
    epilog=EXAMPLES
    + "  hipercow-slurm submit -t 30 --mem 4G job.sh\n"
    + "  hipercow-slurm submit -N 2 -J test --wrap 'srun hostname'\n"
    + "  make-script | hipercow-slurm submit --wait -"
)
@click.argument("script", required=False)
@sbatch_options
@click.option("--wrap", metavar="COMMAND", help="Submit this shell command instead of a script.")
@click.option("-W", "--wait", "wait_", is_flag=True, help="Wait for the job's end, and end with its status.")
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
    asked = {} if ignore_directives else directives(text)
    given = {key: options[key] for key in options if ctx.get_parameter_source(key) is ParameterSource.COMMANDLINE}
    with connect() as client:
        spec = _spec(text, name, {**asked, **given})
        job = client.submit(**spec, idempotency_key=idempotency_key).info
        _announce(job, as_json=as_json and not wait_, parsable=parsable, quiet=as_json)
        for text in job.warnings:
            warn(clean(text))
        if wait_:
            ctx.exit(_wait(client, job.job_id, as_json=as_json))


def _spec(script: str, name: str | None, wanted: dict[str, Any]) -> dict[str, Any]:
    """The API's JSON object; only what was asked for is in it. #SBATCH lines have been read here, if at all."""
    spec: dict[str, Any] = {"script": script, **({"name": name} if name else {}), **wanted}
    spec["environment"] = environment(spec.pop("export", ()), os.environ)
    spec["ignore_directives"] = "#SBATCH" in script
    return {
        key: value
        for key, value in spec.items()
        if value not in (None, {}) and (value is not False or key == "requeue")
    }


def _script(argument: str) -> tuple[str, str | None]:
    """The script's text, and the job's name if none is given."""
    what = "standard input" if argument == "-" else argument
    try:
        with click.open_file(argument, "rb") as file:
            data = file.read(SCRIPT_LIMIT + 1)
        if len(data) > SCRIPT_LIMIT:
            raise RequestError(f"{what} has more than {SCRIPT_LIMIT} bytes", code="script-too-large", status=413)
        return data.decode("utf-8"), None if argument == "-" else Path(argument).name
    except OSError as error:
        raise RequestError(f"cannot read the script {what}: {error.strerror}", code="no-script") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{what} is not a script: it is not text in UTF-8", code="no-script") from error


def _announce(job: JobInfo, *, as_json: bool, parsable: bool, quiet: bool) -> None:
    """In sbatch's own words, which scripts know how to read."""
    if as_json:
        print_json(job.raw)
    elif parsable:
        click.echo(str(job.job_id))
    elif not quiet:
        click.echo(f"Submitted batch job {job.job_id}")


class _StatusLine:
    """What a job does, on standard error: one line that changes on a terminal, else a line for each change."""

    def __init__(self, job_id: int) -> None:
        self._what, self._last, self._terminal = f"job {job_id}", "", sys.stderr.isatty()

    def seen(self, job: JobInfo) -> None:
        reason = f" ({clean(job.reason)})" if job.reason and not job.ended else ""
        since = datetime.now(UTC) - (job.start_time or job.submit_time or datetime.now(UTC))
        status = f"{self._what} {job.state}{reason}"
        self._write(status, live="" if job.ended else f"{status} {clock(since)}")

    def trouble(self, error: Error) -> None:
        self._write(f"{error.message}; still waiting", live="")

    def _write(self, text: str, *, live: str) -> None:
        if self._terminal and live:
            # Back to the line's start, and clear what the last status left of it.
            click.echo(f"\r\x1b[K{live}", nl=False, err=True)
        elif text != self._last:
            click.echo(f"\r\x1b[K{text}" if self._terminal else text, err=True)
        self._last = text


def _wait(client: Client, job_id: int, *, as_json: bool) -> int:
    """Wait for the end, saying on standard error what the job does; its exit status."""
    status = _StatusLine(job_id)
    try:
        job = watch.wait(client, job_id, on_progress=status.seen, on_trouble=status.trouble)
    except KeyboardInterrupt:
        click.echo(f"\njob {job_id} goes on without you; see: hipercow-slurm show {job_id}", err=True)
        return 130
    if as_json:
        print_json(job.raw)
    return job.exit_status


@click.command(
    epilog=EXAMPLES + "  hipercow-slurm jobs\n  hipercow-slurm jobs --state RUNNING --json | jq '.[].job_id'"
)
@click.option(
    "--state", "states", multiple=True, metavar="STATE", help="Only jobs in this state (PENDING, RUNNING, ...)."
)
@user_options
def jobs(states: tuple[str, ...], as_json: bool) -> None:
    """List your jobs: those that wait or run, and those that ended not long ago."""
    wanted = {state.upper() for state in states}
    with connect() as client:
        found = [job for job in client.job_infos() if not wanted or job.state in wanted]
    found.sort(key=lambda job: job.job_id)
    if as_json:
        print_json([job.raw for job in found])
    elif not found:
        click.echo("no jobs", err=True)
    else:
        from hipercow_slurm.cli.table import print_jobs

        print_jobs(found)


@click.command()
@click.argument("job_id", type=click.IntRange(1))
@user_options
def show(job_id: int, as_json: bool) -> None:
    """Show one job, and until when its ticket is good."""
    with connect() as client:
        job = client.job_info(job_id)
    if as_json:
        print_json(job.raw)
        return
    where = f" on {', '.join(job.nodes)}" if job.nodes else ""
    click.echo(clean(f"job {job.job_id} {job.name}: {job.state}{where}"))
    for label, value in _details(job):
        click.echo(f"  {label:11}{clean(value)}")


def _details(job: JobInfo) -> list[tuple[str, str]]:
    """Label and value of what is known about a job."""
    ended = f"status {job.exit_code}" if job.exit_code is not None else ""
    if job.signal:
        ended = f"killed by signal {job.signal}"
    rows = [
        ("reason", job.reason or ""),
        ("result", ended if job.ended else ""),
        ("partition", job.partition),
        ("submitted", when(job.submit_time) if job.submit_time else ""),
        ("started" if job.state != "PENDING" else "starts", when(job.start_time) if job.start_time else ""),
        ("ended", when(job.end_time) if job.ended and job.end_time else ""),
        ("limit", f"{job.time_limit_min} min" if job.time_limit_min else ""),
        ("folder", str(job.raw.get("working_directory") or "")),
        ("output", str(job.raw.get("output") or "")),
        ("errors", str(job.raw.get("error") or "") if job.raw.get("error") != job.raw.get("output") else ""),
        ("ticket", "" if job.ended else f"{job.credential.state}: {job.credential.sentence}".rstrip(": ")),
    ]
    return [(label, value) for label, value in rows if value]


@click.command(
    epilog=EXAMPLES
    + "  hipercow-slurm logs 17\n  hipercow-slurm logs -f 17\n  hipercow-slurm logs --stderr 17 > errors.txt"
)
@click.argument("job_id", type=click.IntRange(1))
@click.option("-f", "--follow", "follow_", is_flag=True, help="Go on as the output grows, until the job has ended.")
@click.option("-e", "--stderr", is_flag=True, help="Standard error instead of standard output.")
@user_options
def logs(job_id: int, follow_: bool, stderr: bool, as_json: bool) -> None:
    """Print what a job has written, as it is."""
    stream = "stderr" if stderr else "stdout"
    with connect() as client:
        if as_json:
            _logs_as_json(client, job_id, stream)
            return
        out = sys.stdout.buffer
        read = _followed if follow_ else _so_far
        for data in read(client, job_id, stream):
            out.write(data)
            out.flush()


def _so_far(client: Client, job_id: int, stream: str) -> Iterator[bytes]:
    """The output as it is now, piece by piece."""
    offset = 0
    while True:
        piece = client.output_piece(job_id, stream=stream, offset=offset)
        if piece.size is None:
            state = f" (it is {piece.state})" if piece.state else ""
            raise RequestError(
                f"job {job_id} has no {stream} yet{state}",
                code="no-output-yet",
                status=404,
                hint=f"hipercow-slurm logs -f {job_id} waits for it",
            )
        offset += len(piece.data)
        if piece.data:
            yield piece.data
        if not piece.data or offset >= piece.size:
            return


def _followed(client: Client, job_id: int, stream: str) -> Iterator[bytes]:
    return watch.follow(client, job_id, stream=stream, poll_s=1.0)


def _logs_as_json(client: Client, job_id: int, stream: str) -> None:
    text = b"".join(_so_far(client, job_id, stream)).decode("utf-8", "replace")
    print_json({"job_id": job_id, "stream": stream, "output": text})


@click.command()
@click.argument("job_ids", type=click.IntRange(1), nargs=-1, required=True, metavar="JOB_ID...")
@user_options
@click.pass_context
def cancel(ctx: click.Context, /, job_ids: tuple[int, ...], as_json: bool) -> None:
    """Cancel jobs. Those that cannot be cancelled do not keep the others from it."""
    outcome: list[dict[str, Any]] = []
    status = 0
    with connect() as client:
        for job_id in job_ids:
            try:
                client.cancel(job_id)
                outcome.append({"job_id": job_id, "cancelled": True})
            except Error as error:
                if len(job_ids) == 1 and not as_json:
                    raise
                outcome.append({"job_id": job_id, "cancelled": False, "code": error.code, "error": error.message})
                status = status or error.EXIT
    if as_json:
        print_json(outcome)
    else:
        for row in outcome:
            if row["cancelled"]:
                click.echo(f"cancelled job {row['job_id']}")
            else:
                click.echo(f"error: {row['error']} [{row['code']}]", err=True)
    ctx.exit(status)
