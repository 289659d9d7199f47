"""hipercow for Python, where it takes its time: environments, and everything that Slurm does to a task."""

from __future__ import annotations

import base64
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cow import PROJECT, WITH_RESOURCES, Cow
from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import Operator, eventually

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def cow(sandbox: Sandbox) -> Cow:
    return Cow(sandbox).started()


def test_a_failing_command_is_a_failed_task(cow: Cow) -> None:
    task_id = cow.create("sh", "-c", "echo before; exit 3")
    cow.type("task", "wait", task_id)
    assert cow.type("task", "status", task_id) == "failure\n"
    assert cow.type("task", "log", task_id) == "before\n\n"
    assert "Task did not complete successfully" in cow.type("task", "log", "--outer", task_id)


def test_a_node_of_its_own(cow: Cow, operator: Operator) -> None:
    task_id = cow.python(
        WITH_RESOURCES
        + """
print(task_create_shell(["sh", "-c", "echo $HIPERCOW_CORES"], resources=TaskResources(exclusive=True)))
"""
    ).split()[-1]
    cow.type("task", "wait", task_id)
    assert cow.type("task", "log", task_id) == "4\n\n"
    job = operator.job(cow.job_id(task_id))
    assert (job["NumNodes"], job["OverSubscribe"]) == ("1", "NO"), job


def test_a_task_that_is_cancelled_while_it_runs(cow: Cow, operator: Operator) -> None:
    """Somebody waits all the while: without the last status they would wait for ever."""
    task_id = cow.create("sleep", "600")
    operator.job_runs(cow.job_id(task_id))
    eventually("running", lambda: "running" in cow.type("task", "status", task_id), within_s=30)
    cow.laptop.sandbox.run("head", ["scancel", str(cow.job_id(task_id))])
    waited = cow.type("task", "wait", task_id, timeout=40)
    assert cow.type("task", "status", task_id) == "cancelled\n", waited
    assert "ended as CANCELLED" in cow.type("task", "log", task_id)


def test_a_task_at_its_time_limit(cow: Cow, operator: Operator) -> None:
    """Slurm's shortest limit is a minute, and it looks every half: the operator ends it at once, as a limit."""
    task_id = cow.create("sleep", "600")
    job_id = cow.job_id(task_id)
    operator.job_runs(job_id)
    eventually("running", lambda: "running" in cow.type("task", "status", task_id), within_s=30)
    operator.sandbox.run("head", ["scontrol", "update", f"jobid={job_id}", "timelimit=1"])
    cow.type("task", "wait", task_id, timeout=150)
    assert cow.type("task", "status", task_id) == "failure\n"
    assert "it reached its time limit" in cow.type("task", "log", task_id)


def test_a_task_put_back_into_the_queue_begins_anew(cow: Cow, operator: Operator) -> None:
    """hipercow refuses to run a task that runs already: after a requeue every task would have failed."""
    task_id = cow.create("sh", "-c", "[ -e again ] || { touch again; sleep 600; }; echo done")
    job_id = cow.job_id(task_id)
    operator.job_runs(job_id)
    eventually("running", lambda: "running" in cow.type("task", "status", task_id), within_s=30)
    operator.sandbox.run("head", ["scontrol", "requeue", str(job_id)])
    eventually("submitted", lambda: "submitted" in cow.type("task", "status", task_id), within_s=30)
    operator.sandbox.run("head", ["scontrol", "update", f"jobid={job_id}", "starttime=now"])
    cow.type("task", "wait", task_id)
    assert cow.type("task", "log", task_id) == "done\n\n", cow.type("task", "log", "--outer", task_id)


