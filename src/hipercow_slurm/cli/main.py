"""The ``hipercow-slurm`` program: a table of subcommands, each imported only when it is called.

Users' commands work in the base install; operators' commands need an extra and say so when it is missing.
"""

from __future__ import annotations

import importlib
import os
import sys

import click
from click.shell_completion import CompletionItem

from hipercow_slurm import __version__
from hipercow_slurm.errors import Error

# name -> (module:attribute, extra that brings its libraries, one-line help)
COMMANDS: dict[str, tuple[str, str | None, str]] = {
    "login": ("cli.user:login", None, "Log in with your password or your Kerberos ticket."),
    "logout": ("cli.user:logout", None, "End this session."),
    "submit": ("cli.jobs:submit", None, "Submit a job script."),
    "jobs": ("cli.jobs:jobs", None, "List your jobs."),
    "show": ("cli.jobs:show", None, "Show one job."),
    "logs": ("cli.jobs:logs", None, "Print a job's output."),
    "cancel": ("cli.jobs:cancel", None, "Cancel jobs."),
    "ticket": ("cli.ticket:ticket", None, "Show until when your ticket is good, and for which jobs."),
    "sessions": ("cli.user:sessions", None, "List or end your sessions."),
    "clusters": ("cli.user:clusters", None, "List the clusters you know."),
    "completion": ("cli.completion:completion", None, "Print your shell's completion script."),
    "api": ("cli.operator:api", "server", "Run the HTTP API."),
    "signer": ("cli.operator:signer", "server", "Run the token signer."),
    "auksd": ("cli.operator:auksd", "server", "Run the credential cache."),
    "agent": ("cli.operator:agent", "agent", "Run the node agent."),
    "upload": ("cli.operator:upload", "agent", "Hand your own ticket to the credential cache."),
    "doctor": ("cli.doctor:doctor", "agent", "Walk the way of a job's ticket: where does it stop, and why."),
    "auks": ("cli.auks:auks", "agent", "AUKS' own command line client: the same words, lines and exit status."),
    "config": ("cli.convert:config", "server", "Turn an auks.conf into TOML, or back."),
    "audit": ("cli.audit:audit", "agent", "Check the audit logs of our programs."),
    "sandbox": ("cli.sandbox:sandbox", "server", "The project's own cluster in a box."),
}


class Lazy(click.Group):
    """A group whose commands are imported on use, so that ``submit`` never pays for the servers' imports."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        target, extra, _ = COMMANDS[cmd_name]
        module, attribute = target.split(":")
        try:
            command = getattr(importlib.import_module(f"hipercow_slurm.{module}"), attribute)
        except ModuleNotFoundError as error:
            if extra is None or (error.name or "").startswith("hipercow_slurm"):
                raise
            raise click.ClickException(
                f"{cmd_name} needs the library {error.name!r}: pip install 'hipercow-slurm[{extra}]'"
            ) from error
        assert isinstance(command, click.Command)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # click's own way would import every command, and fail where an extra is missing.
        names = [CompletionItem(name, help=row[2]) for name, row in COMMANDS.items() if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, help_) for name, (_, _, help_) in COMMANDS.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.command(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hipercow-slurm")
def program() -> None:
    """Submit Slurm jobs from anywhere, with a Kerberos ticket that lives as long as the job."""


def main() -> None:
    """Run the program; our own errors become one sentence, a hint and their family's exit code."""
    try:
        program(prog_name="hipercow-slurm", standalone_mode=True)
    except Error as error:
        if os.environ.get("HIPERCOW_SLURM_TRACEBACK"):
            raise
        click.echo(f"error: {error.message} [{error.code}]", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        sys.exit(error.EXIT)
