"""``cancel``, ``hold``, ``release`` and ``requeue``: the same for one job and for many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from hipercow_slurm.cli.common import EXAMPLES, JobId, connect, print_error, print_json, user_options
from hipercow_slurm.cli.completion import job_ids
from hipercow_slurm.client.sync.client import Client
from hipercow_slurm.errors import Error


def _ids(states: tuple[str, ...] = ()) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The argument of all these commands."""
    return click.argument(
        "ids", type=JobId(), nargs=-1, required=True, metavar="JOB_ID...", shell_complete=job_ids(*states)
    )


@click.command(
    epilog=EXAMPLES
    + "  hipercow-slurm cancel 17 18\n"
    + "  hipercow-slurm cancel --signal USR1 17      # tell a job something, as scancel does\n"
    + "  hipercow-slurm jobs --json -t PENDING | jq '.[].job_id' | xargs hipercow-slurm cancel"
)
@_ids(("PENDING", "RUNNING", "SUSPENDED"))
@click.option("-s", "--signal", metavar="NAME", help="Send this signal (USR1, TERM, ...) and nothing else.")
@user_options
def cancel(ids: tuple[int, ...], signal: str | None, as_json: bool) -> None:
    """Cancel jobs. Those that cannot be cancelled do not keep the others from it."""
    if signal is None:
        _each(ids, lambda client, job_id: client.cancel(job_id), "cancelled", as_json)
    else:
        _each(ids, lambda client, job_id: client.signal(job_id, signal), "signalled", as_json)


@click.command(epilog=EXAMPLES + "  hipercow-slurm hold 17 18")
@_ids(("PENDING",))
@user_options
def hold(ids: tuple[int, ...], as_json: bool) -> None:
    """Keep waiting jobs from starting until you release them."""
    _each(ids, lambda client, job_id: client.hold(job_id), "held", as_json)


@click.command(epilog=EXAMPLES + "  hipercow-slurm release 17 18")
@_ids(("PENDING",))
@user_options
def release(ids: tuple[int, ...], as_json: bool) -> None:
    """Let held jobs go. (Jobs held for want of a ticket go by themselves when you log in.)"""
    _each(ids, lambda client, job_id: client.release(job_id), "released", as_json)


@click.command(epilog=EXAMPLES + "  hipercow-slurm requeue 17")
@_ids(("RUNNING",))
@user_options
def requeue(ids: tuple[int, ...], as_json: bool) -> None:
    """Put jobs back into the queue, to begin anew."""
    _each(ids, lambda client, job_id: client.requeue(job_id), "requeued", as_json)


def _each(ids: tuple[int, ...], act: Callable[[Client, int], object], done: str, as_json: bool) -> None:
    """Act on every job; the exit status is that of the first refusal."""
    outcome: list[dict[str, Any]] = []
    status = 0
    with connect() as client:
        for job_id in ids:
            try:
                act(client, job_id)
            except Error as error:
                if len(ids) == 1 and not as_json:
                    raise
                status = status or error.EXIT
                outcome.append({"job_id": job_id, done: False, "code": error.code, "error": error.message})
                if not as_json:
                    print_error(error)
            else:
                outcome.append({"job_id": job_id, done: True})
                if not as_json:
                    click.echo(f"{done} job {job_id}")
    if as_json:
        print_json(outcome)
    click.get_current_context().exit(status)
