"""Agent and plugin in a real Slurm: what users and operators see of them beyond the plain story."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import LoginNode, Operator, eventually
from node_people import BOB, agent_with, nodes_are_fine, with_ticket, without_ticket

pytestmark = pytest.mark.e2e

MARKER = "hipercow-slurm: no ticket"


@pytest.fixture
def alice(sandbox: Sandbox) -> Iterator[LoginNode]:
    yield from with_ticket(sandbox, "alice")


@pytest.fixture
def bob(sandbox: Sandbox) -> Iterator[LoginNode]:
    yield from without_ticket(sandbox, "bob", BOB)


def show(sandbox: Sandbox, job_id: str, form: str) -> list[str]:
    out = sandbox.run("login", ["squeue", "-h", "-j", job_id, "-o", form], user="bob").stdout
    return [line for line in out.splitlines() if line]


def held(sandbox: Sandbox, job_id: str) -> list[str]:
    """Wait until every part of the job is back in the queue; what its owner reads there."""

    def probe() -> list[str] | None:
        rows = show(sandbox, job_id, "%T %r %k")
        return rows if rows and all(row.startswith("PENDING ") and MARKER in row for row in rows) else None

    return eventually(f"job {job_id} held", probe, within_s=20)


def test_require_puts_the_job_back_and_its_owner_lets_it_go(
    sandbox: Sandbox, operator: Operator, bob: LoginNode
) -> None:
    with agent_with(sandbox, "c2", 'policy = "require"'):
        script = "#!/bin/bash\necho RAN; klist -s && echo TICKET\n"
        job_id = bob.sbatch(script, "-w", "c2", "-o", "/tmp/req-%j", "--comment", "mine")
        array = bob.sbatch("#!/bin/bash\ntrue\n", "-w", "c2", "--array=1-2", "-o", "/dev/null")
        (row,) = held(sandbox, str(job_id))
        reason, _, comment = row.removeprefix("PENDING ").partition(" mine | ")
        # The second once the scheduler has looked at the job. Never JobHeldAdmin: the owner could not release that.
        assert reason in ("job requeued in held state", "JobHeldUser"), row
        assert f"scontrol release {job_id}" in comment, row
        assert len(held(sandbox, str(array))) == 2
        nodes_are_fine(sandbox)
        ran = sandbox.run("c2", ["cat", f"/tmp/req-{job_id}"], check=False)
        assert "RAN" not in ran.stdout, "the script ran without a ticket"
        bob.kinit()
        bob.do("hipercow-slurm", "upload")
        bob.do("scontrol", "release", str(job_id))  # the owner may: it is the owner's own hold
        sandbox.run("head", ["scontrol", "update", f"JobId={job_id}", "StartTime=now+5"])  # else after Slurm's 2 min
        job = operator.job_ended(job_id, within_s=30)
        assert job["JobState"] == "COMPLETED", job
        assert "TICKET" in sandbox.run("c2", ["cat", f"/tmp/req-{job_id}"]).stdout


def test_require_refuses_what_cannot_be_put_back(sandbox: Sandbox, operator: Operator, bob: LoginNode) -> None:
    with agent_with(sandbox, "c2", 'policy = "require"'):
        refused = sandbox.run("login", ["srun", "-w", "c2", "echo", "RAN"], user="bob", check=False)
        assert refused.returncode != 0 and "RAN" not in refused.stdout, refused
        assert "needs a Kerberos ticket" in refused.stdout + refused.stderr, refused
        job_id = bob.sbatch("#!/bin/bash\necho RAN\n", "-w", "c2", "--no-requeue", "-o", "/tmp/req-%j")
        job = operator.job_ended(job_id, within_s=30)
        assert job["JobState"] == "FAILED", job
        assert "RAN" not in sandbox.run("c2", ["cat", f"/tmp/req-{job_id}"]).stdout
        nodes_are_fine(sandbox)


def test_who_wants_no_ticket_gets_none_and_no_policy(sandbox: Sandbox, bob: LoginNode) -> None:
    with agent_with(sandbox, "c2", 'policy = "require"'):
        script = 'echo "ccache=$KRB5CCNAME auks=$SLURM_SPANK_AUKS"'
        by_option = bob.do("srun", "-w", "c2", "--auks=no", "bash", "-c", script)
        assert by_option.strip() == "ccache= auks=no", by_option
        wrong = sandbox.run("login", ["srun", "--auks=maybe", "true"], user="bob", check=False)
        assert wrong.returncode != 0 and "yes, no or done" in wrong.stderr, wrong


LOOK = "klist -s && echo good $KRB5CCNAME || echo NONE"


def clean(operator: Operator, node: str) -> None:
    eventually(f"no ccache left on {node}", lambda: not operator.leftovers(node), within_s=30)


def test_every_kind_of_interactive_job(sandbox: Sandbox, operator: Operator, alice: LoginNode) -> None:
    """srun alone, on several nodes, a heterogeneous one, steps of an salloc: each task sees its job's own ticket."""
    kinds = {
        "srun": (1, ["srun", "bash", "-c", LOOK]),
        "two nodes": (2, ["srun", "-N2", "bash", "-c", LOOK]),
        "heterogeneous": (2, ["srun", "-n1", ":", "-n1", "bash", "-c", LOOK]),
        "salloc": (2, ["salloc", "-Q", "-N2", "srun", "bash", "-c", LOOK]),
    }
    kinds["heterogeneous"] = (2, ["srun", "-n1", "bash", "-c", LOOK, ":", "-n1", "bash", "-c", LOOK])
    for kind, (tasks, command) in kinds.items():
        lines = [line for line in alice.do(*command).splitlines() if line.startswith(("good", "NONE"))]
        assert len(lines) == tasks, f"{kind}: {lines}"
        assert all(line.startswith("good FILE:/tmp/krb5cc_5001_") for line in lines), f"{kind}: {lines}"
    for node in ("c1", "c2"):
        clean(operator, node)


