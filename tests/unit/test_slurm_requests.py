"""What is sent to slurmrestd, in each family's form."""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest

from hipercow_slurm.errors import RequestError
from hipercow_slurm.slurm import versions
from hipercow_slurm.slurm.model import JobChange, JobSpec
from hipercow_slurm.slurm.told import DEFAULT_PATH

OLD, NEW = versions.ADAPTERS["v0.0.38"], versions.ADAPTERS["v0.0.45"]
SPEC = JobSpec(script="#!/bin/sh\nid\n", working_directory="/home/alice")
FULL = JobSpec(
    script="#!/bin/sh\n",
    name="n",
    partition="main",
    account="a",
    qos="q",
    nodes=2,
    tasks=4,
    cpus_per_task=3,
    memory_mb=100,
    time_limit_min=5,
    working_directory="/w",
    output="o-%j",
    error="e-%j",
    environment={"PATH": "/opt/bin", "X": "1"},
    hold=True,
    array="0-9%2",
    comment="key",
)
SAME = {
    "name": "n",
    "current_working_directory": "/w",
    "partition": "main",
    "account": "a",
    "qos": "q",
    "tasks": 4,
    "cpus_per_task": 3,
    "standard_output": "o-%j",
    "standard_error": "e-%j",
    "array": "0-9%2",
    "comment": "key",
    "hold": True,
}
RARE = msgspec.structs.replace(
    SPEC,
    begin_time=1896120000,
    requeue=False,
    exclusive="user",
    gpus="2,a100:1",
    gres="tile:1,gpu:a100:2",
    priority=5,
    constraint="fast",
    nice=-1,
    open_mode="append",
    mail_type="END,TIME_LIMIT_80",
    nodelist="c[1-2,4]",
    memory_per_cpu_mb=7,
)


def number(value: int) -> dict[str, Any]:
    return {"set": True, "infinite": False, "number": value}


def old(spec: JobSpec) -> dict[str, Any]:
    document = json.loads(OLD.submit_body(spec, "alice"))
    assert set(document) == {"script", "job"} and document["script"] == spec.script
    job: dict[str, Any] = document["job"]
    return job


def new(spec: JobSpec) -> dict[str, Any]:
    document = json.loads(NEW.submit_body(spec, "alice"))
    assert set(document) == {"job"} and document["job"].pop("script") == spec.script
    job: dict[str, Any] = document["job"]
    return job


def test_the_smallest_job() -> None:
    """The environment is never empty, and nothing is sent that was not asked for."""
    job = {"name": "job", "current_working_directory": "/home/alice"}
    environment = {"PATH": DEFAULT_PATH, "USER": "alice", "LOGNAME": "alice", "SLURM_SUBMIT_DIR": "/home/alice"}
    assert old(SPEC) == {**job, "environment": environment}
    assert new(SPEC) == {**job, "environment": [f"{key}={value}" for key, value in environment.items()]}


def test_the_fullest_job() -> None:
    told = {"SLURM_SUBMIT_DIR": "/w", "SLURM_CPUS_PER_TASK": "3"}
    environment = {"PATH": "/opt/bin", "USER": "alice", "LOGNAME": "alice", **told, "X": "1"}
    bare = {"environment": environment, "nodes": 2, "memory_per_node": 100, "time_limit": 5}
    assert old(FULL) == SAME | bare
    assert new(FULL) == SAME | {
        "environment": [f"{name}={value}" for name, value in environment.items()],
        "nodes": "2",
        "memory_per_node": number(100),
        "time_limit": number(5),
    }


def test_the_rarer_fields_before_the_data_parsers() -> None:
    sent = old(RARE)
    wanted = {
        "begin_time": "uts1896120000",
        "no_requeue": True,
        "exclusive": "user",
        "gpus": "2,a100:1",
        "priority": "5",
    }
    assert {key: sent[key] for key in wanted} == wanted and (sent["constraints"], sent["nice"]) == ("fast", -1)
    assert "requeue" not in sent, "slurmrestd takes any value of it for yes"


def test_the_rarer_fields_of_the_data_parsers() -> None:
    """An unknown field is ignored there: each of these names was seen to reach slurmctld (test_job_routes.py)."""
    sent = new(RARE)
    wanted = {
        "begin_time": number(1896120000),
        "requeue": False,
        "shared": ["user"],
        "tres_per_job": "gres/gpu:2,gres/gpu:a100:1",
        "tres_per_node": "gres/tile:1,gres/gpu:a100:2",
        "priority": number(5),
        "constraints": "fast",
        "nice": -1,
        "open_mode": ["APPEND"],
        "mail_type": ["END", "TIME=80%"],
        "required_nodes": ["c[1-2,4]"],
        "memory_per_cpu": number(7),
    }
    assert {key: sent[key] for key in wanted} == wanted


def test_what_sbatch_says_of_gpus_and_slurmrestd_does_not() -> None:
    """Would have caught: jobs that no step of theirs knew to have GPUs for each task (measured: test_as_sbatch.py)."""
    spec = msgspec.structs.replace(SPEC, gpus="4", gpus_per_node="a100:2", gpus_per_task="a100:1,h100", cpus_per_task=3)
    told = {"SLURM_GPUS": "4", "SLURM_GPUS_PER_NODE": "a100:2"}
    sent = old(spec)
    assert (sent["gpus"], sent["gpus_per_node"], sent["gpus_per_task"]) == ("4", "a100:2", "a100:1,h100")
    assert sent["environment"].items() >= (told | {"SLURM_GPUS_PER_TASK": "a100:1,h100"}).items()
    sent = new(spec)
    share, bound = "cpu=3,gres/gpu:a100=1,gres/gpu:h100=1", "gres/gpu:per_task:2"
    assert (sent["tres_per_task"], sent["tres_bind"], sent["tasks"]) == (share, bound, 2)
    told |= {"SLURM_TRES_PER_TASK": share, "SLURM_TRES_BIND": bound}
    assert {f"{name}={value}" for name, value in told.items()} <= set(sent["environment"])
    assert new(msgspec.structs.replace(spec, tasks=7))["tasks"] == 7


