"""``hipercow-slurm hipercow ...``: hipercow's own program with the driver 'slurm' in it, and three words of our own.

hipercow's command imports the drivers it knows and no others, so the words go through here: the driver registers
itself, then hipercow reads the command line as if it had been called by itself.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

import click
from hipercow.cli import cli, cli_safe
from hipercow.root import open_root

from hipercow_slurm.hipercow import checking, settling
from hipercow_slurm.hipercow.driver import in_hipercows_words

# Commands that tell statuses, and those that wait for one.
_LOOK = {("task", "status"), ("task", "list"), ("task", "log"), ("bundle", "status")}
_WAIT = {("task", "wait"), ("repl",)}


@click.group()
def slurm() -> None:
    """Commands for interacting with the Slurm cluster."""


@slurm.command()
def check() -> None:
    """Check everything is good to use hipercow on the Slurm cluster."""
    checking.check()


@slurm.command()
@click.argument("task_id", nargs=-1, required=True)
def cancel(task_id: tuple[str, ...]) -> None:
    """Cancel tasks."""
    checking.cancel(task_id)


@slurm.command()
def settle() -> None:
    """Write the last status of tasks whose job Slurm ended early.

    The commands that show a status or wait do this by themselves.
    """
    with in_hipercows_words():
        settled = settling.settle()
    for task_id, status in settled.items():
        click.echo(f"{task_id}: {status}")


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False, "help_option_names": []}
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def hipercow(words: tuple[str, ...]) -> None:
    """Run hipercow with the driver 'slurm'."""
    cli.add_command(slurm)
    sys.argv = ["hipercow-slurm hipercow", *words]
    with _looking_after(words):
        cli_safe()  # type: ignore[no-untyped-call]


def _looking_after(words: Sequence[str]) -> contextlib.AbstractContextManager[object]:
    """What is needed for the command to meet no task that only looks as if it ran."""
    waits = any(tuple(words[: len(one)]) == one for one in _WAIT)
    waits = waits or (tuple(words[:2]) == ("task", "create") and "--wait" in words)
    looks = tuple(words[:2]) in _LOOK
    if not (waits or looks):
        return contextlib.nullcontext()
    try:
        root = open_root()
    except Exception:  # hipercow will say it in its own words
        return contextlib.nullcontext()
    if waits:
        return settling.Watcher(root)
    checking.settle_quietly()
    return contextlib.nullcontext()
