"""Policies, the words of AUKS and the helper in a real Slurm: what people see in their jobs and at submission."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import LoginNode, Operator, eventually
from node_people import BOB, agent_with, nodes_are_fine, with_ticket, without_ticket

pytestmark = pytest.mark.e2e

PLUGSTACK = "/etc/slurm/plugstack.conf"
WARNING = "hipercow-slurm: warning: this job has no Kerberos ticket here"
NOT_HANDED = "your ticket was not handed to the credential cache"
# Not klist alone: the default ccache may be that of another job of the user's.
SAY = '[ -n "$KRB5CCNAME" ] && klist -s && echo "good $KRB5CCNAME" || echo "none $KRB5CCNAME$SLURM_SPANK_AUKS"'
# Every argument that AUKS' plugin knows, as sites have them.
OF_AUKS = "conf=/etc/hipercow-slurm/agent.toml default=enabled sync=yes minimum_uid=1000 spankstackcred=yes "
OF_AUKS += "hostcredcache=FILE:/tmp/krb5cc_0 force_file_ccache no_cc_switch"


@pytest.fixture
def alice(sandbox: Sandbox) -> Iterator[LoginNode]:
    yield from with_ticket(sandbox, "alice")


@pytest.fixture
def bob(sandbox: Sandbox) -> Iterator[LoginNode]:
    yield from without_ticket(sandbox, "bob", BOB)


@contextmanager
def submitting_with(sandbox: Sandbox, arguments: str, *hosts: str) -> Iterator[None]:
    """Further arguments on the login node's line for the plugin; srun and sbatch read it each time. So does each prolog
    and step on other ``hosts``."""
    before = sandbox.read("login", PLUGSTACK)
    for host in ("login", *hosts):
        sandbox.run(host, ["tee", PLUGSTACK], input=f"{before.rstrip()} {arguments}\n")
    try:
        yield
    finally:
        for host in ("login", *hosts):
            sandbox.run(host, ["tee", PLUGSTACK], input=before)


@pytest.mark.parametrize("policy", ["warn", "allow"])
def test_a_job_without_a_ticket_runs(sandbox: Sandbox, operator: Operator, bob: LoginNode, policy: str) -> None:
    """warn: one line in the job's output, for the job and not for each step; allow: not a word."""
    with agent_with(sandbox, "c2", f'policy = "{policy}"'):
        script = "#!/bin/bash\nsrun echo STEP\nsrun echo STEP\necho RAN\n"
        job_id = bob.sbatch(script, "-w", "c2", "-o", f"/tmp/{policy}-%j")
        assert operator.job_ended(job_id, within_s=40)["JobState"] == "COMPLETED"
        said = sandbox.read("c2", f"/tmp/{policy}-{job_id}")
        assert said.count("STEP") == 2 and said.count("RAN") == 1, said
        assert said.count(WARNING) == (policy == "warn"), said
        alone = sandbox.run("login", ["srun", "-w", "c2", "echo", "RAN"], user="bob")
        assert alone.stdout == "RAN\n" and (alone.stderr).count(WARNING) == (policy == "warn"), alone
        nodes_are_fine(sandbox)


SUBMIT = {
    "submit=require": (True, True),
    "enforced": (True, True),
    "submit=warn": (False, True),
    "submit=allow": (False, False),
}


@pytest.mark.parametrize("arguments", SUBMIT)
def test_a_submission_without_a_ticket(sandbox: Sandbox, bob: LoginNode, arguments: str) -> None:
    """Refused before there is a job, with a warning, or without a word; the same for sbatch, srun and salloc."""
    refused, says = SUBMIT[arguments]
    with submitting_with(sandbox, arguments):
        for command in (
            ["sbatch", "--hold", "-o", "/dev/null", "--wrap", "true"],
            ["srun", "true"],
            ["salloc", "true"],
        ):
            done = sandbox.run("login", command, user="bob", check=False)
            assert (done.returncode != 0) == refused, (command, done)
            assert (NOT_HANDED in done.stderr) == says, (command, done)
        queued = sandbox.run("head", ["squeue", "-h", "-u", "bob", "-o", "%i %T"]).stdout.split()
        assert (queued == []) == refused, queued


