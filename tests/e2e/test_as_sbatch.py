"""The same script through sbatch and through the API is the same job: real sbatch and slurmctld are the judges."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from fix_sandbox import SLURM
from hipercow_slurm.testing.sandbox import Sandbox
from person import URL, Person

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
    "a range of nodes": "#SBATCH -N1-2 --use-min-nodes\n",
    "a range without its beginning": "#SBATCH -N -2 --ntasks-per-node=2\n",
    "fewer tasks than a range": "#SBATCH -N2-4 -n1\n",
    "fewer tasks than the end of a range": "#SBATCH -N1-3 -n2\n",
    "nodes it must not have": "#SBATCH -x c2 --spread-job -s\n",
    "whole cores": "#SBATCH --hint=nomultithread --ntasks-per-socket=2\n",
    "a hint that does not count": "#SBATCH -n2 --ntasks-per-core=1 --hint=nomultithread\n",
    "all threads": "#SBATCH --hint=multithread --distribution=Cyclic:block,Pack\n",
    "a shape of nodes": "#SBATCH --sockets-per-node=1 --threads-per-core=1 --mincpus=2 --tmp=1G -m plane=2\n",
    "what is left to the system": "#SBATCH -S1 --cpu-freq=medium --acctg-freq=task=30\n",
    "threads left to the system": "#SBATCH --thread-spec=1 --delay-boot=5 --bb=x --mcs-label=y\n",
    "a time that may be shorter": "#SBATCH -t 60 --time-min=1:30 --deadline=2030-01-31T20:00 --wckey=abc\n",
    "a signal": "#SBATCH --signal=SIGUSR1@70 -k --wait-all-nodes=1\n",
    "a signal of sbatch's own time": "#SBATCH --signal=10 --no-kill=off --wait-all-nodes=0\n",
    "a dependency that may fail": "#SBATCH --kill-on-invalid-dep=no --cluster-constraint=x --get-user-env\n",
    "a dependency that may not": "#SBATCH --kill-on-invalid-dep=yes --gres=tile:1 --gres-flags=enforce-binding\n",
    "for each GPU": "#SBATCH -G1 --cpus-per-gpu=2 --mem-per-gpu=2G --gpu-bind=map_gpu:0,1 --gpu-freq=low\n",
    "tasks for each GPU": "#SBATCH --gpus=2 --ntasks-per-gpu=2 --gres-flags=disable-binding\n",
    "GPUs on each socket": "#SBATCH --gpus-per-socket=1 --sockets-per-node=1\n",
    "what only sbatch does": "#SBATCH -Q --parsable -v --ignore-pbs -n1\n",
    "most of the rest": "#SBATCH -t 1:30 -N2 -n3 -c1 --mem-per-cpu=1500K -L sandbox:2 -w c[1-2] --gres=tile:1\n"
    "#SBATCH -d singleton --no-requeue --exclusive=user --nice --mail-type=ALL --mail-user=x@y -a 0-10:5,20%3\n",
}
# What not every release's slurmrestd can be asked for.
NEWER = {
    "a signal for the script": "#SBATCH --signal=B:USR1@60\n",
    "nodes beside each other": "#SBATCH --contiguous\n",
    "more tasks than processors": "#SBATCH -O -n8\n",
    "a number of switches": "#SBATCH --switches=1@2\n",
    "what to measure": "#SBATCH --profile=energy,task\n",
    "cores of a socket": "#SBATCH --cores-per-socket=2\n",
    "one core of a socket": "#SBATCH --hint=memory_bound\n",
}
# What a release's newest version has no words for, of these.
LACKING = {"22.05": [*NEWER.values()][:-2], "24.11": [*NEWER.values()][-2:], "26.05": []}
# Submissions from the laptop, in their order.
EACH = f"""
import httpx, json, sys
asks = json.load(sys.stdin)
with httpx.Client(verify="/etc/hipercow-slurm/ca.pem", timeout=60, trust_env=False, headers=asks["headers"]) as client:
    print(json.dumps([client.post("{URL}/v1/jobs", json=job).json() for job in asks["jobs"]]))
