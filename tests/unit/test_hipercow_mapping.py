"""hipercow's words and Slurm's: resources, queues, states; and what a job's end means for its task."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

import pytest
from hipercow.resources import TaskResources
from hipercow.task import TaskStatus

from hipercow_slurm import JobInfo
from hipercow_slurm.errors import ConfigError
from hipercow_slurm.hipercow import mapping, scripts, settling

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TASK = "0" * 32


def job(state: str, **more: Any) -> JobInfo:
    return JobInfo.parse({"job_id": 7, "name": TASK, "state": state, "time_limit_min": 5, **more})


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({}, {}),
        ({"queue": "main"}, {"partition": "main"}),
        ({"cores": 3}, {"tasks": 1, "cpus_per_task": 3}),
        ({"exclusive": True}, {"exclusive": True}),
        ({"max_runtime": 1}, {"time_limit_min": 1}),
        ({"max_runtime": 61}, {"time_limit_min": 2}),
        ({"memory_per_node": 2, "memory_per_task": 3}, {"memory_mb": 3000}),
        ({"memory_per_node": 4, "memory_per_task": 3}, {"memory_mb": 4000}),
    ],
)
def test_resources(asked: dict[str, Any], options: dict[str, Any]) -> None:
    """Seconds become minutes, never fewer; gigabytes a thousand megabytes."""
    assert mapping.job_options(TaskResources(**asked)) == options


def test_all_cores_of_a_node() -> None:
    """hipercow's documentation has math.inf for it; 0.2.4 refuses it itself, others may not."""
    all_cores = TaskResources.model_construct(cores=float("inf"), queue=None, exclusive=False)
    assert mapping.job_options(all_cores) == {"nodes": 1, "exclusive": True}
    assert mapping.job_options(None) == {}


PARTITIONS = [{"name": "main"}, {"name": "long", "is_default": True}]
NODES = [{"cpus": 4, "memory_mb": 8000}, {"cpus": 64, "memory_mb": 2000}]


def test_the_cluster() -> None:
    found = mapping.cluster_resources(PARTITIONS, NODES, build="main", test=None)
    queues = found.queues
    assert (queues.valid, queues.default, queues.build, queues.test) == ({"main", "long"}, "long", "main", "long")
    assert (found.max_cores, found.max_memory) == (64, 8)
    with pytest.raises(ConfigError, match="no partition for you"):
        mapping.cluster_resources([], NODES, build=None, test=None)
    with pytest.raises(ConfigError, match="queue 'build'"):
        mapping.cluster_resources(PARTITIONS, NODES, build="build", test=None)


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("PENDING", TaskStatus.SUBMITTED),
        ("REQUEUED", TaskStatus.SUBMITTED),
        ("CONFIGURING", TaskStatus.RUNNING),
        ("RUNNING", TaskStatus.RUNNING),
        ("SUSPENDED", TaskStatus.RUNNING),
        ("COMPLETING", TaskStatus.RUNNING),
        ("COMPLETED", TaskStatus.SUCCESS),
        ("CANCELLED", TaskStatus.CANCELLED),
        ("TIMEOUT", TaskStatus.FAILURE),
        ("OUT_OF_MEMORY", TaskStatus.FAILURE),
        ("NODE_FAIL", TaskStatus.FAILURE),
        ("PREEMPTED", TaskStatus.FAILURE),
        ("UNKNOWN", TaskStatus.FAILURE),
    ],
)
def test_states(state: str, status: TaskStatus) -> None:
    assert mapping.status(job(state)) == status


def test_what_a_jobs_end_means_for_a_task_without_a_last_status() -> None:
    """A success may be slow to be seen on the share; a job that Slurm no longer knows must not be waited for."""
    known = settling.Submitted(7, "https://head", "alice")
    judge = settling.judge
    assert judge(TASK, job("RUNNING"), known, now=NOW) is None
    verdict = judge(TASK, job("TIMEOUT"), known, now=NOW)
    assert verdict == (TaskStatus.FAILURE, "Slurm job 7 ended as TIMEOUT: it reached its time limit of 5 min")
    fresh = (NOW - timedelta(seconds=10)).isoformat()
    old = (NOW - timedelta(seconds=100)).isoformat()
    assert judge(TASK, job("COMPLETED", end_time=fresh), known, now=NOW) is None
    lost = judge(TASK, job("COMPLETED", end_time=old), known, now=NOW)
    assert lost is not None and lost[0] == TaskStatus.FAILURE and "without writing" in lost[1]
    for nobody in (None, job("RUNNING", name="someone else's")):
        forgotten = judge(TASK, nobody, known, now=NOW)
        assert forgotten is not None and forgotten[0] == TaskStatus.FAILURE and "no longer knows job 7" in forgotten[1]


def test_scripts_are_shell_whatever_the_folder_is_called() -> None:
    """A quote in a folder's name must not become a command."""
    nodes = scripts.Nodes("/mnt/it's; touch x & $(y)", "/opt/python 3/bin/python", "module load R")
    for text in (
        scripts.task(nodes, TASK, PurePosixPath("hipercow/py/tasks/00/11")),
        scripts.provision(nodes, "my env; x", "abc"),
    ):
        done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "cd '/mnt/it'\"'\"'s; touch x & $(y)' ||" in text and "\nmodule load R\n" in text
    assert scripts.outer_log(scripts.Nodes("/a%b", "", ""), PurePosixPath("t")) == "/a%%b/t/slurm.log"
    with pytest.raises(ConfigError, match="Slurm cannot write"):
        scripts.outer_log(scripts.Nodes("/a\\b", "", ""), PurePosixPath("t"))