def test_the_words_of_auks(sandbox: Sandbox, alice: LoginNode) -> None:
    """--auks before SLURM_SPANK_AUKS, that before default=; and its other arguments are understood."""
    cases = {
        "srun": "good ",
        "env SLURM_SPANK_AUKS=no srun": "none no",
        "env SLURM_SPANK_AUKS=no srun --auks=yes": "good ",
        "env SLURM_SPANK_AUKS=yes srun --auks=no": "none no",
        "env SLURM_SPANK_AUKS=done srun": "good ",
        "srun --auks=done": "good ",
        "srun --auks": "good ",
    }
    for arguments in ("", OF_AUKS):
        with submitting_with(sandbox, arguments):
            for command, expected in cases.items():
                done = sandbox.run("login", [*command.split(), "bash", "-c", SAY], user="alice")
                assert done.stdout.startswith(expected), (arguments, command, done)
                assert "hipercow-slurm:" not in done.stderr, (arguments, command, done)
    with submitting_with(sandbox, "sinc=yes"):
        wrong = sandbox.run("login", ["srun", "true"], user="alice", check=False)
        assert "sinc=yes" in wrong.stderr, f"an unknown argument passed in silence: {wrong}"


def test_done_hands_nothing_over(sandbox: Sandbox, alice: LoginNode) -> None:
    """The cache has the ticket already; with `yes` and a fresh one it is handed over."""

    def adds() -> int:
        return len([line for line in sandbox.service("auksd").log().splitlines() if "verb=add" in line])

    alice.do("srun", "true")
    alice.kinit()
    before = adds()
    assert alice.do("srun", "--auks=done", "bash", "-c", SAY).startswith("good ")
    assert adds() == before, "--auks=done handed a ticket over"
    alice.do("srun", "true")
    assert adds() == before + 1, "a fresh ticket was not handed over"


def test_options_of_sbatch_and_salloc(sandbox: Sandbox, operator: Operator, alice: LoginNode) -> None:
    """On the command line and in the script; the prolog knows, too, and the script's steps agree with it. Would have
    caught: an option that sbatch did not know, and a prolog that never saw it."""
    script = f"{SAY}\nsrun bash -c '{SAY}'\n"
    by_option = alice.sbatch(f"#!/bin/bash\n{script}", "-w", "c2", "--auks=no", "-o", "/tmp/words-%j")
    in_script = alice.sbatch(f"#!/bin/bash\n#SBATCH --auks=no\n{script}", "-w", "c2", "-o", "/tmp/words-%j")
    with_one = alice.sbatch(f"#!/bin/bash\n#SBATCH --auks=yes\n{script}", "-w", "c2", "-o", "/tmp/words-%j")
    for job_id, expected in ((by_option, ("none no",) * 2), (in_script, ("none no",) * 2),
                             (with_one, (f"good FILE:/tmp/krb5cc_5001_{with_one}",) * 2)):  # fmt: skip
        operator.job_ended(job_id, within_s=40)
        assert sandbox.read("c2", f"/tmp/words-{job_id}") == "".join(f"{line}\n" for line in expected)
        asked = f"job_id={job_id} " in sandbox.service("agent@c2").log()
        assert asked == (job_id == with_one), sandbox.service("agent@c2").log()[-3000:]
    assert alice.do("salloc", "-Q", "-w", "c2", "--auks=no", "srun", "bash", "-c", SAY) == "none no\n"
    assert alice.do("salloc", "-Q", "-w", "c2", "--auks=done", "srun", "bash", "-c", SAY).startswith("good ")
    wrong = sandbox.run("login", ["sbatch", "--auks=maybe", "--wrap", "true"], user="alice", check=False)
    assert wrong.returncode != 0 and "yes, no or done" in wrong.stderr, wrong


@pytest.mark.parametrize("way", ["option", "environment"])
def test_who_wants_no_ticket_is_not_held(sandbox: Sandbox, operator: Operator, bob: LoginNode, way: str) -> None:
    """Policy require is decided in the prolog, which must know that this job wants none."""
    words = ["sbatch", "--auks=no"] if way == "option" else ["env", "SLURM_SPANK_AUKS=no", "sbatch"]
    with agent_with(sandbox, "c2", 'policy = "require"'):
        job_id = int(bob.do(*words, "--parsable", "-w", "c2", "-o", f"/tmp/{way}-%j", "--wrap", "echo RAN"))
        job = operator.job_ended(job_id, within_s=40)
        assert job["JobState"] == "COMPLETED", (job, sandbox.service("agent@c2").log()[-2000:])
        assert sandbox.read("c2", f"/tmp/{way}-{job_id}") == "RAN\n"


