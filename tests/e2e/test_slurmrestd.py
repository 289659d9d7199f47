"""The signer and the slurmrestd client on the real parts: who gets in as whom, and what each outage is called."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fix_sandbox import SLURM
from hipercow_slurm.testing.sandbox.layout import PYTHON
from hipercow_slurm.testing.story import eventually

if TYPE_CHECKING:
    from hipercow_slurm.testing.sandbox import Sandbox

pytestmark = pytest.mark.e2e

PROBE = (Path(__file__).parent / "slurm_probe.py").read_text()
SLEEPER = {"script": "#!/bin/bash\nid -u\nsleep 60\n", "working_directory": "/tmp", "time_limit_min": 5}


def ask(sandbox: Sandbox, *calls: tuple[Any, ...], **how: Any) -> list[dict[str, Any]]:
    """The calls of slurm_probe.py, in one process, as the API's user; ``how``: timeout_s, together, version."""
    asked = {
        "passwords": sandbox.passwords,
        "timeout_s": 15.0,
        "together": False,
        "version": None,
        "calls": calls,
        **how,
    }
    done = sandbox.run("head", [PYTHON, "-c", PROBE], user="hcs-api", input=json.dumps(asked), timeout=120)
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def one(sandbox: Sandbox, *call: Any, **how: Any) -> dict[str, Any]:
    return ask(sandbox, call, **how)[0]


def value(answer: dict[str, Any]) -> Any:
    assert "value" in answer, answer
    return answer["value"]


def code(answer: dict[str, Any]) -> str:
    assert "error" in answer, answer
    return str(answer["error"]["code"])


def submit(sandbox: Sandbox, who: str = "alice", **changes: Any) -> int:
    return int(value(one(sandbox, who, "submit", {**SLEEPER, **changes}))["job_id"])


def test_a_job_from_token_to_cancellation(sandbox: Sandbox) -> None:
    job_id = submit(sandbox, name="rest", comment="request 1", output="rest-%j-%N-%x.out")
    running, jobs, ping = ask(
        sandbox,
        ("alice", "wait", job_id, ["RUNNING"]),
        ("alice", "jobs"),
        ("alice", "ping"),
    )
    job = value(running)
    assert (job["state"], job["user"], job["uid"]) == ("RUNNING", "alice", 5001), job
    assert job["comment"] == "request 1" and job["time_limit_min"] == 5
    assert job["latest_end"] == job["start_time"] + 300
    assert job_id in [row["job_id"] for row in value(jobs)] and value(ping) is None
    shown = sandbox.run("head", ["scontrol", "show", "job", str(job_id)]).stdout
    assert "UserId=alice(5001)" in shown, shown
    (node,) = job["nodes"]
    assert job["output"] == f"/tmp/rest-{job_id}-{node}-rest.out"
    # The agent's warning stands before it: nobody filed a ticket for this job.
    # slurmctld calls it running before its script has written anything.
    out = job["output"]
    eventually(f"5001 in {out}", lambda: sandbox.read(node, out).splitlines()[-1:] == ["5001"], within_s=30)

    cancelled, ended, again = ask(
        sandbox,
        ("alice", "cancel", job_id),
        ("alice", "wait", job_id, ["CANCELLED"]),
        ("alice", "cancel", job_id),
    )
    assert value(cancelled) is None and value(again) is None, "an ended job is cancelled already"
    assert (value(ended)["state"], value(ended)["signal"], value(ended)["exit_code"]) == ("CANCELLED", 15, None), ended


VERSIONS = {
    None: ("v0.0.38",),
    "24.11": ("v0.0.40", "v0.0.41", "v0.0.42"),
    "26.05": ("v0.0.42", "v0.0.43", "v0.0.44", "v0.0.45"),
}


@pytest.mark.parametrize("version", VERSIONS[SLURM])
def test_every_version_that_slurmrestd_serves_and_we_know(sandbox: Sandbox, version: str) -> None:
    """The newest is used, but a site may serve fewer (slurmrestd -d)."""
    wanted = {**SLEEPER, "time_limit_min": 7, "comment": version, "environment": {"A": "1"}, "nodes": 2, "memory_mb": 9}
    job_id = int(value(one(sandbox, "alice", "submit", wanted, version=version))["job_id"])
    job, partitions, nodes, cancelled, still = map(
        value,
        ask(
            sandbox,
            ("alice", "wait", job_id, ["RUNNING"]),
            ("alice", "partitions"),
            ("alice", "nodes"),
            ("alice", "cancel", job_id),
            ("alice", "version"),
            version=version,
        ),
    )
    assert (job["state"], job["nodes"], job["time_limit_min"], job["comment"]) == ("RUNNING", ["c1", "c2"], 7, version)
    assert partitions[0]["name"] == "main" and [node["name"] for node in nodes] == ["c1", "c2"] and cancelled is None
    assert still == version, "another one was used"


def test_bob_cannot_see_or_cancel_alices_job(sandbox: Sandbox) -> None:
    job_id = submit(sandbox)
    try:
        seen, cancelled, jobs, unknown, still = ask(
            sandbox,
            ("bob", "job", job_id),
            ("bob", "cancel", job_id),
            ("bob", "jobs"),
            ("bob", "job", 999_999),
            ("alice", "job", job_id),
        )
        assert code(seen) == code(cancelled) == code(unknown) == "no-such-job"
        assert seen["error"]["status"] == cancelled["error"]["status"] == 404
        assert job_id not in [row["job_id"] for row in value(jobs)]
        assert value(still)["state"] in ("PENDING", "RUNNING"), still
    finally:
        value(one(sandbox, "alice", "cancel", job_id))


