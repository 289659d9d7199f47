"""sbatch's options as we take them, on the command line and in ``#SBATCH`` lines: the same table for both.

What of sbatch's we do not have is an error, never silently dropped: a job that should have had a GPU and runs without
is worse than one that is not submitted.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from hipercow_slurm.errors import RequestError

F = TypeVar("F", bound=Callable[..., Any])
if TYPE_CHECKING:
    IntType = click.ParamType[int]  # generic since click 8.2 or so
else:
    IntType = click.ParamType


class TimeLimit(IntType):
    """sbatch's ways to write a time, to minutes (rounded up): M, M:S, H:M:S, D-H, D-H:M, D-H:M:S."""

    name = "time"
    _FORM = re.compile(r"(?:(?P<d>\d{1,5})-(?P<dh>\d{1,5})(?::(?P<dm>\d{1,5})(?::(?P<ds>\d{1,5}))?)?)|(?P<r>[\d:]+)")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if str(value).upper() in ("UNLIMITED", "INFINITE"):
            self.fail("a job needs a time limit, so that its ticket can be told to last", param, ctx)
        match = self._FORM.fullmatch(str(value))
        if not match:
            self.fail(f"{value!r} is not a time like 90, 1:30:00, 2-12 or 1-12:30:00", param, ctx)
        if match["r"] is None:
            days, hours, minutes, seconds = (int(match[part] or 0) for part in ("d", "dh", "dm", "ds"))
        else:
            parts = match["r"].split(":")
            if len(parts) > 3 or not all(re.fullmatch(r"\d{1,7}", part) for part in parts):
                self.fail(f"{value!r} is not a time like 90, 1:30:00, 2-12 or 1-12:30:00", param, ctx)
            numbers = [int(part) for part in parts]
            days = 0
            hours, minutes, seconds = numbers if len(numbers) == 3 else (0, *numbers, 0)[:3]
        limit = math.ceil(((days * 24 + hours) * 60 + minutes) + seconds / 60)
        if limit < 1:
            self.fail("a job needs a time limit of at least a minute", param, ctx)
        return limit


class Memory(IntType):
    """sbatch's sizes, to MiB (rounded up): a number with K, M, G or T; M if there is none."""

    name = "size"
    _MIB = {"K": 1 / 1024, "": 1, "M": 1, "G": 1024, "T": 1024**2}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,12})([KMGT]?)B?", str(value).upper())
        if not match or not int(match[1]):
            self.fail(f"{value!r} is not a size like 500M or 4G", param, ctx)
        return math.ceil(int(match[1]) * self._MIB[match[2]])


class Count(IntType):
    """A whole number from 1 on."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if not re.fullmatch(r"[1-9]\d{0,8}", str(value)):
            self.fail(f"{value!r} is not a whole number from 1 on", param, ctx)
        return int(value)


class Nodes(Count):
    """A number of nodes; of sbatch's ranges only the ones that say a single number."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        low, dash, high = str(value).partition("-")
        if dash and low != high:
            self.fail(f"{value!r}: a range of nodes cannot be asked for", param, ctx)
        return super().convert(low, param, ctx)


COUNT = Count()

# option declarations, the API's key, type, help; in the order of --help
OPTIONS: list[tuple[tuple[str, ...], str, Any, str]] = [
    (("-J", "--job-name"), "name", str, "Name of the job (default: the script's)."),
    (("-p", "--partition"), "partition", str, "Partition to run in."),
    (("-A", "--account"), "account", str, "Account to charge."),
    (("-q", "--qos"), "qos", str, "Quality of service."),
    (("-t", "--time"), "time_limit_min", TimeLimit(), "Time limit: minutes, H:M:S, D-H, D-H:M:S."),
    (("-N", "--nodes"), "nodes", Nodes(), "Number of nodes."),
    (("-n", "--ntasks"), "tasks", COUNT, "Number of tasks."),
    (("-c", "--cpus-per-task"), "cpus_per_task", COUNT, "Processors for each task."),
    (("--mem",), "memory_mb", Memory(), "Memory on each node: 500M, 4G (no unit: MiB)."),
    (("-a", "--array"), "array", str, "Array of jobs: 0-9, 1,3,5, 0-99%10."),
    (("-D", "--chdir"), "working_directory", str, "Folder to run in (default: your home at the cluster)."),
    (("-o", "--output"), "output", str, "File for standard output, with sbatch's %j, %x, ..."),
    (("-e", "--error"), "error", str, "File for standard error (default: the same)."),
    (("--comment",), "comment", str, "Any text, shown with the job."),
]


