"""sbatch's options on our command line: the table of ``hipercow_slurm.sbatch_options`` in click's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

from hipercow_slurm.sbatch_options import OPTIONS, Option, count, counted, nice, nodes

F = TypeVar("F", bound=Callable[..., Any])
if TYPE_CHECKING:
    AnyType = click.ParamType[Any]  # generic since click 8.2 or so
else:
    AnyType = click.ParamType

_METAVARS = {
    "time_limit_min": "TIME",
    "memory_mb": "SIZE",
    "memory_per_cpu_mb": "SIZE",
    "memory_per_gpu_mb": "SIZE",
    "tmp_mb": "SIZE",
    "minimum_time_min": "TIME",
    "begin_time": "TIME",
    "deadline": "TIME",
    "kill_on_invalid_dep": "yes|no",
    "wait_all_nodes": "0|1",
    "export": "NAME=VALUE,...",
}


def _complete_partition(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from hipercow_slurm.cli.completion import partitions

    return partitions(ctx, param, incomplete)


class Argument(AnyType):
    """An option's argument, read by the table's own function."""

    def __init__(self, read: Callable[[str], Any]) -> None:
        self.name = "number" if read in (count, counted, nodes, nice) else "text"
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def sbatch_options(command: F) -> F:
    """Give ``command`` sbatch's options; their parameters are the API's keys, and ``export``."""
    for option in reversed(OPTIONS):
        command = _click(option)(command)
    return command


def _click(option: Option) -> Callable[[F], F]:
    # An argument that may be left out would swallow the script's name: here such an option has one, or none.
    if option.read is None or option.flag is True:
        return click.option(
            *option.names, option.key, flag_value=option.flag, default=None, type=bool, help=option.help
        )
    return click.option(
        *option.names,
        option.key,
        type=Argument(option.read),
        shell_complete=_complete_partition if option.key == "partition" else None,
        metavar=_METAVARS.get(option.key),
        multiple=option.key == "export",
        help=option.help,
    )
