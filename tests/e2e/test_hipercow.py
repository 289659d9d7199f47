"""hipercow for Python as it is on PyPI, on the real cluster: a project on a share that laptop and nodes both see.

What takes longer is in tests/acceptance/test_hipercow_slow.py.
"""

from __future__ import annotations

import pytest

from cow import ON_NODES, PROJECT, WITH_RESOURCES, Cow
from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import Laptop, Operator

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def cow(sandbox: Sandbox) -> Cow:
    return Cow(sandbox).started()


def test_a_task_from_creation_to_its_log(cow: Cow) -> None:
    """The whole way with the package's own commands: a wrong folder, name or script on the nodes would break it."""
    shown = cow.type("driver", "show")
    assert ON_NODES in shown and "files.sandbox.test" in shown, shown
    task_id = cow.create("sh", "-c", "pwd; hostname; echo $HIPERCOW_CORES > written; id -un")
    waited = cow.type("task", "wait", task_id)
    assert cow.type("task", "status", task_id) == "success\n", (waited, cow.type("task", "log", "--outer", task_id))
    assert cow.type("task", "log", task_id).split() == [ON_NODES, "c1", "alice"], waited
    assert "Task completed successfully!" in cow.type("task", "log", "--outer", task_id)
    assert cow.laptop.sandbox.read("laptop", f"{PROJECT}/written") == "1\n"
    job = cow.laptop.show(cow.job_id(task_id))
    assert (job["name"], job["working_directory"]) == (task_id, ON_NODES), job


def test_resources_reach_slurm_and_impossible_ones_do_not(cow: Cow, operator: Operator) -> None:
    """Cores, memory, time and queue by hipercow's units: seconds and gigabytes."""
    task_id = cow.python(
        WITH_RESOURCES
        + """
resources = TaskResources(queue=".default", cores=2, max_runtime=90, memory_per_task=3, memory_per_node=2)
print(task_create_shell(["sh", "-c", "echo $HIPERCOW_CORES cores"], resources=resources))
"""
    ).split()[-1]
    job = operator.job(cow.job_id(task_id))
    assert (job["TimeLimit"], job["CPUs/Task"], job["Partition"]) == ("00:02:00", "2", "main"), job
    assert job["MinMemoryNode"] == "3000M", job
    cow.type("task", "wait", task_id)
    assert cow.type("task", "log", task_id) == "2 cores\n\n"
    for words, complaint in {
        "cores=5": "5 is too many cores for this cluster",
        "memory_per_node=9": "9Gb per node is too large",
        "queue='nosuch'": "'nosuch' is not in valid queue list",
    }.items():
        said = cow.python(f"""{WITH_RESOURCES}
try:
    task_create_shell(["true"], resources=TaskResources({words}))
except ValueError as error:
    print(error)
""")
        assert complaint in said, said


def test_a_task_that_is_cancelled_before_it_starts(cow: Cow, operator: Operator) -> None:
    """No script of its ever ran, and hipercow asks the driver nothing while a task has not started."""
    operator.sandbox.run("head", ["scontrol", "update", "partition=main", "state=DOWN"])
    try:
        task_id = cow.create("true")
        assert cow.type("task", "status", task_id) == "submitted\n"
        _cancelled_while_somebody_waits(cow, task_id)
    finally:
        operator.sandbox.run("head", ["scontrol", "update", "partition=main", "state=UP"])


def _cancelled_while_somebody_waits(cow: Cow, task_id: str) -> None:
    said = cow.type("slurm", "cancel", task_id)
    assert f"Cancelled task '{task_id}'" in said.replace("\n", " "), said
    cow.type("task", "wait", "--no-show-log", task_id, timeout=40)
    assert cow.type("task", "status", task_id) == "cancelled\n"


def test_a_task_killed_with_its_script(cow: Cow) -> None:
    """As the kernel does when memory runs out: SIGKILL to everything; nothing on the node can write the last status."""
    task_id = cow.create("sh", "-c", "echo begun; kill -KILL 0")
    waited = cow.type("task", "wait", task_id, timeout=60)
    assert cow.type("task", "status", task_id) == "failure\n", waited
    log = cow.type("task", "log", task_id)
    assert "begun" in log and f"Slurm job {cow.job_id(task_id)} ended as" in log, log


def test_errors_are_hipercows_own(cow: Cow, sandbox: Sandbox) -> None:
    """One sentence and what to do, and exit status 1; the traceback only where somebody asks for it."""
    elsewhere = "mkdir -p ~/here && cd ~/here && hipercow-slurm hipercow init . && "
    done = sandbox.run(
        "laptop",
        ["sh", "-c", elsewhere + "hipercow-slurm hipercow driver configure slurm"],
        user="pat",
        env=cow.laptop.env,
        check=False,
    )
    assert done.returncode == 1 and "Error: Can't map local directory" in done.stdout, done
    assert "HIPERCOW_TRACEBACK=1" in done.stdout and "Traceback" not in done.stdout + done.stderr, done
    version = cow.attempt("driver", "configure", "slurm", "--python-version", "3.13")
    assert version.returncode == 1 and "Python 3.13 is not available on the cluster" in version.stdout, version
    stranger = Laptop(sandbox, "nobody", account="pat")
    done = sandbox.run(
        "laptop",
        ["sh", "-c", f"cd {PROJECT} && hipercow-slurm hipercow task create true"],
        user="pat",
        env=stranger.env,
        check=False,
    )
    assert done.returncode == 1 and "please run 'hipercow-slurm login" in done.stdout, done


def test_the_check_finds_everything(cow: Cow) -> None:
    said = cow.type("slurm", "check")
    assert "You look good to go!" in said and ON_NODES in said.replace("\n", ""), said