RARER = msgspec.structs.replace(
    SPEC,
    nodes=1,
    nodes_at_most=4,
    exclude="c[1-2]",
    no_kill=True,
    wait_all_nodes=False,
    kill_on_invalid_dep=False,
    oversubscribe=True,
    use_min_nodes=True,
    delay_boot_min=5,
    deadline=1896120000,
    cpus_per_gpu=2,
    gpu_bind="closest",
    distribution="Plane=4",
    get_user_env=True,
    signal="USR1",
    contiguous=False,
)


def test_the_rarest_fields_before_the_data_parsers() -> None:
    """Would have caught: ``no_kill`` true, refused there; nodes as a list, lost there."""
    sent = old(RARER)
    wanted = {
        "nodes": "1-4",
        "exclude_nodes": "c[1-2]",
        "no_kill": "set",
        "wait_all_nodes": 0,
        "kill_on_invalid_dependency": False,
        "oversubscribe": True,
        "minimum_nodes": True,
        "delay_boot": 5,
        "deadline": "uts1896120000",
        "cpus_per_gpu": "2",
        "gpu_binding": "closest",
        "signal": "USR1",
    }
    assert {key: sent[key] for key in wanted} == wanted and "contiguous" not in sent
    told = {"SLURM_GPU_BIND": "closest", "SLURM_DISTRIBUTION": "plane", "SLURM_DIST_PLANESIZE": "4"}
    assert told.items() <= sent["environment"].items() and sent["environment"]["SLURM_GET_USER_ENV"] == "1"


@pytest.mark.parametrize("version", ["v0.0.38", "v0.0.42"])
def test_each_field_counts_alone(version: str) -> None:
    """Would have caught: a rarer one, missing among those that are looked for first, and lost without a word."""
    family = versions.ADAPTERS[version]
    bare = family.submit_body(SPEC, "alice")
    lost = []
    for field in msgspec.structs.fields(JobSpec):
        if field.name in ("script", "switches_wait_s", "nodes_at_most"):  # the last two only beside another
            continue
        kind = str(field.type)
        value: Any = 3 if "int" in kind else True if "bool" in kind else {"A": "b"} if "dict" in kind else "USR1"
        value = {"gres_flags": "enforce-binding", "exclusive": "user", "open_mode": "append"}.get(field.name, value)
        try:
            same = family.submit_body(msgspec.structs.replace(SPEC, **{field.name: value}), "alice") == bare
        except RequestError:  # no words for it, and that was said
            continue
        if same:
            lost.append(field.name)
    assert lost == []


def test_the_rarest_fields_of_the_data_parsers() -> None:
    sent = new(msgspec.structs.replace(RARER, signal="rb:sigusr1@70", profile="all", cores_per_socket=2))
    wanted = {
        "nodes": "1-4",
        "excluded_nodes": ["c[1-2]"],
        "kill_on_node_fail": False,
        "wait_all_nodes": False,
        "shared": ["oversubscribe"],
        "flags": ["NO_KILL_INVALID_DEPENDENCY", "PREFER_MINIMUM_NODE_COUNT"],
        "delay_boot": 300,
        "deadline": 1896120000,
        "cpus_per_tres": "gres/gpu:2",
        "tres_bind": "gres/gpu:closest",
        "kill_warning_signal": "USR1",
        "kill_warning_delay": number(70),
        "kill_warning_flags": ["RESERVATION_JOB", "BATCH_JOB"],
        "profile": ["ENERGY", "LUSTRE", "NETWORK", "TASK"],
        "cores_per_socket": 2,
    }
    assert {key: sent[key] for key in wanted} == wanted and "contiguous" not in sent
    assert "SLURM_TRES_BIND=gres/gpu:closest" in sent["environment"]


@pytest.mark.parametrize(
    ("version", "changes", "option"),
    [
        ("v0.0.38", {"contiguous": True}, "--contiguous"),
        ("v0.0.38", {"switches": 1}, "--switches"),
        ("v0.0.38", {"signal": "B:USR1"}, "--signal with B:"),
        ("v0.0.42", {"cores_per_socket": 2}, "--cores-per-socket"),
        ("v0.0.42", {"cores_per_socket": 1, "hint": "memory_bound"}, "--hint=memory_bound"),
    ],
)
def test_what_a_version_has_no_words_for_is_refused_by_name(version: str, changes: dict[str, Any], option: str) -> None:
    """The data parsers would take it with a warning, and lose it."""
    with pytest.raises(RequestError, match=option):
        versions.ADAPTERS[version].submit_body(msgspec.structs.replace(SPEC, **changes), "alice")


@pytest.mark.parametrize(
    ("change", "sent"),
    [
        (JobChange(hold=False, begin_now=True), {"hold": False, "begin_time": "now+5"}),
        (JobChange(time_limit_min=5, nice=0), {"time_limit": 5, "nice": 0}),
    ],
)
def test_a_change_says_only_what_changes(change: JobChange, sent: dict[str, object]) -> None:
    assert json.loads(OLD.update_body(change)) == sent


def test_a_change_in_the_newer_form() -> None:
    assert json.loads(NEW.update_body(JobChange(time_limit_min=5, nice=0))) == {"time_limit": number(5), "nice": 0}
    sent = json.loads(NEW.update_body(JobChange(hold=False, begin_now=True)))
    assert sent.pop("hold") is False and 3 <= sent["begin_time"]["number"] - time.time() <= 6, sent