def sbatch_options(command: F) -> F:
    """Give ``command`` sbatch's options; their parameters are the API's keys, with ``hold`` and ``export``."""
    command = click.option(
        "--export",
        multiple=True,
        metavar="NAME=VALUE,...",
        help="Environment of the job; NAME alone takes its value here. Nothing else of your environment is sent.",
    )(command)
    command = click.option("-H", "--hold", is_flag=True, help="Submit held: the job waits for its release.")(command)
    for declarations, key, kind, text in reversed(OPTIONS):
        command = click.option(*declarations, key, type=kind, help=text)(command)
    return command


@click.command("#SBATCH", add_help_option=False)
@sbatch_options
def _directives(**_: Any) -> None:
    """Parses one #SBATCH line; never run."""


def directives(script: str) -> dict[str, Any]:
    """What the ``#SBATCH`` lines of ``script`` ask for, as parameters; later lines win, ``export`` adds up.

    Raises:
        RequestError: "bad-directive", with the line's number.
    """
    found: dict[str, Any] = {}
    for number, line in _directive_lines(script):
        try:
            words = _words(line)
            ctx = _directives.make_context("#SBATCH", words)
        except (click.UsageError, ValueError) as error:
            why = error.format_message() if isinstance(error, click.UsageError) else str(error)
            raise RequestError(
                f"line {number} of the script, #SBATCH {line}: {why}",
                code="bad-directive",
                hint="take the line out, or submit with --ignore-directives",
            ) from error
        for key, value in ctx.params.items():
            if ctx.get_parameter_source(key) is ParameterSource.COMMANDLINE:
                found[key] = (*found.get("export", ()), *value) if key == "export" else value
    return found


def _directive_lines(script: str) -> Iterator[tuple[int, str]]:
    """As sbatch does: #SBATCH lines count up to the first line that is a command."""
    for number, line in enumerate(script.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            return
        match = re.match(r"#SBATCH[ \t]+(.*)", line)
        if match:
            yield number, match[1].strip()


def _words(line: str) -> list[str]:
    """Words as the shell would split them; a word that begins with # begins a comment."""
    words = shlex.split(line)
    comment = next((index for index, word in enumerate(words) if word.startswith("#")), len(words))
    return words[:comment]


def environment(exports: tuple[str, ...]) -> dict[str, str]:
    """``--export``'s values as variables.

    Raises:
        RequestError: "bad-export": not a name, a name that is not set here, or ALL.
    """
    variables: dict[str, str] = {}
    for part in (part for export in exports for part in _split(export)):
        name, equals, value = part.partition("=")
        if part in ("NONE", "NIL"):
            continue
        if part == "ALL":
            raise RequestError(
                "--export=ALL: the environment of this machine is not sent to the cluster",
                code="bad-export",
                hint="name the variables that the job needs: --export NAME or --export NAME=VALUE",
            )
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise RequestError(f"--export: {name!r} is not the name of a variable", code="bad-export")
        if not equals and name not in os.environ:
            raise RequestError(f"--export: {name} is not set here", code="bad-export", hint=f"--export {name}=VALUE")
        variables[name] = value if equals else os.environ[name]
    return variables


def _split(export: str) -> list[str]:
    """At commas, but not inside quotes: sbatch's A='x,y',B=2."""
    lexer = shlex.shlex(export, posix=True)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters, lexer.escape = ",", True, "", ""
    try:
        return list(lexer)
    except ValueError as error:
        raise RequestError(f"--export: {error}", code="bad-export") from error