"""
ALL = (*SCRIPTS.values(), *NEWER.values())
BARE = ("env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/alice", "USER=alice", "LOGNAME=alice")
# Of what slurmctld logs of a submission, what scontrol does not show.
DESCRIBED = (
    *("signal", "kill_on_node_fail", "overcommit", "wait_all_nodes", "core_spec", "thread_spec", "bitflags", "prefer"),
    *("time_limit", "exc_nodes", "acctg_freq", "ntasks_per_core", "ntasks_per_socket", "ntasks_per_tres"),
)
# What sbatch tells a job of itself and of the machine it ran on; tasks are told by the node.
SUBMITTED = re.compile(
    r"SLURM_(RLIMIT_.*|CONF|PRIO_PROCESS|UMASK|SUBMIT_.*|JOB_NAME|NTASKS|NPROCS|TRES_PER_TASK|PROFILE)"
)


@pytest.fixture(scope="module")
def alice(sandbox: Sandbox) -> Iterator[Person]:
    person = Person(sandbox, "alice")
    yield person
    person.ask("DELETE", "/v1/sessions/current")


def by_sbatch(sandbox: Sandbox, script: str, *options: str) -> int | None:
    """The job that sbatch makes of the script, in alice's home with a bare environment; None: it refuses."""
    sandbox.run("login", ["tee", "as-sbatch.sh"], user="alice", input=script)
    command = [*BARE, "sbatch", "--parsable", *options, "as-sbatch.sh"]
    done = sandbox.run("login", command, user="alice", check=False)
    return int(done.stdout) if done.returncode == 0 else None


def all_by_sbatch(sandbox: Sandbox, scripts: Iterable[str]) -> list[int | None]:
    """As ``by_sbatch``, held, in one go."""
    submit = f"{' '.join(BARE)} sbatch --hold --parsable as-sbatch.sh || echo none"
    each = (f"cat >as-sbatch.sh <<'THE END'\n{script}THE END\n{submit}\n" for script in scripts)
    said = sandbox.run("login", ["sh"], user="alice", input="".join(each)).stdout.split()
    return [None if one == "none" else int(one) for one in said]


def shown(sandbox: Sandbox) -> dict[int, dict[str, str]]:
    """All jobs: what scontrol shows, what slurmctld keeps of the environment, what it logged of the submission."""
    spool = "/var/lib/slurm/slurmctld"
    ask = f"scontrol -o show job; for f in {spool}/hash.*/job.*/environment; do echo; echo $f; tr '\\0' '\\n' <$f; done"
    rows, *environments = sandbox.run("head", ["sh", "-c", ask]).stdout.split(f"\n{spool}/hash.")
    found: dict[int, dict[str, str]] = {}
    for row in rows.splitlines():
        pairs = re.findall(r"(\S+?)=(.*?) *(?= \S+?=|$)", row)
        found[int(dict(pairs)["JobId"])] = {key: value for key, value in pairs if not ASIDE.fullmatch(key)}
    for text in environments:
        first, *lines = text.splitlines()
        told = dict(line[line.index("SLURM_") :].split("=", 1) for line in lines if "SLURM_" in line and "=" in line)
        job = found.get(int(first.split("/")[1].removeprefix("job.")), {})
        job |= {key: value for key, value in told.items() if not SUBMITTED.fullmatch(key)}
    for job_id, logged in described(sandbox.service("slurmctld").log()):
        if job_id in found:
            found[job_id] |= logged
    return found


