"""A job that slurmctld has forgotten, and nobody saw how it ended: Slurm's accounting knows, and is asked."""

from __future__ import annotations

import pytest

from hipercow_slurm.testing import slurm_tree
from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import eventually
from person import Person

pytestmark = pytest.mark.e2e


def state_in(sandbox: Sandbox, tool: list[str]) -> str:
    return sandbox.run("login", tool, user="alice", check=False).stdout.strip()


@pytest.mark.parametrize("release", [None, *slurm_tree.RELEASES])
def test_how_a_forgotten_job_ended_comes_from_slurmdbd(release, proof) -> None:
    """Would have caught: UNKNOWN for ever, somebody else's job under the same id, an exit code that slurmdbd's REST
    interface makes up (22.05: SUCCESS 0 for a job that exited 3)."""
    with Sandbox(slurm=release, accounting=True) as sandbox:
        alice, bob = Person(sandbox, "alice"), Person(sandbox, "bob")
        made = {code: alice.submit(f"exit {code}\n").json["job_id"] for code in (0, 3)}
        bobs = sandbox.run("login", ["sbatch", "--parsable", "--wrap", "true"], user="bob").stdout.strip()
        ids = [*made.values(), int(bobs)]
        shown = ["sacct", "-aXnP", "--format=jobid,state", "-j", ",".join(map(str, ids))]
        eventually(
            "slurmdbd has all three",
            lambda: state_in(sandbox, shown).count("COMPLETED") == 2 and "FAILED" in state_in(sandbox, shown),
            within_s=60,
        )
        for job_id in ids:
            gone = ["squeue", "-h", "-j", str(job_id), "--states=all"]
            eventually(f"slurmctld forgets {job_id}", lambda gone=gone: not state_in(sandbox, gone), within_s=90)
        right, wrong = (alice.ask("GET", f"/v1/jobs/{made[code]}").json for code in (0, 3))
        assert (right["state"], wrong["state"]) == ("COMPLETED", "FAILED"), (right, wrong)
        assert wrong["exit_code"] == (3 if release else None), wrong
        assert wrong["partition"] == "main" and wrong["end_time"], wrong
        assert wrong["nodes"] and wrong["reason"] is None
        for person, job_id in ((bob, made[0]), (alice, int(bobs))):
            answer = person.ask("GET", f"/v1/jobs/{job_id}")
            assert (answer.status, answer.json["code"]) == (404, "no-such-job"), (
                "accounting shows it to everybody; we do not"
            )
        sandbox.service("slurmdbd").stop()
        again = alice.ask("GET", f"/v1/jobs/{made[3]}")
        assert again.json["state"] == "FAILED", "our record keeps what accounting said"
        later = alice.submit("true\n")
        assert later.status == 201, "no accounting is no reason not to run a job"
        sandbox.service("slurmdbd").start()
        proof(
            f"a job slurmctld {release or '22.05'} had forgotten, from slurmdbd",
            f"{wrong['state']} on {wrong['nodes']}, {wrong['end_time']}",
        )
