"""The same script through sbatch and through the API is the same job: real sbatch and slurmctld are the judges."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from hipercow_slurm.testing.sandbox import Sandbox
from person import Person

pytestmark = pytest.mark.e2e

# What differs with the way a job came, or with the moment.
ASIDE = re.compile(
    r"(JobId|ArrayJobId|SubmitTime|AccrueTime|LastSchedEval|StartTime|EndTime|Comment|request|Command|AllocNode.*|JobName|"
    r"StdOut|StdErr|Priority|Scheduler|SubmitLine|OOMKillStep|TresPerTask)"
)
SCRIPTS = {
    "no blank after the word": "#SBATCH--time=5\n",
    "a form feed after it": "#SBATCH\f--time=5\n",
    "an argument in the next line": "#SBATCH --time\n#SBATCH 5\n",
    "a comment begins inside a word": "#SBATCH --licenses=sandbox:1#x --time=5\n#SBATCH -n2\n",
    "a quoted #": "#SBATCH --comment='a#b' --time=5\n",
    "a backslash inside quotes": "#SBATCH -D '/tmp/a\\b' --time=5\n",
    "a backslash at the end": "#SBATCH --time=5 \\\n#SBATCH -n 2\n",
    "short options in one word": "#SBATCH -Hn2\n",
    "numbers with a sign and zeros": "#SBATCH -n +02\n",
    "all memory of a node": "#SBATCH --mem=0\n",
    "tasks per node alone": "#SBATCH --ntasks-per-node=2\n",
    "tasks on each of two nodes": "#SBATCH -N2 --ntasks-per-node=2\n",
    "fewer tasks than nodes": "#SBATCH -N2 -n1\n",
    "tomorrow is midnight": "#SBATCH --begin=tomorrow\n",
    "a time of day before its day": "#SBATCH --begin='16:00 tomorrow'\n",
    "a date without a year": "#SBATCH --begin=0131\n",
    "and with a time": "#SBATCH --begin=1/3T10:00:30\n",
    "input from nowhere": "#SBATCH -i none\n",
    "after a command": "true\n#SBATCH --time=5\n",
    "not quite the word": " #SBATCH --time=5\n##SBATCH --time=5\n# SBATCH --time=5\n#sbatch --time=5\n",
    "GPUs of any kind": "#SBATCH -G1\n",
    "GPUs of a kind": "#SBATCH --gpus=a100:2\n",
    "GPUs on a node": "#SBATCH -N1 --gpus-per-node=a100:1\n",
    "GPUs of a task": "#SBATCH -n2 -c2 --gpus-per-task=1\n",
    "tasks for so many GPUs": "#SBATCH -G4 --gpus-per-task=2\n",
    "GPUs among other resources": "#SBATCH --gres=gpu:a100:1,tile:1\n",
    "most of the rest": "#SBATCH -t 1:30 -N2 -n3 -c1 --mem-per-cpu=1500K -L sandbox:2 -w c[1-2] --gres=tile:1\n"
    "#SBATCH -d singleton --no-requeue --exclusive=user --nice --mail-type=ALL --mail-user=x@y -a 0-10:5,20%3\n",
}


@pytest.fixture(scope="module")
def alice(sandbox: Sandbox) -> Iterator[Person]:
    person = Person(sandbox, "alice")
    yield person
    person.ask("DELETE", "/v1/sessions/current")


def by_sbatch(sandbox: Sandbox, script: str, *options: str) -> int | None:
    """The job that sbatch makes of the script, in alice's home with a bare environment; None: it refuses."""
    sandbox.run("login", ["tee", "as-sbatch.sh"], user="alice", input=script)
    bare = ["env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/alice", "USER=alice", "LOGNAME=alice"]
    command = [*bare, "sbatch", "--parsable", *options, "as-sbatch.sh"]
    done = sandbox.run("login", command, user="alice", check=False)
    return int(done.stdout) if done.returncode == 0 else None


def shown(sandbox: Sandbox, job_id: int) -> dict[str, str]:
    text = sandbox.run("head", ["scontrol", "-o", "show", "job", str(job_id)]).stdout.splitlines()[0]
    return {key: value for key, value in re.findall(r"(\S+?)=(.*?)(?= \S+?=|$)", text) if not ASIDE.fullmatch(key)}


@pytest.mark.parametrize("lines", SCRIPTS.values(), ids=[name.replace(" ", "-") for name in SCRIPTS])
def test_a_script_asks_for_what_it_asks_sbatch_for(sandbox: Sandbox, alice: Person, lines: str) -> None:
    """Would have caught: ``#SBATCH--time=5`` unread, one task instead of two on a node, tomorrow at this hour."""
    script = f"#!/bin/bash\n{lines}true\n"
    theirs = by_sbatch(sandbox, script, "--hold")
    ours = alice.ask("POST", "/v1/jobs", json={"script": script, "hold": True})
    assert theirs is not None and ours.status == 201, ours
    ids = [theirs, ours.json["job_id"]]
    wanted, found = (shown(sandbox, job_id) for job_id in ids)
    alice.ask("DELETE", f"/v1/jobs?job_id={ids[0]},{ids[1]}")
    different = {key: (wanted.get(key), found.get(key)) for key in wanted | found if wanted.get(key) != found.get(key)}
    assert not different, f"sbatch's, ours: {different}"


