"""Jobs that Slurm has forgotten, and jobs that would outlive their owner's ticket where the site refuses those."""

import pytest

from api_box import ApiBox

pytestmark = pytest.mark.kdc

SCRIPT = "#!/bin/bash\nhostname\n"
MONTH = 60 * 24 * 30


@pytest.fixture(scope="module")
def box():
    with ApiBox() as box:
        box.stop("api")
        config = box.dir / "api.toml"
        config.write_text(config.read_text() + '[jobs]\nuncovered = "refuse"\nenvironment = ["R_*"]\nbulk = 3\n')
        box.start("api")
        yield box


def submit(client, **given):
    return client.post("/v1/jobs", json={"script": SCRIPT, "time_limit_min": 5, **given})


def test_a_job_longer_than_the_ticket_is_refused_and_never_reaches_slurm(box, alice):
    before = box.slurm.submits
    answer = submit(alice, time_limit_min=MONTH)
    assert (answer.status_code, answer.json()["code"]) == (403, "ticket-too-short"), answer.text
    assert "shorter time limit" in answer.json()["hint"]
    late = submit(alice, time_limit_min=5, begin_time="2030-01-31T20:00:00Z")
    assert late.json()["code"] == "ticket-too-short", "its start counts as well"
    assert box.slurm.submits == before
    covered = submit(alice)
    assert covered.status_code == 201, covered.text


def test_without_a_time_limit_the_partitions_own_counts(box, alice):
    box.slurm.max_time_min = -1
    endless = submit(alice, time_limit_min=None)
    box.slurm.max_time_min = 60
    short = submit(alice, time_limit_min=None)
    assert (endless.status_code, endless.json().get("code")) == (403, "ticket-too-short"), endless.text
    assert "without a time limit" in endless.json()["detail"]
    assert short.status_code == 201, short.text


def test_what_was_refused_is_not_had_by_changing_the_job(box, alice):
    """Slurm lets users make a waiting job longer. Would have caught: a month's job, submitted as five minutes."""
    job_id = submit(alice).json()["job_id"]
    longer = alice.patch(f"/v1/jobs/{job_id}", json={"time_limit_min": MONTH})
    assert (longer.status_code, longer.json()["code"]) == (403, "ticket-too-short"), longer.text
    none = alice.patch(f"/v1/jobs/{job_id}", json={"time_limit_min": 2**31 - 3})
    assert (none.status_code, none.json()["code"]) == (400, "bad-request"), "to Slurm that is no limit at all"


def test_a_site_may_let_few_variables_travel(box, alice):
    job = submit(alice, environment={"R_LIBS": "/r", "EDITOR": "ed"}).json()
    sent = box.slurm.bodies[-1]["job"]["environment"]
    assert sent["R_LIBS"] == "/r" and "EDITOR" not in sent and "EDITOR" in job["warnings"][0]


def test_a_forgotten_job_is_answered_from_our_own_record(box, alice, bob):
    made = submit(alice, name="forgotten", output="o-%j-%x.txt").json()
    job_id = made["job_id"]
    del box.slurm.jobs[job_id]
    shown = alice.get(f"/v1/jobs/{job_id}")
    assert shown.status_code == 200, shown.text
    job = shown.json()
    assert (job["state"], job["name"], job["time_limit_min"]) == ("UNKNOWN", "forgotten", 5)
    assert job["output"] == f"/home/alice/o-{job_id}-forgotten.txt"
    assert "it was submitted" in job["reason"] and job["submit_time"]
    assert job_id not in [row["job_id"] for row in alice.get("/v1/jobs").json()["jobs"]]
    assert job_id in [row["job_id"] for row in alice.get("/v1/jobs?forgotten=true").json()["jobs"]]
    assert alice.delete(f"/v1/jobs/{job_id}").status_code == 204
    held = alice.post(f"/v1/jobs/{job_id}/hold")
    assert (held.status_code, held.json()["code"]) == (404, "no-such-job"), held.text
    others = bob.get(f"/v1/jobs/{job_id}")
    assert (others.status_code, others.json()["code"]) == (404, "no-such-job"), others.text


def test_how_a_job_ended_is_remembered_if_it_was_seen(box, alice):
    job_id = submit(alice, name="seen").json()["job_id"]
    box.slurm.jobs[job_id] |= {"job_state": "FAILED", "exit_code": 768, "nodes": "c1", "start_time": 10, "end_time": 20}
    seen = alice.get(f"/v1/jobs/{job_id}").json()
    assert (seen["state"], seen["exit_code"]) == ("FAILED", 3)
    del box.slurm.jobs[job_id]
    assert alice.get(f"/v1/jobs/{job_id}").json() == seen
    box.restart("api")
    assert alice.get(f"/v1/jobs/{job_id}").json() == seen


def test_bulk_calls_have_their_bound(box, alice):
    before = box.slurm.submits
    answer = alice.post("/v1/jobs:bulk", json={"jobs": [{"script": SCRIPT}] * 4})
    assert answer.status_code == 400 and "from 1 to 3" in answer.json()["detail"], answer.text
    assert alice.delete("/v1/jobs").status_code == 400
    assert alice.delete("/v1/jobs?job_id=1,x").status_code == 400
    long_key = {"Idempotency-Key": "k" * 121}
    assert alice.post("/v1/jobs:bulk", json={"jobs": [{"script": SCRIPT}]}, headers=long_key).status_code == 400
    assert box.slurm.submits == before
