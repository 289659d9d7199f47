"""The ``hipercow-slurm`` program: a table of subcommands, each imported only when it is called.

Users' commands work in the base install; operators' commands need an extra and say so when it is missing.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import NoReturn

import click
from click.shell_completion import CompletionItem

from hipercow_slurm import __version__
from hipercow_slurm.errors import Error, InternalError, RequestError

OPERATORS = ("server", "agent")
TRACEBACK = "HIPERCOW_SLURM_TRACEBACK"
INTERRUPTED, BROKEN_PIPE = 130, 141

# name -> (module:attribute, extra that brings its libraries, one-line help)
COMMANDS: dict[str, tuple[str, str | None, str]] = {
    "login": ("cli.user:login", None, "Log in with your password or your Kerberos ticket."),
    "logout": ("cli.user:logout", None, "End this session."),
    "submit": ("cli.submit:submit", None, "Submit a job script."),
    "jobs": ("cli.jobs:jobs", None, "List your jobs."),
    "show": ("cli.jobs:show", None, "Show one job."),
    "logs": ("cli.jobs:logs", None, "Print a job's output."),
    "cancel": ("cli.actions:cancel", None, "Cancel jobs."),
    "hold": ("cli.actions:hold", None, "Keep waiting jobs from starting."),
    "release": ("cli.actions:release", None, "Let held jobs go."),
    "requeue": ("cli.actions:requeue", None, "Put jobs back into the queue."),
    "cp": ("cli.files:cp", None, "Copy files to the cluster or from it."),
    "ls": ("cli.files:ls", None, "List a directory on the cluster."),
    "mkdir": ("cli.files:mkdir", None, "Make directories on the cluster."),
    "ticket": ("cli.ticket:ticket", None, "Show until when your ticket is good, and for which jobs."),
    "sessions": ("cli.user:sessions", None, "List or end your sessions."),
    "clusters": ("cli.user:clusters", None, "List the clusters you know."),
    "hipercow": ("cli.hipercow:hipercow", "hipercow", "hipercow's own commands, with the driver 'slurm'."),
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches

            near = get_close_matches(args[0], COMMANDS, n=3)
            meant = f" Did you mean {' or '.join(near)}?" if near else ""
            raise click.UsageError(f"there is no command {args[0]!r}.{meant}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # click's own way would import every command, and fail where an extra is missing.
        names = [CompletionItem(name, help=row[2]) for name, row in COMMANDS.items() if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        users = [(name, help_) for name, (_, extra, help_) in COMMANDS.items() if extra not in OPERATORS]
        operators = [(name, help_) for name, (_, extra, help_) in COMMANDS.items() if extra in OPERATORS]
        for title, rows in (("Commands", users), ("For operators", operators)):
            with formatter.section(title):
                formatter.write_dl(rows)


EXIT_STATUS = """\b
Exit status:
  0 done, 2 the request makes no sense, 3 log in again, 4 not allowed, 5 Slurm
  refused, 6 or 70 a fault of ours or the server's, 75 try again later, 78 the
  configuration is wrong, 130 interrupted; submit --wait: the job's own

\b
Where to begin:
  hipercow-slurm login --url https://HOST:PORT
  hipercow-slurm submit --wait --wrap 'echo hello from $(hostname)'
  hipercow-slurm COMMAND --help      examples for each command
"""


def _json(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """People write it before the command, too."""
    if value:
        ctx.default_map = {name: {"as_json": True} for name in COMMANDS}


def _cluster(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value:
        from hipercow_slurm.cli.common import remember

        remember(ctx, param, value)


@click.command(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]}, epilog=EXIT_STATUS)
@click.version_option(__version__, prog_name="hipercow-slurm")
@click.option("--json", "as_json", is_flag=True, expose_value=False, callback=_json, help="As each command's --json.")
@click.option("-M", "--cluster", metavar="NAME", expose_value=False, callback=_cluster, help="As each command's -M.")
def program() -> None:
    """Submit Slurm jobs from anywhere, with a Kerberos ticket that lives as long as the job."""


def main() -> None:
    """Run the program; an error becomes one sentence, a hint and its family's exit status, never a stack trace."""
    try:
        status = program.main(prog_name="hipercow-slurm", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(status if isinstance(status, int) else 0)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has seen enough; Python must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)
    except click.ClickException as error:
        _refuse(error)
    except Error as error:
        if os.environ.get(TRACEBACK):
            raise
        _print(error)
        sys.exit(error.EXIT)
    except Exception as error:
        if os.environ.get(TRACEBACK) or not _for_users(sys.argv[1:]):
            raise
        _print(InternalError(f"{type(error).__name__}: {error}", hint=f"report this, with what {TRACEBACK}=1 shows"))
        sys.exit(InternalError.EXIT)


def _refuse(error: click.ClickException) -> NoReturn:
    """A command line that makes no sense."""
    if "--json" in sys.argv[1:]:
        _print(RequestError(error.format_message(), code="usage"))
    else:
        error.show()
    sys.exit(error.exit_code)


def _print(error: Error) -> None:
    from hipercow_slurm.cli.common import print_error

    print_error(error)


def _for_users(arguments: list[str]) -> bool:
    """A command of the base install; an operator's program shows where it failed."""
    command = next((word for word in arguments if not word.startswith("-")), "")
    return command in COMMANDS and COMMANDS[command][1] not in OPERATORS
