"""README tells the truth: its picture names the processes that run, its commands are the ones that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hipercow_slurm.cli.main import COMMANDS
from hipercow_slurm.testing.sandbox import Sandbox

README = (Path(__file__).parents[2] / "README.md").read_text()


def picture() -> str:
    """The text of the chain's picture."""
    return README.split("## The chain")[1].split("```")[1]


@pytest.mark.e2e
def test_picture_and_sandbox_status_name_the_same_processes(sandbox: Sandbox) -> None:
    known = set(re.findall(r"[a-z]+(?:@[a-z0-9]+)?", picture()))
    running = {row["name"] for row in sandbox.status()}
    assert running <= known, f"running, but not in README's picture: {sorted(running - known)}"
    services = {"kdc", "api", "signer", "auksd", "slurmrestd", "slurmctld", "munged", "ganesha", "smbd"}
    drawn = (known & services) | {name for name in known if "@" in name}
    assert drawn == running, f"drawn, but not running: {sorted(drawn - running)}"


def test_every_command_in_readme_exists() -> None:
    used = set(re.findall(r"^[$#] hipercow-slurm (\w+)", README, re.MULTILINE))
    assert used, "README shows no command at all"
    assert used <= set(COMMANDS), f"README shows commands that do not exist: {sorted(used - set(COMMANDS))}"


def test_every_link_in_readme_leads_somewhere() -> None:
    root = Path(__file__).parents[2]
    broken = [link for link in re.findall(r"\]\(([^)#:]+)\)", README) if not (root / link).exists()]
    assert not broken, f"README links to files that do not exist: {broken}"