def test_every_kind_of_batch_job(sandbox: Sandbox, operator: Operator, alice: LoginNode) -> None:
    """A script and its steps on two nodes, an array, a requeued and a suspended job."""
    script = f"#!/bin/bash\n({LOOK}; srun bash -c '{LOOK}') > /tmp/kind-$SLURM_JOB_ID 2>&1\n"
    plain = alice.sbatch(script, "-N2", "-w", "c[1-2]", "-o", "/dev/null")
    array = alice.sbatch(script, "--array=1-2", "-w", "c1", "-o", "/dev/null")
    long = f'#!/bin/bash\n({LOOK}) >> /tmp/kind-$SLURM_JOB_ID\n[ -n "$SLURM_RESTART_COUNT" ] || sleep 30\n'
    again = alice.sbatch(long, "-w", "c2", "-o", "/dev/null")
    operator.job_runs(again)
    wrote = ["test", "-s", f"/tmp/kind-{again}"]
    eventually("its first line", lambda: sandbox.run("c2", wrote, check=False).returncode == 0, within_s=40)
    sandbox.run("head", ["scontrol", "suspend", str(again)])
    sandbox.run("head", ["scontrol", "resume", str(again)])
    assert operator.installed("c2", 5001, again)["mode"] == "0600"
    sandbox.run("head", ["scontrol", "requeue", str(again)])
    eventually("requeued", lambda: operator.job(again)["JobState"] == "PENDING", within_s=20)
    sandbox.run("head", ["scontrol", "update", f"JobId={again}", "StartTime=now"])
    for job_id in (plain, array, again):
        eventually(f"end of {job_id}", lambda i=job_id: not show(sandbox, str(i), "%T"), within_s=40)
    found = sandbox.run("c1", ["bash", "-c", "cat /tmp/kind-*"]).stdout.splitlines()
    assert len(found) == 3 + 2 * 2 and all(line.startswith("good FILE:/tmp/krb5cc_5001_") for line in found), found
    twice = sandbox.read("c2", f"/tmp/kind-{again}").splitlines()
    assert twice == [f"good FILE:/tmp/krb5cc_5001_{again}"] * 2, twice
    for node in ("c1", "c2"):
        clean(operator, node)