def test_tickets_only_for_who_asks(sandbox: Sandbox, operator: Operator, alice: LoginNode) -> None:
    """default=disabled: by option or variable, the prolog gets it, before the job's output is opened."""
    alice.do("hipercow-slurm", "upload")
    with submitting_with(sandbox, "default=disabled", "c2"):
        assert alice.do("srun", "-w", "c2", "bash", "-c", SAY) == "none \n"
        for words in (["salloc", "--auks=yes"], ["env", "SLURM_SPANK_AUKS=yes", "salloc"]):
            # No step, so nobody but the prolog asks.
            job_id = alice.do(*words, "-Q", "-w", "c2", "bash", "-c", "sleep 2; echo $SLURM_JOB_ID").strip()
            log = sandbox.service("agent@c2").log()
            assert f"event=agent.ticket_installed job_id={job_id} " in log, (words, log[-2000:])
        job = alice.sbatch(f"#!/bin/bash\n#SBATCH --auks=yes\n{SAY}\n", "-w", "c2", "-o", "/tmp/asked-%j")
        assert operator.job_ended(job, within_s=40)["JobState"] == "COMPLETED"
        assert sandbox.read("c2", f"/tmp/asked-{job}") == f"good FILE:/tmp/krb5cc_5001_{job}\n"


def test_once_per_job_and_node(sandbox: Sandbox, operator: Operator, alice: LoginNode) -> None:
    """Steps ask for the name only: one ticket is written on each node, before the first of them, and removed once."""
    script = f"#!/bin/bash\n{SAY}\n" + "srun -N2 true\n" * 3
    job_id = alice.sbatch(script, "-N2", "-w", "c[1-2]", "-o", "/tmp/once-%j")
    operator.job_ended(job_id, within_s=60)
    assert sandbox.read("c1", f"/tmp/once-{job_id}").startswith("good "), "not there when the script began"
    for node in ("c1", "c2"):
        service = sandbox.service(f"agent@{node}")

        def lines(event: str, service: object = service) -> int:
            text = service.log()  # type: ignore[attr-defined]
            return sum(f"event={event} " in line and f"job_id={job_id} " in f"{line} " for line in text.splitlines())

        eventually(f"{node}: the ticket goes", lambda lines=lines: lines("agent.ticket_removed"), within_s=30)
        assert (lines("agent.ticket_installed"), lines("agent.ticket_removed")) == (1, 1), service.log()[-3000:]


def test_the_helper_runs_after_each_change(sandbox: Sandbox, operator: Operator, alice: LoginNode) -> None:
    """Also when a fresh login replaces the ticket of a running job."""
    helper = '#!/bin/sh\necho "$(id -un) $HIPERCOW_SLURM_EVENT $KRB5CCNAME" >>/tmp/changes-$SLURM_JOB_ID\n'
    sandbox.run("c2", ["tee", "/tmp/hcs-helper"], input=helper)
    sandbox.run("c2", ["chmod", "755", "/tmp/hcs-helper"])
    with agent_with(sandbox, "c2", 'helper = "/tmp/hcs-helper"\npoll_s = 1.0'):
        job_id = alice.sbatch("#!/bin/bash\nsleep 300\n", "-w", "c2", "-o", "/dev/null")
        operator.job_runs(job_id)
        name = f"FILE:/tmp/krb5cc_5001_{job_id}"

        def seen() -> list[str]:
            return sandbox.run("c2", ["cat", f"/tmp/changes-{job_id}"], check=False).stdout.splitlines()

        eventually("it ran at the start", lambda: f"alice installed {name}" in seen(), within_s=30)
        alice.kinit()
        alice.do("hipercow-slurm", "upload")
        eventually("it ran after a fresh login", lambda: f"alice replaced {name}" in seen(), within_s=30)
        sandbox.run("head", ["scancel", str(job_id)])
