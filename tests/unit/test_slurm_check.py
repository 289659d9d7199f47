"""What is refused before Slurm sees it, and output patterns."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from hipercow_slurm.errors import RequestError
from hipercow_slurm.slurm import outputs
from hipercow_slurm.slurm.check import check
from hipercow_slurm.slurm.model import JobSpec

GOOD = JobSpec(script="#!/bin/bash\nid\n", working_directory="/home/alice")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"script": "#! /usr/bin/env -S python3 -u"},
        {"script": "#!/bin/sh\n# \u00fcml\u00e4ut \u00a0\r inside\n"},
        {"array": "0-9%2"},
        {"array": "1,3,5-7:2"},
        {"array": "0"},
        {"environment": {"MY_VAR": "two\nlines", "_": ""}},
        {"output": "sub/%x-%j.out", "error": "/dev/null"},
        {"mail_type": "end,ARRAY_TASKS,TIME_LIMIT_90"},
        {"signal": "rb:sigusr1@64999", "distribution": "Block:cyclic:fcyclic,NoPack", "core_spec": 0},
        {"signal": "10", "distribution": "plane=4", "profile": "energy,task", "gpu_bind": "map_gpu:0,1"},
        {
            "exclusive": "user",
            "oversubscribe": False,
            "nodes": 2,
            "nodes_at_most": 2,
            "acctg_freq": "task=15,energy=30",
        },
        {"nodelist": "c1,gpu[01-20,7]-ib", "memory_mb": 0},
        {"time_limit_min": 1, "nodes": 1, "memory_mb": 1, "tasks": 4000, "cpus_per_task": 128},
        {"script": "#!/bin/sh\n" + "#" * (3 * 1024 * 1024 - 10)},
    ],
)
def test_accepted(changes: dict[str, object]) -> None:
    check(replace(GOOD, **changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"script": ""}, "interpreter"),
        ({"script": "echo hello\n"}, "interpreter"),
        ({"script": "#!\necho\n"}, "interpreter"),
        ({"script": "\n#!/bin/sh\n"}, "interpreter"),
        ({"script": "\ufeff#!/bin/sh\n"}, "interpreter"),  # a byte order mark
        ({"script": "#!/bin/sh\necho a\0b\n"}, "NUL"),
        ({"script": "#!/bin/sh\r\necho\r\n"}, "DOS"),
        ({"script": "#!/bin/sh\necho \ud800\n"}, "Unicode"),
        ({"script": "#!/bin/sh\n" + "#" * (3 * 1024 * 1024)}, "limit"),
        ({"working_directory": None}, "working directory"),
        ({"working_directory": ""}, "empty"),
        ({"working_directory": "home"}, "absolute"),
        ({"working_directory": "/a\nb"}, "control"),
        ({"output": "a\\%j"}, "backslash"),
        ({"error": ""}, "empty"),
        ({"output": "a\0b"}, "control"),
        ({"name": "a\x1b[31m"}, "control"),
        ({"name": ""}, "empty"),
        ({"comment": "c" * 2000}, "longer"),
        ({"partition": "\ud800"}, "Unicode"),
        ({"nodes": 0}, "nodes is 0"),
        ({"mail_type": "END,WIBBLE"}, "'WIBBLE' is none of"),
        ({"mail_type": ","}, "'' is none of"),
        ({"memory_mb": -1}, "memory_mb is -1"),
        # Each of these four ended slurmrestd 22.05, for everybody.
        ({"nodelist": "c[1-70000]"}, "more than 10000 names"),
        ({"nodelist": "c[2-1]"}, "backwards"),
        ({"nodelist": "c[a-b]"}, "cannot read"),
        ({"nodelist": "c[1-2]x[1-70000]"}, "more than 10000 names"),
        ({"nodelist": "c1,c["}, "cannot read"),
        ({"exclude": "c[2-1]"}, "exclude 'c[2-1]' is not"),
        ({"exclude": "c[1-70000]"}, "more than 10000 names"),
        ({"signal": "WIBBLE@60"}, "signal 'WIBBLE@60' is not of the form"),
        ({"signal": "B:USR1@65535"}, "signal"),
        ({"signal": "65"}, "signal"),
        ({"distribution": "arbitrary"}, "distribution"),
        ({"distribution": "plane=0"}, "distribution"),
        ({"gpu_bind": "closest;x"}, "gpu_bind"),
        ({"profile": "task,"}, "profile"),
        ({"cpu_freq": "low\n"}, "cpu_freq"),
        ({"nodes": 3, "nodes_at_most": 2}, "backwards"),
        ({"memory_per_gpu_mb": 1, "memory_mb": 0}, "memory_mb and memory_per_gpu_mb exclude each other"),
        ({"cpus_per_gpu": 1, "cpus_per_task": 1}, "exclude each other"),
        ({"exclusive": "user", "oversubscribe": True}, "exclude each other"),
        ({"core_spec": 40000}, "core_spec is 40000"),
        ({"tasks": -1}, "tasks is -1"),
        ({"cpus_per_task": 65534}, "cpus_per_task"),
        ({"memory_mb": 2**31}, "memory_mb"),
        ({"time_limit_min": 0}, "time_limit_min"),
        ({"time_limit_min": 0xFFFFFFFF}, "time_limit_min"),  # Slurm's INFINITE
        ({"environment": {"": "x"}}, "not the name"),
        ({"environment": {"A=B": "x"}}, "not the name"),
        ({"environment": {"A\n": "x"}}, "not the name"),
        ({"environment": {"A": "x\0y"}}, "NUL"),
        ({"environment": {"KRB5CCNAME": "FILE:/tmp/x"}}, "KRB5CCNAME"),
        ({"environment": {"SLURM_JOB_ID": "1"}}, "SLURM_JOB_ID"),
        ({"environment": {"SPANK_X": "1"}}, "SPANK_X"),
        ({"environment": {"LD_PRELOAD": "/tmp/x.so"}}, "LD_PRELOAD"),
        ({"environment": {"BASH_ENV": "/tmp/x"}}, "BASH_ENV"),
        ({"environment": {f"V{n}": "x" * 1000 for n in range(300)}}, "limit"),
        ({"array": ""}, "form"),
        ({"array": "5-3"}, "backwards"),
        ({"array": "1-9:0"}, "step"),
        ({"array": "1-3%0"}, "form"),
        ({"array": "1-3%"}, "form"),
        ({"array": "1,,2"}, "form"),
        ({"array": "1-2-3"}, "form"),
        ({"array": "\u0661"}, "form"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(RequestError) as caught:
        check(replace(GOOD, **changes))
    assert words in caught.value.message, caught.value.message
    assert len(caught.value.message) < 300 and "\n" not in caught.value.message


def test_patterns_as_slurmstepd_fills_them() -> None:
    """Both names were read from a directory after real jobs (22.05.8, one node called vm)."""
    pattern = "p:%%-j%j-5j%5j-A%A-a%a-x%x-u%u-N%N-n%n-t%t-s%s-J%J-b%b-z%z-%3a-%100j.out"
    plain = outputs.Names(24, "pat n", "alice", None, None, False, "vm")
    assert outputs.fill(pattern, plain) == (
        "p:%-j24-5j00024-A24-a4294967294-xpat n-ualice-Nvm-n0-t0-sbatch-J24-b%b-z%z-4294967294-0000000024.out"
    )
    task = outputs.Names(28, "pat-a", "alice", 25, 7, True, "vm")
    assert outputs.fill(pattern, task) == (
        "p:%-j28-5j00028-A25-a7-xpat-a-ualice-Nvm-n0-t0-sbatch-J28-b%b-z%z-007-0000000028.out"
    )


def test_what_is_not_known_yet_stays() -> None:
    waiting = outputs.Names(25, "n", "alice", 25, None, True, None)
    assert outputs.stdout_path("", "/w", waiting) == "/w/slurm-25_%a.out"
    assert outputs.fill("%N-%a-%j", waiting) == "%N-%a-25"


def test_what_slurm_has_filled_in_is_not_filled_in_again() -> None:
    """Would have caught: with 24.11 the output of --output=p%%j-%N.txt read from p24-vm.txt."""
    names = outputs.Names(24, "a%%b", "alice", None, None, False, "vm", left="JnNst")
    assert outputs.fill("p%j-a%%b-%N-%J-%3a", names) == "p%j-a%%b-vm-24-%3a"
    assert outputs.fill("p%j-%N", outputs.Names(24, "n", "alice", None, None, False, "vm", left="")) == "p%j-%N"
