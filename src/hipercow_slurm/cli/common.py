"""What the users' commands share: the cluster that is meant, the connection to it, and how things are written.

Rule 1: results go to standard output, everything else to standard error; ``--json`` prints the API's JSON.
Rule 2: only the base install is imported here, and rich only where a table is drawn: ``submit`` starts fast.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hipercow_slurm.client import profile
from hipercow_slurm.errors import Error

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from hipercow_slurm.client.sync.client import Client

F = TypeVar("F", bound=Callable[..., Any])

# Blank-line separated paragraphs that click must not wrap begin with this mark.
EXAMPLES = "\b\nExamples:\n"
_CLUSTER = "hipercow_slurm.cluster"


class JobId(click.ParamType):  # type: ignore[type-arg]  # older releases of click have no type arguments
    """The number that ``submit`` told."""

    name = "job id"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if not (text.isascii() and text.isdigit() and 0 < int(text[:12]) < 2**32 - 1):
            self.fail(f"{text!r} is not a job's number; `hipercow-slurm jobs` lists yours", param, ctx)
        return int(text)


def remember(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Note which cluster the command line names."""
    if value:
        ctx.meta[_CLUSTER] = value


def _cluster_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str | CompletionItem]:
    return [name for name in profile.names() if name and name.startswith(incomplete)]


def user_options(command: F) -> F:
    """The options of every command: ``--json`` (parameter ``as_json``) and ``--cluster``."""
    command = click.option("--json", "as_json", is_flag=True, help="Print JSON, also of errors.")(command)
    return click.option(
        "-M",
        "--cluster",
        metavar="NAME",
        expose_value=False,
        callback=remember,
        shell_complete=_cluster_names,
        help="Cluster of that name in your configuration.",
    )(command)


def named_cluster() -> str | None:
    """The cluster that was named on the command line."""
    name: str | None = click.get_current_context().meta.get(_CLUSTER)
    return name


def cluster_name() -> str | None:
    """The cluster that is meant; None: the one without a name."""
    return profile.chosen(named_cluster())


def connect(**how: Any) -> Client:
    """A client with the session that ``login`` saved; on a terminal it asks for the password when that has ended.

    Raises:
        ConfigError: "no-url", "no-cluster".
    """
    from hipercow_slurm.client.sync.client import Client

    return Client(cluster=cluster_name(), **{"on_retry": retrying, "password": _ask_again, "answer": answer, **how})


def _ask_again(username: str, url: str) -> str | None:
    """The password for a new session in the middle of a command, if there is somebody to ask."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    click.echo(f"You have no session at {url} (any more).", err=True)
    return ask_password(username, url)


def ask_password(username: str, url: str) -> str:
    """Ask on the terminal."""
    password: str = click.prompt(f"Password of {username} at {url}", hide_input=True, err=True)
    return password


def answer(text: str, hidden: bool) -> str | None:
    """The answer to a question of the KDC's, if there is somebody to ask."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    given: str = click.prompt(text.rstrip(": "), hide_input=hidden, err=True)
    return given


def retrying(error: Error, pause_s: float) -> None:
    """Say on a terminal why nothing happens; a script only wants to know what came of it."""
    if sys.stderr.isatty():
        click.echo(f"{error.message}; trying again in {pause_s:.0f} s", err=True)


def print_json(value: Any) -> None:
    """JSON on standard output, indented for people, one document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_error(error: Error) -> None:
    """An error and its hint on standard error; as JSON for whoever asked for JSON."""
    # A look at argv: the error may have come before the options were parsed.
    if "--json" in sys.argv[1:]:
        body = {"code": error.code, "message": error.message, "hint": error.hint, "exit_status": error.EXIT}
        click.echo(json.dumps({"error": body}, ensure_ascii=False), err=True)
        return
    _say(click.style("error:", fg="red"), f"{error.message} [{error.code}]")
    if error.hint:
        _say(click.style("hint:", bold=True), error.hint)


def tinted() -> bool | None:
    """What click.echo is told of colours: none where NO_COLOR is set, else those the terminal can show."""
    return False if os.environ.get("NO_COLOR") else None


def warn(text: str) -> None:
    """A line on standard error."""
    _say(click.style("warning:", fg="yellow"), text)


def _say(label: str, text: str) -> None:
    """A sentence on standard error; on a terminal broken between words."""
    line = f"{label} {text}"
    if sys.stderr.isatty():
        import shutil
        import textwrap

        # Codes, paths and options have hyphens in them: those stay in one piece, to be read and copied.
        width = shutil.get_terminal_size().columns
        line = textwrap.fill(line, width, break_on_hyphens=False, break_long_words=False)
    click.echo(line, err=True, color=tinted())


def when(moment: datetime | None, *, now: datetime | None = None) -> str:
    """``2026-03-01 14:00 (in 3 h 20 min)``, in the reader's time zone."""
    if moment is None:
        return "never"
    away = moment - (now or datetime.now(UTC))
    distance = f"in {span(away)}" if away > timedelta(0) else f"{span(-away)} ago"
    return f"{moment.astimezone():%Y-%m-%d %H:%M} ({distance})"


def span(length: timedelta) -> str:
    """The two greatest units of a length of time: ``3 h 20 min``."""
    seconds = int(length.total_seconds())
    units = (("d", seconds // 86400), ("h", seconds // 3600 % 24), ("min", seconds // 60 % 60), ("s", seconds % 60))
    first = next((index for index, (_, count) in enumerate(units) if count), len(units) - 1)
    return " ".join(f"{count} {unit}" for unit, count in units[first : first + 2] if count) or "0 s"


def clock(length: timedelta) -> str:
    """Slurm's notation for a length of time: ``1-02:03:04``, ``02:03``."""
    seconds = max(0, int(length.total_seconds()))
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    short = f"{minutes:02}:{seconds % 60:02}"
    if days:
        return f"{days}-{hours:02}:{short}"
    return f"{hours}:{short}" if hours else short