@pytest.mark.parametrize(
    "lines",
    ["#SBATCHx\n", "#SBATCH -J 'open\n", "#SBATCH x -n2\n", "#SBATCH --mail-type=WIBBLE\n"],
)
def test_what_sbatch_refuses_is_refused_with_a_reason(sandbox: Sandbox, alice: Person, lines: str) -> None:
    """Would have caught: a mistyped --mail-type called a lost answer (504), or, by 24.11, taken without any mail."""
    script = f"#!/bin/bash\n{lines}true\n"
    assert by_sbatch(sandbox, script, "--hold") is None, "sbatch takes it"
    answer = alice.ask("POST", "/v1/jobs", json={"script": script, "hold": True})
    assert answer.json.get("code") in ("bad-directive", "bad-request"), answer


def test_a_running_job_is_told_what_sbatch_tells_it(sandbox: Sandbox, alice: Person) -> None:
    """Would have caught: SLURM_CPUS_PER_TASK, SLURM_NTASKS_PER_NODE, SLURM_SUBMIT_DIR missing; an --export added up."""
    script = (
        "#!/bin/bash\n#SBATCH -c2 --ntasks-per-node=1 -t 1\n#SBATCH --export=AA=1\n#SBATCH --export BB=2\n"
        "env | grep -E '^(AA|BB|HOME|USER|SLURM_)' "
        "| grep -vE 'JOB_?ID|_TIME|PID|JOB_NAME|CLUSTER|PROCESS|HOST|_ENV=|SLUID|TRES_PER'\n"
    )
    theirs = by_sbatch(sandbox, script)
    ours = alice.ask("POST", "/v1/jobs", json={"script": script}).json["job_id"]
    assert theirs is not None
    said = {}
    for job_id in (theirs, ours):
        assert alice.ended(job_id)["state"] == "COMPLETED"
        said[job_id] = set(alice.ask("GET", f"/v1/jobs/{job_id}/output").text.splitlines())
    assert {"SLURM_CPUS_PER_TASK=2", "SLURM_SUBMIT_DIR=/home/alice", "BB=2"} <= said[theirs], said
    assert said[theirs] == said[ours], said[theirs] ^ said[ours]


GPUS = {
    "--gpus=1": {"gpus": "1"},
    "--gpus=a100:2": {"gpus": "a100:2"},
    "--gpus-per-node=a100:1": {"gpus_per_node": "a100:1"},
    "--gpus-per-task=1 -n2": {"gpus_per_task": "1", "tasks": 2},
    "--gres=gpu:1,tile:1": {"gres": "gpu:1,tile:1"},
}
# Which of the two GPUs a job gets depends on the job beside it.
WHICH_GPU = re.compile(r"^((?:CUDA_.*|GPU_.*|SLURM_JOB_GPUS)=|a task: )[01]$")


@pytest.mark.parametrize(
    "option", [pytest.param(one, marks=() if "task" in one else pytest.mark.slow, id=one.split("=")[0]) for one in GPUS]
)
def test_a_job_gets_the_gpus_that_sbatch_would_get_it(sandbox: Sandbox, alice: Person, option: str) -> None:
    """Would have caught: each of two tasks with both GPUs, as nobody said that it has one of them; SLURM_GPUS unset."""
    script = (
        "#!/bin/bash\n#SBATCH -t 1\nenv | grep -E '^(CUDA_|GPU_|SLURM_(GPU|JOB_GPU|TRES))'\n"
        "scontrol show job $SLURM_JOB_ID | grep -E ' Tres(Per|Bind)'\n"
        "srun --quiet bash -c 'echo a task: $CUDA_VISIBLE_DEVICES'\n"
    )
    ids = [by_sbatch(sandbox, script, *option.split())]
    ids.append(alice.ask("POST", "/v1/jobs", json={"script": script, **GPUS[option]}).json["job_id"])
    said = []
    for job_id in ids:
        assert job_id is not None and alice.ended(job_id)["state"] == "COMPLETED"
        lines = alice.ask("GET", f"/v1/jobs/{job_id}/output").text.splitlines()
        said.append(sorted(WHICH_GPU.sub(r"\1one", line) for line in lines))
    assert any(line.startswith("CUDA_VISIBLE_DEVICES=") for line in said[0]), said
    assert said[0] == said[1], f"sbatch's, ours: {said}"
