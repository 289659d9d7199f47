"""``completion``, and what is completed beside options: job ids, states and partitions, asked of the cluster.

Rule 1: a shell that completes must never hang, ask for a password or print a message: one short try, or nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from hipercow_slurm.cli.common import EXAMPLES, connect
from hipercow_slurm.errors import Error, RequestError

if TYPE_CHECKING:
    from hipercow_slurm.client.sync.client import Client

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]
PATIENCE_S = 2.0
STATES = "PENDING RUNNING SUSPENDED COMPLETING COMPLETED FAILED CANCELLED TIMEOUT OUT_OF_MEMORY NODE_FAIL".split()  # noqa: SIM905


def job_ids(*wanted: str) -> Completer:
    """Ids of the user's jobs in these states (none: all), those not on the line already, the newest first."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        query: dict[str, str | int] = {"state": ",".join(wanted)} if wanted else {}
        found = _asked(ctx, lambda client: client.job_infos(**query))
        taken = {str(one) for one in ctx.params.get(param.name or "") or ()} if param.nargs == -1 else set()
        return [
            CompletionItem(str(job.job_id), help=f"{job.state} {job.name}")
            for job in reversed(found)
            if str(job.job_id).startswith(incomplete) and str(job.job_id) not in taken
        ]

    return complete


def partitions(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of partitions."""
    found = _asked(ctx, lambda client: client.partitions())
    names = [(str(one.get("name")), f"{one.get('state')}, {one.get('total_cpus')} CPUs") for one in found]
    return [CompletionItem(name, help=about) for name, about in names if name.startswith(incomplete)]


def states(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Slurm's words for what a job does."""
    return [CompletionItem(state) for state in STATES if state.startswith(incomplete.upper())]


def _asked(ctx: click.Context, ask: Callable[[Client], list[Any]]) -> list[Any]:
    """The cluster's answer, if there is one at once."""
    try:
        with (
            ctx.scope(cleanup=False),
            connect(password=None, keyring=False, patience_s=0.0, timeout_s=PATIENCE_S) as client,
        ):
            return ask(client)
    except Error:
        return []


@click.command(
    epilog=EXAMPLES
    + '  eval "$(hipercow-slurm completion bash)"      # in ~/.bashrc\n'
    + '  eval "$(hipercow-slurm completion zsh)"       # in ~/.zshrc\n'
    + "  hipercow-slurm completion fish | source       # in ~/.config/fish/config.fish"
)
@click.argument("shell", required=False, type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str | None) -> None:
    """Print a script that lets SHELL complete commands, options, job ids and partitions (default: your shell)."""
    from click.shell_completion import get_completion_class

    shell = shell or os.environ.get("SHELL", "").rpartition("/")[2]
    kind = get_completion_class(shell)
    if kind is None:
        raise RequestError(f"no completion for the shell {shell!r}", hint="name one: bash, zsh or fish")
    root = ctx.find_root()
    click.echo(kind(root.command, {}, root.info_name or "", "_HIPERCOW_SLURM_COMPLETE").source())
