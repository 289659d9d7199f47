"""The site's program: who it runs as, what it sees, and that it cannot hang or harm anything."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hipercow_slurm.agent.helper import Helper, check
from hipercow_slurm.agent.jobs import Job
from hipercow_slurm.errors import ConfigError

GAMES = 5  # an account every Debian has


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="hipercow-slurm-helper-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def program(folder: Path, text: str) -> str:
    path = folder / "helper"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def job(job_id: int = 42) -> Job:
    return Job(job_id, GAMES, 60, f"FILE:/tmp/krb5cc_5_{job_id}", 0)


async def test_runs_as_the_user_with_the_ticket_and_nothing_of_root(folder: Path) -> None:
    out = folder / "out"
    script = f"(id -u; id -g; grep -E '^(Uid|Groups)' /proc/self/status; env; ls /proc/self/fd; pwd; umask) > {out}"
    helper = Helper(program(folder, script), 5)
    helper.changed(job(), "installed")
    await helper.settled(42, 5)
    text = out.read_text()
    lines = text.splitlines()
    assert lines[:2] == ["5", "60"], text
    assert "Uid:\t5\t5\t5\t5" in text, f"a way back to root is left: {text}"
    for name in ("KRB5CCNAME=FILE:/tmp/krb5cc_5_42", "SLURM_JOB_ID=42", "HIPERCOW_SLURM_EVENT=installed", "USER=games"):
        assert name in lines, text
    assert "HOME=/usr/games" in lines and "/" in lines and "0077" in lines, text
    assert not [line for line in lines if line.isdigit() and 4 < int(line) < 60 and line != "5"], f"open files: {text}"


async def test_one_that_hangs_is_killed_with_its_children(folder: Path) -> None:
    mark = folder / "mark"
    helper = Helper(program(folder, f"(sleep 3; touch {mark}) & sleep 30"), 0.3)
    began = time.monotonic()
    helper.changed(job(), "replaced")
    await helper.settled(42, 5)
    assert time.monotonic() - began < 2.5
    await asyncio.sleep(3)
    assert not mark.exists(), "what it started in the background lives on"


async def test_starting_jobs_do_not_wait_longer_than_they_may(folder: Path) -> None:
    helper = Helper(program(folder, "sleep 2"), 3)
    helper.changed(job(), "installed")
    began = time.monotonic()
    await helper.settled(42, 0.2)
    assert time.monotonic() - began < 1.9
    helper.close()


async def test_changes_of_one_job_come_one_after_the_other(folder: Path) -> None:
    out = folder / "out"
    helper = Helper(program(folder, f"echo a >> {out}; sleep 0.2; echo b >> {out}"), 5)
    out.touch()
    out.chmod(0o666)
    for _ in range(3):
        helper.changed(job(), "replaced")
    await helper.settled(42, 5)
    assert out.read_text().split() == ["a", "b"] * 3


async def test_trouble_harms_nobody(folder: Path) -> None:
    for helper in (Helper(program(folder, "exit 3"), 5), Helper(str(folder / "nothing"), 5), Helper(None, 5)):
        helper.changed(job(), "installed")
        await helper.settled(42, 2)


def test_only_root_may_have_written_it(folder: Path) -> None:
    check(None)
    path = program(folder, "true")
    check(path)
    os.chown(path, GAMES, GAMES)
    with pytest.raises(ConfigError, match="changed by others"):
        check(path)
    for wrong in ("relative", str(folder), str(folder / "nothing")):
        with pytest.raises(ConfigError, match="absolute path of a program"):
            check(wrong)
