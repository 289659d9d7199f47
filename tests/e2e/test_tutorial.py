"""The tutorial, typed as it is written into a real terminal on the sandbox's laptop; what it shows is what comes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hipercow_slurm.testing.sandbox import Sandbox
from tmux import Terminal

pytestmark = pytest.mark.e2e

PAGE = (Path(__file__).parents[2] / "docs/tutorial/first-job.md").read_text()
URL = "https://head.sandbox.test:8443"
HOME = "/home/laptop/alice"


@dataclass
class Step:
    """A command, and the lines that the page shows below it."""

    command: str
    shown: list[str]


def steps() -> list[Step]:
    """All commands of the page, in order."""
    found: list[Step] = []
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Step(line[2:], []))
            else:
                found[-1].shown.append(line)
    return found


def pattern(line: str) -> str:
    """What a line of the page stands for: other numbers and times, this realm, this host; an ellipsis for anything."""
    line = line.replace("https://head.example.org:8443", URL).replace("EXAMPLE.ORG", "SANDBOX.TEST")
    text = re.escape(line).replace("\u2026", ".*")
    text = re.sub(r"(?:\\ )+", r"\\s*" if line.startswith(" ") else r"\\s+", text)
    text = re.sub(r"\\\(in.*?\\\)", r"\\(in [^)]*\\)", text)
    return re.sub(r"\d+", r"\\d+", text)


@pytest.fixture
def terminal(sandbox: Sandbox, tmp_path: Path) -> Iterator[Terminal]:
    """alice's shell on the laptop, in a home with the page's files; python3 is the one that has our package."""
    inside = {"user": "laptop", "timeout": 60}
    sandbox.run("laptop", ["mkdir", "-p", f"{HOME}/bin"], **inside)
    sandbox.run("laptop", ["sh", "-c", f"ln -sf $(command -v hipercow-python) {HOME}/bin/python3"], **inside)
    for name, language in (("squares.sh", "bash"), ("first.py", "python")):
        (text,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
        sandbox.run("laptop", ["sh", "-c", f"cat > {HOME}/{name}"], input=text, **inside)
    name = sandbox.path.name.removeprefix("hipercow-sandbox-")
    shell = [sys.executable, "-m", "hipercow_slurm", "sandbox", "shell", "--name", name, "alice@laptop"]
    env = {name: os.environ[name] for name in ("HOME", "PATH", "PYTHONPATH") if name in os.environ}
    with Terminal(tmp_path, shell, env, width=100, height=120) as screen:
        screen.shows(r"\$$")
        # Each prompt has a number of its own, so that the last command's is not taken for the next one's.
        screen.type(f"export PATH={HOME}/bin:$PATH PS1='at \\#$ '; cd {HOME}; clear")
        screen.shows(r"\Aat \d+\$\Z")
        yield screen


def test_the_tutorial_runs_as_it_is_written(sandbox: Sandbox, terminal: Terminal) -> None:
    """A renamed option, another sentence or a step that was forgotten: the first page that people read would be wrong.

    Two lines are not typed as they are: pip install (tests/acceptance/test_laptop.py does that), and the line of which
    the page says that it is different for everybody.
    """
    number = int(terminal.screen().strip("at $"))
    for step in steps():
        if "pip install" in step.command:
            continue
        command = step.command
        if command.startswith("export HIPERCOW_SLURM_URL="):
            command = f"export HIPERCOW_SLURM_URL={URL}"
        terminal.type("clear")
        number += 2
        terminal.shows(rf"\Aat {number - 1}\$\Z")
        terminal.type(command)
        if any(line.startswith("Password of") for line in step.shown):
            terminal.shows(r"^Password of alice at ")
            terminal.type(sandbox.passwords["alice"])
        terminal.shows(rf"^at {number}\$\Z", within_s=90)
        said = terminal.screen()
        assert "error:" not in said, said
        for line in step.shown:
            # A heading over numbers moves to the right where they are longer than the page's.
            assert re.search(rf"^ *{pattern(line)}\s*$", said, re.MULTILINE), (
                f"the page shows {line!r} below `$ {step.command}`; the screen:\n{said}"
            )