def described(log: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Of each submission what scontrol does not show."""
    for block in log.split("JobDesc: user_id=")[1:]:
        told, end, after = block.partition("_slurm_rpc_submit_batch_job: JobId=")
        if end:
            said = dict(re.findall(r"\b([a-z_]+)=(\S+)", "\n".join(re.findall(r"debug3:    (.*)", told))))
            # Set where sbatch counted tasks or processors itself.
            bitflags = hex(int(said["bitflags"], 16) & ~0xC000)
            yield int(after.split()[0]), {key: said[key] for key in DESCRIBED if key in said} | {"bitflags": bitflags}


@dataclass(frozen=True)
class Pair:
    """A script's job as sbatch made it, and as we did: or our refusal."""

    theirs: dict[str, str] | None
    ours: dict[str, str] | None
    answer: dict[str, Any]

    def different(self) -> dict[str, tuple[str | None, str | None]]:
        assert self.theirs is not None and self.ours is not None, self
        wanted, found = self.theirs, self.ours
        return {key: (wanted.get(key), found.get(key)) for key in wanted | found if wanted.get(key) != found.get(key)}


@pytest.fixture(scope="module")
def pairs(sandbox: Sandbox, alice: Person) -> Iterator[dict[str, Pair]]:
    """All scripts through both, by their lines: one by one it would take minutes."""
    scripts = [f"#!/bin/bash\n{lines}true\n" for lines in ALL]
    sandbox.run("head", ["scontrol", "setdebug", "debug3"])  # slurmctld logs each submission in full
    theirs = all_by_sbatch(sandbox, scripts)
    # One after the other, as slurmctld's log is read; a bulk submission makes several at a time.
    asks = {"headers": alice.headers, "jobs": [{"script": script, "hold": True} for script in scripts]}
    done = sandbox.run("laptop", ["hipercow-python", "-c", EACH], user="laptop", input=json.dumps(asks), timeout=120)
    ours = json.loads(done.stdout)
    seen = shown(sandbox)
    sandbox.run("head", ["scontrol", "setdebug", "info"])
    made = [job_id for job_id in (*theirs, *(one.get("job_id") for one in ours)) if job_id]
    alice.ask("DELETE", f"/v1/jobs?job_id={','.join(map(str, made))}")
    yield {
        lines: Pair(seen.get(job_id or 0), seen.get(one.get("job_id", 0)), one)
        for lines, job_id, one in zip(ALL, theirs, ours, strict=True)
    }


@pytest.mark.parametrize("lines", SCRIPTS.values(), ids=[name.replace(" ", "-") for name in SCRIPTS])
def test_a_script_asks_for_what_it_asks_sbatch_for(pairs: dict[str, Pair], lines: str) -> None:
    """Would have caught: ``#SBATCH--time=5`` unread, one task instead of two on a node, tomorrow at this hour."""
    different = pairs[lines].different()
    assert not different, f"sbatch's, ours: {different}"


@pytest.mark.parametrize("lines", NEWER.values(), ids=[name.replace(" ", "-") for name in NEWER])
def test_what_not_every_slurmrestd_can_be_asked_for(pairs: dict[str, Pair], lines: str) -> None:
    """Would have caught: --contiguous lost, or "Failure during parsing" without a word of what failed."""
    pair = pairs[lines]
    if lines in LACKING[SLURM or "22.05"]:
        assert pair.answer.get("code") == "bad-request", pair
        assert lines.split()[1].partition("=")[0].replace("-O", "--overcommit") in pair.answer["detail"], pair
    else:
        different = pair.different()
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


@pytest.mark.parametrize(
    ("lines", "among"),
    [
        (
            "#SBATCH -c2 --ntasks-per-node=1 -t 1\n#SBATCH --export=AA=1\n#SBATCH --export BB=2\n",
            {"SLURM_CPUS_PER_TASK=2", "SLURM_SUBMIT_DIR=/home/alice", "BB=2"},
        ),
        (
            "#SBATCH -N1-2 -n2 --threads-per-core=1 -m cyclic -s -x c1 --get-user-env -t 1 -o o%%j-%2j-%b-%N.txt\n",
            {"SLURM_NTASKS=2", "SLURM_DISTRIBUTION=cyclic", "SLURM_THREADS_PER_CORE=1", "SLURM_JOB_NODELIST=c2"},
        ),
    ],
    ids=["main", "rarer"],
)
def test_a_running_job_is_told_what_sbatch_tells_it(
    sandbox: Sandbox, alice: Person, lines: str, among: set[str]
) -> None:
    """Would have caught: SLURM_CPUS_PER_TASK, SLURM_NTASKS_PER_NODE, SLURM_SUBMIT_DIR missing; an --export added up.

    And output with %% in its name (24.11) or %b (26.05) looked for elsewhere, of sbatch's job and of ours.
    """
    script = (
        f"#!/bin/bash\n{lines}"
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
    assert among <= said[theirs], said
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