def test_slurmstepd_killed_leaves_nothing(sandbox: Sandbox, operator: Operator, alice: LoginNode) -> None:
    waiting = sandbox.popen("login", ["srun", "-w", "c2", "sleep", "60"], user="alice")
    eventually("a ccache", lambda: operator.leftovers("c2"), within_s=15)
    # The ticket is there before the step: Slurm's prolog comes first.
    eventually(
        "a slurmstepd to kill",
        lambda: sandbox.run("c2", ["pkill", "-9", "-f", "^slurmstepd: "], check=False).returncode == 0,
        within_s=15,
    )
    waiting.kill()
    sandbox.run("head", ["scancel", "-u", "alice"])
    clean(operator, "c2")


def test_power_loss_leaves_nothing(sandbox: Sandbox, operator: Operator, alice: LoginNode) -> None:
    """All of the node dies at once; its disk is as it was, its boot id is another one, its agent starts first."""
    boot_id = "/proc/sys/kernel/random/boot_id"
    script = f"cat /proc/sys/kernel/random/uuid > /run/boot_id && mount --bind /run/boot_id {boot_id}"
    job_id = alice.sbatch("#!/bin/bash\nsleep 300\n", "-w", "c2", "--no-requeue", "-o", "/dev/null")
    operator.job_runs(job_id)
    operator.installed("c2", 5001, job_id)
    sandbox.run("c2", ["bash", "-c", f"echo half > /tmp/.hipercow-slurm-0123456789abcdef; {script}"])
    try:
        sandbox.service("agent@c2").kill()
        sandbox.service("slurmd@c2").kill()
        sandbox.run("c2", ["pkill", "-9", "-f", rf"^slurmstepd: \[{job_id}\."], check=False)
        assert operator.leftovers("c2"), "this test proves nothing: the ticket went with its agent"
        sandbox.service("agent@c2").start()
        assert not operator.leftovers("c2"), sandbox.service("agent@c2").log()[-2000:]
        left = sandbox.run("c2", ["bash", "-c", "ls -A /tmp /var/lib/hipercow-slurm/agent"]).stdout
        assert ".hipercow-slurm-" not in left and f"{job_id}.json" not in left, left
    finally:
        sandbox.run("c2", ["umount", boot_id])
        sandbox.service("agent@c2").restart()
        sandbox.service("slurmd@c2").start()
        sandbox.run("head", ["scancel", str(job_id)])
    said = alice.do("srun", "-w", "c2", "bash", "-c", LOOK)
    assert said.startswith("good "), said
    clean(operator, "c2")


def test_helper_runs_in_a_job_before_its_script(sandbox: Sandbox, alice: LoginNode) -> None:
    helper = '#!/bin/sh\necho "$(id -un) $HIPERCOW_SLURM_EVENT $KRB5CCNAME" > /tmp/helped-$SLURM_JOB_ID\n'
    sandbox.run("c2", ["tee", "/tmp/hcs-helper"], input=helper)
    sandbox.run("c2", ["chmod", "755", "/tmp/hcs-helper"])
    with agent_with(sandbox, "c2", 'helper = "/tmp/hcs-helper"'):
        said = alice.do("srun", "-w", "c2", "bash", "-c", "cat /tmp/helped-$SLURM_JOB_ID; echo $KRB5CCNAME").split()
    assert said[:2] == ["alice", "installed"] and said[2] == said[3], said


def test_doctor_walks_a_real_job(sandbox: Sandbox, operator: Operator, alice: LoginNode) -> None:
    job_id = alice.sbatch("#!/bin/bash\nsleep 60\n", "-w", "c2", "-o", "/dev/null")
    operator.job_runs(job_id)
    operator.installed("c2", 5001, job_id)
    said = sandbox.run("c2", ["hipercow-slurm", "doctor", str(job_id)], check=False)
    assert said.returncode == 0 and "alice@SANDBOX.TEST" in said.stdout and "BAD" not in said.stdout, said