def wheel(folder: Path) -> Path:
    """The smallest package with a program."""
    path = folder / "moo-1.0-py3-none-any.whl"
    info = "moo-1.0.dist-info"
    files = {
        "moo.py": "def main():\n    print('moo')\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: moo\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nmoo = moo:main\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(name, text)
    return path


def test_an_environment_is_provisioned_on_the_cluster(cow: Cow, tmp_path: Path) -> None:
    """With a folder of wheels on the share: the nodes here reach no package index."""
    content = wheel(tmp_path).read_bytes()
    copy = "import sys, base64, pathlib; p = pathlib.Path(sys.argv[1]); p.parent.mkdir(exist_ok=True); "
    copy += "p.write_bytes(base64.b64decode(sys.argv[2]))"
    cow.laptop.sandbox.run(
        "laptop",
        [
            "hipercow-python",
            "-c",
            copy,
            f"{PROJECT}/wheels/moo-1.0-py3-none-any.whl",
            base64.b64encode(content).decode(),
        ],
        user="pat",
    )
    cow.type("environment", "new")
    said = cow.type(
        "environment", "provision", "pip", "install", "--no-index", "--find-links", "wheels", "moo", timeout=120
    )
    assert "Successfully installed moo-1.0" in said and "Provisioned environment 'default'" in said, said
    task_id = cow.create("moo")
    cow.type("task", "wait", task_id)
    assert cow.type("task", "log", task_id) == "moo\n\n", cow.type("task", "log", "--outer", task_id)


def test_failed_provisioning_says_so(cow: Cow) -> None:
    cow.type("environment", "new", "--name", "broken")
    done = cow.attempt(
        "environment", "provision", "--name", "broken", "pip", "install", "--no-index", "nosuchpackage", timeout=120
    )
    assert done.returncode == 1 and "No matching distribution found for nosuchpackage" in done.stdout, done
    assert "Error: Provisioning failed: Slurm job" in done.stdout, done.stdout


@pytest.fixture
def memory_is_measured(operator: Operator) -> Iterator[None]:
    """Slurm ends jobs above their memory; afterwards all is as it was, because the sandbox is other tests', too."""
    conf = "/etc/slurm/slurm.conf"
    change = (
        "s|^JobAcctGatherType=.*|JobAcctGatherType=jobacct_gather/linux\\nJobAcctGatherFrequency=task=1\\n"
        "JobAcctGatherParams=OverMemoryKill|; s|=CR_Core$|=CR_Core_Memory|"
    )
    everywhere(operator, ["sed", "-i.before", change, conf])
    yield
    everywhere(operator, ["mv", f"{conf}.before", conf])


def everywhere(operator: Operator, argv: list[str]) -> None:
    """Run a command on each of Slurm's hosts, then start Slurm's daemons anew."""
    for host in ("head", "c1", "c2", "login"):
        operator.sandbox.run(host, argv)
    for name in ("slurmctld", "slurmd@c1", "slurmd@c2"):
        operator.sandbox.service(name).stop()
        operator.sandbox.service(name).start()


@pytest.mark.usefixtures("memory_is_measured")
def test_a_task_that_uses_too_much_memory(cow: Cow, operator: Operator) -> None:
    """Slurm itself measures and kills: the script with its task, so that nothing on the node can tell."""
    task_id = cow.python(
        WITH_RESOURCES
        + """
eat = "import time; x = bytearray(1500_000_000); x[::4096] = b'x' * len(x[::4096]); time.sleep(600)"
print(task_create_shell(["python3", "-c", eat], resources=TaskResources(memory_per_task=1)))
"""
    ).split()[-1]
    cow.type("task", "wait", task_id, timeout=120)
    assert cow.type("task", "status", task_id) == "failure\n"
    log = cow.type("task", "log", task_id)
    job = operator.job(cow.job_id(task_id))
    assert "ended as" in log, (log, job, cow.type("task", "log", "--outer", task_id))


def test_the_cluster_is_as_it_was(cow: Cow, operator: Operator) -> None:
    """After the test of memory: with its settings one job would take a node's whole memory, and the next one wait."""
    said = operator.sandbox.run("head", ["scontrol", "show", "config"]).stdout
    assert "jobacct_gather/none" in said and "CR_CORE_MEMORY" not in said, said
    task_id = cow.create("true")
    cow.type("task", "wait", task_id)
    assert cow.type("task", "status", task_id) == "success\n"
