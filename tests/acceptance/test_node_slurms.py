"""The plugin and the agent with the newer releases of Slurm: built for their headers, loaded by their daemons."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hipercow_slurm.testing import slurm_tree
from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import LoginNode, Operator, eventually
from node_people import AGENT_TOML, nodes_are_fine, with_ticket

LOOK = "klist -s && echo good $KRB5CCNAME || echo NONE $KRB5CCNAME"


@pytest.fixture(scope="module", params=sorted(slurm_tree.RELEASES))
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """One release, with tickets of ordinary length."""
    slurm_tree.build(request.param)
    with Sandbox(slurm=request.param) as made:
        yield made


@pytest.fixture
def alice(sandbox: Sandbox) -> Iterator[LoginNode]:
    yield from with_ticket(sandbox, "alice")


def clean(operator: Operator) -> None:
    for node in ("c1", "c2"):
        eventually(f"no ccache left on {node}", lambda n=node: not operator.leftovers(n), within_s=30)


def test_every_kind_of_job_has_its_ticket(sandbox: Sandbox, operator: Operator, alice: LoginNode) -> None:
    version = sandbox.run("head", ["sinfo", "--version"]).stdout
    for kind, tasks, command in (
        ("srun", 1, ["srun", "bash", "-c", LOOK]),
        ("two nodes", 2, ["srun", "-N2", "bash", "-c", LOOK]),
        ("salloc", 2, ["salloc", "-Q", "-N2", "srun", "bash", "-c", LOOK]),
        ("heterogeneous", 2, ["srun", "-n1", "bash", "-c", LOOK, ":", "-n1", "bash", "-c", LOOK]),
    ):
        lines = [line for line in alice.do(*command).splitlines() if line.startswith(("good", "NONE"))]
        assert len(lines) == tasks, f"{version} {kind}: {lines}"
        assert all(line.startswith("good FILE:/tmp/krb5cc_5001_") for line in lines), f"{version} {kind}: {lines}"
    script = f"#!/bin/bash\n({LOOK}; srun bash -c '{LOOK}') > /tmp/kind-$SLURM_JOB_ID 2>&1\n"
    jobs = [alice.sbatch(script, "-N2", "-w", "c[1-2]", "-o", "/dev/null"),
            alice.sbatch(script, "--array=1-2", "-w", "c1", "-o", "/dev/null")]  # fmt: skip
    for job in jobs:
        ended = ["squeue", "-h", "-j", str(job)]
        eventually(f"end of {job}", lambda e=ended: not sandbox.run("head", e, check=False).stdout, within_s=60)
    found = sandbox.run("c1", ["bash", "-c", "cat /tmp/kind-*"]).stdout.splitlines()
    assert len(found) == 3 + 2 * 2 and all(line.startswith("good FILE:/tmp/krb5cc_5001_") for line in found), found
    clean(operator)
    nodes_are_fine(sandbox)


def test_who_wants_none_and_who_asks_wrongly(sandbox: Sandbox, alice: LoginNode, operator: Operator) -> None:
    """srun, sbatch and salloc alike; the prolog, too, knows what was asked for."""
    script = 'echo "ccache=$KRB5CCNAME auks=$SLURM_SPANK_AUKS"'
    alice.do("srun", "-w", "c2", "true")  # the cache has her ticket
    assert alice.do("srun", "--auks=no", "bash", "-c", script).strip() == "ccache= auks=no"
    assert alice.do("salloc", "-Q", "--auks=no", "srun", "bash", "-c", script).strip() == "ccache= auks=no"
    job = alice.sbatch(f"#!/bin/bash\n#SBATCH --auks=no\n{script}\n", "-w", "c2", "-o", "/tmp/none-%j")
    operator.job_ended(job, within_s=60)
    assert sandbox.read("c2", f"/tmp/none-{job}").strip() == "ccache= auks=no"
    log = sandbox.service("agent@c2").log()
    assert f"event=agent.ticket_installed job_id={job} " not in log and "agent.ticket_installed" in log, log[-2000:]
    for command in (["srun", "--auks=maybe", "true"], ["sbatch", "--auks=maybe", "--wrap", "true"]):
        wrong = sandbox.run("login", command, user="alice", check=False)
        assert wrong.returncode != 0 and "yes, no or done" in wrong.stderr, wrong


def test_require_puts_the_job_back_and_its_owner_lets_it_go(sandbox: Sandbox, operator: Operator) -> None:
    """Slurm's words in scontrol and squeue change with its releases; the node is never drained."""
    before = sandbox.read("c2", AGENT_TOML)
    sandbox.run("c2", ["tee", AGENT_TOML], input=before.replace("[agent]\n", '[agent]\npolicy = "require"\n'))
    sandbox.service("agent@c2").restart()
    bob = LoginNode(sandbox, "bob")
    try:
        job = bob.sbatch("#!/bin/bash\necho RAN; klist -s && echo TICKET\n", "-w", "c2", "-o", "/tmp/req-%j")

        def held() -> str:
            row = sandbox.run("login", ["squeue", "-h", "-j", str(job), "-o", "%T %k"], user="bob").stdout
            return row if row.startswith("PENDING ") and "hipercow-slurm: no ticket" in row else ""

        eventually(f"job {job} held", held, within_s=30)
        assert sandbox.run("c2", ["cat", f"/tmp/req-{job}"], check=False).stdout == "", "it ran without a ticket"
        nodes_are_fine(sandbox)
        bob.kinit()
        bob.do("hipercow-slurm", "upload")
        bob.do("scontrol", "release", str(job))
        sandbox.run("head", ["scontrol", "update", f"JobId={job}", "StartTime=now+5"])  # else after Slurm's 2 min
        assert operator.job_ended(job, within_s=60)["JobState"] == "COMPLETED"
        assert "TICKET" in sandbox.run("c2", ["cat", f"/tmp/req-{job}"]).stdout
    finally:
        sandbox.run("c2", ["tee", AGENT_TOML], input=before)
        sandbox.service("agent@c2").restart()
        sandbox.run("head", ["scancel", "-u", "bob"])


def test_slurmstepd_killed_leaves_nothing(sandbox: Sandbox, operator: Operator, alice: LoginNode) -> None:
    waiting = sandbox.popen("login", ["srun", "-w", "c2", "sleep", "60"], user="alice")
    eventually("a ccache", lambda: operator.leftovers("c2"), within_s=30)
    kill = ["pkill", "-9", "-f", "^slurmstepd: "]
    eventually("killed", lambda: sandbox.run("c2", kill, check=False).returncode == 0, within_s=30)
    waiting.kill()
    sandbox.run("head", ["scancel", "-u", "alice"])
    clean(operator)
