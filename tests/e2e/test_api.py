"""The HTTP API on the real Slurm and the real file server: output, outages, and what a job's answer promises."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import ENDED
from person import Person

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def alice(sandbox: Sandbox) -> Iterator[Person]:
    person = Person(sandbox, "alice")
    yield person
    person.ask("DELETE", "/v1/sessions/current")


def test_output_is_followed_by_range_and_complete_at_the_end(alice: Person) -> None:
    made = alice.submit("for i in 1 2 3; do echo line $i; echo warn $i >&2; sleep 1; done\n", error="e-%j.txt")
    assert made.status == 201, made
    path = f"/v1/jobs/{made.json['job_id']}/output"
    first = alice.ask("GET", path)
    assert first.status == 200 or first.json["code"] == "no-output-yet", first
    assert first.headers["x-job-state"] in ("PENDING", "RUNNING")
    seen, deadline = "", time.monotonic() + 40
    while True:
        piece = alice.ask("GET", path, headers={"Range": f"bytes={len(seen)}-"})
        if piece.status == 206:
            assert piece.headers["content-range"].startswith(f"bytes {len(seen)}-")
            seen += piece.text
        else:
            assert piece.status in (404, 416), piece
        if piece.headers["x-job-state"] in ENDED and piece.status == 416:
            break
        assert time.monotonic() < deadline, seen
        time.sleep(0.3)
    assert seen == "line 1\nline 2\nline 3\n"
    assert piece.headers["content-range"].startswith("bytes */")
    assert alice.ask("GET", path + "?stream=stderr").text == "warn 1\nwarn 2\nwarn 3\n"


def test_big_output_arrives_whole(alice: Person) -> None:
    """More than one piece of what the API reads at a time."""
    job_id = alice.submit("head -c 9000000 /dev/zero | tr '\\0' x; echo end\n").json["job_id"]
    assert alice.ended(job_id)["state"] == "COMPLETED"
    whole = alice.ask("GET", f"/v1/jobs/{job_id}/output")
    assert whole.headers["content-length"] == "9000004"
    assert len(whole.text) == 9_000_004 and whole.text.endswith("xend\n")
    tail = alice.ask("GET", f"/v1/jobs/{job_id}/output", headers={"Range": "bytes=-5"})
    assert (tail.status, tail.text) == (206, "xend\n")


def test_a_percent_sign_in_a_files_name_is_no_pattern(sandbox: Sandbox, alice: Person) -> None:
    """It was taken for one that is not known yet: such output was "not written", for ever."""
    sandbox.run("c1", ["mkdir", "-p", "/home/alice/run%c"], user="alice")
    for wish in (
        {"output": "100%%.txt"},
        {"name": "50%", "output": "%x.txt"},
        {"working_directory": "/home/alice/run%c"},
    ):
        job_id = alice.submit("echo there\n", **wish).json["job_id"]
        job = alice.ended(job_id)
        answer = alice.ask("GET", f"/v1/jobs/{job_id}/output")
        assert (answer.status, answer.text) == (200, "there\n"), (wish, job["output"], answer)
    waiting = alice.submit("true\n", hold=True, output="%N.txt").json["job_id"]
    refused = alice.ask("GET", f"/v1/jobs/{waiting}/output")
    alice.ask("DELETE", f"/v1/jobs/{waiting}")
    assert (refused.status, refused.json["code"]) == (404, "no-output-yet"), refused


def test_a_symbolic_link_in_place_of_the_output_leads_nowhere(alice: Person) -> None:
    job_id = alice.submit("rm trap.out; ln -s /home/bob trap.out\n", output="trap.out").json["job_id"]
    alice.ended(job_id)
    answer = alice.ask("GET", f"/v1/jobs/{job_id}/output")
    assert answer.status >= 400 and "symlink" in answer.json["code"], answer


def test_output_that_alice_may_not_read_is_refused_by_the_file_server(alice: Person) -> None:
    """The API has no other right than hers: it reads bob's home as alice and is refused."""
    job_id = alice.submit("true\n", hold=True, output="/home/bob/hers.out").json["job_id"]
    answer = alice.ask("GET", f"/v1/jobs/{job_id}/output")
    alice.ask("DELETE", f"/v1/jobs/{job_id}")
    assert answer.status == 403, answer


def test_the_answer_says_whether_the_ticket_lasts(alice: Person) -> None:
    """Tickets here can be renewed for 30 minutes."""
    short = alice.submit("true\n", hold=True, time_limit_min=5).json
    long = alice.submit("true\n", hold=True, time_limit_min=60).json
    for job in (short, long):
        alice.ask("DELETE", f"/v1/jobs/{job['job_id']}")
    assert (short["credential"]["state"], short["credential"]["covers_job"]) == ("ok", True)
    assert (long["credential"]["state"], long["credential"]["covers_job"]) == ("expiring", False)
    assert long["credential"]["sentence"] in long["warnings"]
    assert long["credential"]["sentence"] not in short.get("warnings", [])


def test_slurms_own_words_reach_the_user(alice: Person) -> None:
    answer = alice.submit("true\n", partition="nowhere")
    assert answer.status == 422 and "partition" in answer.json["detail"].lower(), answer


def test_slurmrestd_down_and_back_makes_one_job(sandbox: Sandbox, alice: Person) -> None:
    sandbox.service("slurmrestd").stop()
    try:
        down = alice.submit("true\n", key="slurmrestd-down", hold=True)
        health = alice.ask("GET", "/v1/health").json
    finally:
        sandbox.service("slurmrestd").start()
    assert (down.status, down.json["code"]) == (503, "scheduler-unreachable"), down
    assert health["status"] == "degraded" and health["checks"]["slurm"] != "ok", health
    made = [alice.submit("true\n", key="slurmrestd-down", hold=True) for _ in range(2)]
    assert [one.status for one in made] == [201, 201], made
    assert made[0].json["job_id"] == made[1].json["job_id"]
    alice.ask("DELETE", f"/v1/jobs/{made[0].json['job_id']}")


def test_the_request_id_is_in_the_jobs_comment(sandbox: Sandbox, alice: Person) -> None:
    made = alice.ask(
        "POST",
        "/v1/jobs",
        headers={"X-Request-Id": "from-the-laptop-1"},
        json={"script": "#!/bin/sh\n", "hold": True, "comment": "mine"},
    )
    job_id = made.json["job_id"]
    shown = sandbox.run("head", ["scontrol", "-o", "show", "job", str(job_id)]).stdout
    alice.ask("DELETE", f"/v1/jobs/{job_id}")
    assert "request=from-the-laptop-1 mine" in shown, shown
