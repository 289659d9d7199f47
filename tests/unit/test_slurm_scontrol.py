"""scontrol as the user: the token goes into the environment and nowhere else; each refusal becomes our error."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from hipercow_slurm.errors import Error
from hipercow_slurm.slurm.rest import Identity
from hipercow_slurm.slurm.scontrol import Scontrol

ALICE = Identity("alice", "SECRET-TOKEN")


def program(tmp_path: Path, text: str) -> str:
    """A program that stands for scontrol: what it is given is real, what it says was seen from 22.05."""
    path = tmp_path / "scontrol"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(stat.S_IRWXU)
    return str(path)


async def test_the_token_travels_in_the_environment_only(tmp_path: Path) -> None:
    script = f'echo "$@" > {tmp_path}/argv; env > {tmp_path}/env'
    await Scontrol(program(tmp_path, script), "/etc/rest.conf").requeue(ALICE, 17)
    assert (tmp_path / "argv").read_text() == "requeue 17\n"
    env = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert (env["SLURM_JWT"], env["SLURM_CONF"]) == ("SECRET-TOKEN", "/etc/rest.conf")
    assert set(env) <= {"SLURM_JWT", "SLURM_CONF", "PATH", "PWD", "SHLVL", "_", "OLDPWD"}, "nothing of ours goes along"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("Access/permission denied for job 17", "no-such-job"),
        ("Invalid job id specified for job 17", "no-such-job"),
        ("Job is pending execution for job 17", "change-refused"),
        ("slurm_suspend error: Unable to contact slurm controller (connect failure)", "scheduler-unreachable"),
        ("Protocol authentication error", "slurm-token-refused"),
    ],
)
async def test_refusals(tmp_path: Path, words: str, code: str) -> None:
    with pytest.raises(Error) as caught:
        await Scontrol(program(tmp_path, f"echo '{words}' >&2; exit 1"), "x").requeue(ALICE, 17)
    assert caught.value.code == code, caught.value
    assert "SECRET" not in str(caught.value)


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Error) as caught:
        await Scontrol(str(tmp_path / "none"), "x").requeue(ALICE, 17)
    assert caught.value.code == "scheduler-unreachable"