def test_no_token_but_the_signers(sandbox: Sandbox) -> None:
    """A key slurmctld does not know; alice's token beside bob's name; nothing of it becomes a job."""
    before = value(one(sandbox, "alice", "jobs"))
    answers = ask(
        sandbox,
        ("forged:alice", "submit", SLEEPER),
        ("forged:alice", "jobs"),
        ("forged:root", "ping"),
        ("alice as bob", "submit", SLEEPER),
        ("alice as root", "jobs"),
    )
    assert {code(answer) for answer in answers} == {"slurm-token-refused"}, answers
    assert value(one(sandbox, "alice", "jobs")) == before


def test_a_token_lives_for_a_minute_and_names_alice_only(sandbox: Sandbox) -> None:
    token = value(one(sandbox, "alice", "token"))["token"]
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert set(claims) == {"sun", "iat", "exp"} and claims["sun"] == "alice", claims
    assert claims["exp"] - claims["iat"] <= 120, claims
    for log in sandbox.path.glob("log/*.log"):
        assert token.split(".")[2] not in log.read_text(errors="replace"), f"the token is in {log.name}"


def test_the_apis_user_cannot_read_the_key(sandbox: Sandbox) -> None:
    for path in ("/var/lib/hipercow-slurm/signer/key.pem", "/var/lib/hipercow-slurm/signer/key.next.pem"):
        done = sandbox.run("head", ["cat", path], user="hcs-api", check=False)
        assert done.returncode != 0 and "Permission denied" in done.stderr, done


def test_exit_codes_and_signals(sandbox: Sandbox) -> None:
    ends = ["FAILED", "COMPLETED"]
    cases = {
        "exit 0": (0, None),
        "exit 7": (7, None),
        "kill -9 $$": (None, 9),
    }
    jobs = {script: submit(sandbox, script=f"#!/bin/bash\n{script}\n") for script in cases}
    answers = ask(sandbox, *(("alice", "wait", job_id, ends) for job_id in jobs.values()))
    found = {script: (job["exit_code"], job["signal"]) for script, job in zip(cases, map(value, answers), strict=True)}
    assert found == cases, answers


def test_refusals_keep_slurms_words(sandbox: Sandbox) -> None:
    (refused,) = ask(sandbox, ("alice", "submit", {**SLEEPER, "partition": "nosuch"}))
    assert code(refused) == "job-rejected" and refused["error"]["status"] == 422
    assert "Invalid partition name specified" in refused["error"]["message"]


@pytest.mark.parametrize("hanging", ["slurmrestd", "slurmctld"])
def test_a_submission_whose_answer_is_lost_is_unknown_and_can_be_found(sandbox: Sandbox, hanging: str) -> None:
    """Whoever hangs has the request, and carries it out when nobody waits any more: this is why it is unknown."""
    comment = f"lost in {hanging}"
    version = value(one(sandbox, "alice", "version"))
    service = sandbox.service(hanging)
    service.pause()
    try:
        answer = one(sandbox, "alice", "submit", {**SLEEPER, "comment": comment}, timeout_s=1.0, version=version)
    finally:
        service.resume()
    assert code(answer) == "submit-unknown" and answer["error"]["status"] == 504, answer
    found = eventually("the job", lambda: jobs_named(sandbox, comment), within_s=10)
    for job_id in found:
        value(one(sandbox, "alice", "cancel", job_id))
    assert len(found) == 1, f"one submission, {len(found)} jobs"


def jobs_named(sandbox: Sandbox, comment: str) -> list[int]:
    return [job["job_id"] for job in value(one(sandbox, "alice", "jobs")) if job["comment"] == comment]


def test_slurmrestd_gone(sandbox: Sandbox) -> None:
    rest = sandbox.service("slurmrestd")
    rest.stop()
    try:
        submitted, listed = ask(sandbox, ("alice", "submit", SLEEPER), ("alice", "jobs"))
    finally:
        rest.start()
    for answer in (submitted, listed):
        assert code(answer) == "scheduler-unreachable" and answer["error"]["status"] == 503, answer
        assert answer["seconds"] < 2
    value(one(sandbox, "alice", "ping"))


def test_slurmctld_gone_is_not_a_bad_token(sandbox: Sandbox) -> None:
    """slurmrestd answers both with the same 500; only the time tells. Nothing was submitted."""
    ctld = sandbox.service("slurmctld")
    ctld.stop()
    try:
        listed, submitted = ask(
            sandbox,
            ("alice", "jobs"),
            ("alice", "submit", {**SLEEPER, "comment": "while it was down"}),
            together=True,
        )
    finally:
        ctld.start()
    assert code(listed) == code(submitted) == "scheduler-unreachable", (listed, submitted)
    assert jobs_named(sandbox, "while it was down") == []


def test_the_signer_gone(sandbox: Sandbox) -> None:
    signer = sandbox.service("signer")
    signer.kill()
    try:
        answer = one(sandbox, "alice", "ping")
    finally:
        signer.start()
    assert code(answer) == "signer-unreachable" and answer["error"]["status"] == 503, answer
    value(one(sandbox, "alice", "ping"))
