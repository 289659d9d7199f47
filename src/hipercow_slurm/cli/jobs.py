"""``jobs``, ``show`` and ``logs``: looking."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click

from hipercow_slurm.cli.common import EXAMPLES, JobId, connect, print_json, user_options, when
from hipercow_slurm.cli.completion import job_ids, partitions, states
from hipercow_slurm.client.models import JobInfo
from hipercow_slurm.client.problems import clean
from hipercow_slurm.client.sync import watch
from hipercow_slurm.client.sync.client import Client
from hipercow_slurm.errors import RequestError


@click.command(
    epilog=EXAMPLES
    + "  hipercow-slurm jobs\n"
    + "  hipercow-slurm jobs --watch             # until Ctrl-C; --watch=10: every ten seconds\n"
    + "  hipercow-slurm jobs -t RUNNING -n 'fit-*'\n"
    + "  hipercow-slurm jobs --json | jq '.[].job_id'"
)
@click.option(
    "-t",
    "--state",
    "wanted",
    multiple=True,
    metavar="STATE",
    shell_complete=states,
    help="Only jobs in this state (PENDING, RUNNING, ...).",
)
@click.option("-n", "--name", metavar="PATTERN", help="Only jobs of this name, with * and ?.")
@click.option("-p", "--partition", metavar="NAME", shell_complete=partitions, help="Only jobs in this partition.")
@click.option("--since", metavar="TIME", help="Only jobs submitted then or later: 2030-01-31T20:00:00Z.")
@click.option("-a", "--all", "forgotten", is_flag=True, help="Also jobs submitted here that Slurm has forgotten.")
@click.option(
    "-w",
    "--watch",
    "every_s",
    type=click.FloatRange(0.5),
    is_flag=False,
    flag_value=2.0,
    metavar="[SECONDS]",
    help="Show the table anew every 2 (or so many) seconds.",
)
@user_options
def jobs(
    wanted: tuple[str, ...],
    name: str | None,
    partition: str | None,
    since: str | None,
    forgotten: bool,
    every_s: float | None,
    as_json: bool,
) -> None:
    """List your jobs: those that wait or run, and those that ended not long ago."""
    asked = {"name": name, "partition": partition, "since": since, "state": ",".join(wanted).upper()}
    query: dict[str, str | int] = {key: value for key, value in asked.items() if value}
    if forgotten:
        query["forgotten"] = "true"
    if every_s is not None:
        _watch(query, every_s, as_json=as_json)
        return
    with connect() as client:
        found = client.job_infos(**query)
    if as_json:
        print_json([job.raw for job in found])
    elif not found:
        click.echo("no jobs", err=True)
    else:
        from hipercow_slurm.cli.job_table import print_jobs

        print_jobs(found)


def _watch(query: dict[str, str | int], every_s: float, *, as_json: bool) -> None:
    if as_json or not sys.stdout.isatty():
        raise click.UsageError("--watch is for people at a terminal; a program asks again with jobs --json")
    from hipercow_slurm.cli.job_table import watch_jobs

    with connect(on_retry=None, patience_s=0.0) as client:
        watch_jobs(lambda: client.job_infos(**query), client.url, every_s)


@click.command(epilog=EXAMPLES + "  hipercow-slurm show 17\n  hipercow-slurm show --json 17 | jq .credential")
@click.argument("job_id", type=JobId(), shell_complete=job_ids())
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
    raw = job.raw
    rows = [
        ("reason", job.reason or ""),
        ("result", ended if job.ended else ""),
        ("partition", job.partition),
        ("submitted", when(job.submit_time) if job.submit_time else ""),
        ("started" if job.state != "PENDING" else "starts", when(job.start_time) if job.start_time else ""),
        ("ended", when(job.end_time) if job.ended and job.end_time else ""),
        ("limit", f"{job.time_limit_min} min" if job.time_limit_min else ""),
        ("folder", str(raw.get("working_directory") or "")),
        ("output", str(raw.get("output") or "")),
        ("errors", str(raw.get("error") or "") if raw.get("error") != raw.get("output") else ""),
        ("ticket", "" if job.ended else f"{job.credential.state}: {job.credential.sentence}".rstrip(": ")),
    ]
    return [(label, value) for label, value in rows if value]


@click.command(
    epilog=EXAMPLES
    + "  hipercow-slurm logs 17\n  hipercow-slurm logs -f 17\n  hipercow-slurm logs --stderr 17 > errors.txt"
)
@click.argument("job_id", type=JobId(), shell_complete=job_ids())
@click.option("-f", "--follow", "follow_", is_flag=True, help="Go on as the output grows, until the job has ended.")
@click.option("-e", "--stderr", is_flag=True, help="Standard error instead of standard output.")
@user_options
def logs(job_id: int, follow_: bool, stderr: bool, as_json: bool) -> None:
    """Print what a job has written, as it is."""
    stream = "stderr" if stderr else "stdout"
    with connect() as client:
        if as_json:
            print_json({"job_id": job_id, "stream": stream, "output": _text(client, job_id, stream, follow_)})
            return
        out = sys.stdout.buffer
        for data in _pieces(client, job_id, stream, follow_):
            out.write(data)
            out.flush()


def _pieces(client: Client, job_id: int, stream: str, follow: bool) -> Iterator[bytes]:
    return watch.follow(client, job_id, stream=stream, poll_s=1.0) if follow else _so_far(client, job_id, stream)


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


def _text(client: Client, job_id: int, stream: str, follow: bool) -> Any:
    return b"".join(_pieces(client, job_id, stream, follow)).decode("utf-8", "replace")
