"""The command line: what ``--help`` says, command by command."""

from __future__ import annotations

import os
from collections.abc import Iterator

import click

from hipercow_slurm.cli.main import COMMANDS, program

WIDTH = 100


def page() -> str:
    """The page."""
    # Help is wrapped to the terminal's width; the page has one of its own. No colours.
    os.environ.update(COLUMNS=str(WIDTH), NO_COLOR="1", TERM="dumb")
    parts = [
        "# The command line",
        "What `hipercow-slurm COMMAND --help` prints. Users' commands work in the base install, operators' need the "
        "extra `[server]` or `[agent]`, or the Debian packages.",
    ]
    for name in COMMANDS:
        command = program.get_command(click.Context(program), name)
        assert command is not None, name
        for words, one in _walk(f"hipercow-slurm {name}", command):
            level = "##" if words.count(" ") == 1 else "###"
            context = click.Context(one, info_name=words, max_content_width=WIDTH, terminal_width=WIDTH)
            parts.append(f"{level} {words}\n\n```text\n{_plain(one.get_help(context))}\n```")
    return "\n\n".join(parts)


def _walk(words: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=words)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from _walk(f"{words} {name}", below)


def _plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in click.unstyle(text).strip().splitlines())
