"""``completion``, and what is completed: job ids and partitions, asked of the cluster while somebody waits.

Rule 1: a shell that completes must never hang, ask for a password or print a message: one short try, or nothing.
"""

from __future__ import annotations

import os

import click

from hipercow_slurm.cli.common import EXAMPLES
from hipercow_slurm.errors import RequestError


@click.command(
    epilog=EXAMPLES
    + '  eval "$(hipercow-slurm completion bash)"      # in ~/.bashrc\n'
    + '  eval "$(hipercow-slurm completion zsh)"       # in ~/.zshrc\n'
    + "  hipercow-slurm completion fish | source       # in ~/.config/fish/config.fish"
)
@click.argument("shell", required=False, type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str | None) -> None:
    """Print a script that lets SHELL complete commands and options (default: the shell you use)."""
    from click.shell_completion import get_completion_class

    shell = shell or os.environ.get("SHELL", "").rpartition("/")[2]
    kind = get_completion_class(shell)
    if kind is None:
        raise RequestError(f"no completion for the shell {shell!r}", hint="name one: bash, zsh or fish")
    root = ctx.find_root()
    click.echo(kind(root.command, {}, root.info_name or "", "_HIPERCOW_SLURM_COMPLETE").source())
