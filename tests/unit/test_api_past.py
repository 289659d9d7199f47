"""Jobs that only Slurm's accounting remembers: which of its rows is ours, and what in it can be believed."""

from __future__ import annotations

import json

import msgspec
import pytest
from slurm_recorded import VERSIONS, Recorded

from hipercow_slurm.api.jobs import with_past
from hipercow_slurm.errors import Error
from hipercow_slurm.slurm.answers import Answer
from hipercow_slurm.slurm.model import Job, Past
from hipercow_slurm.slurm.v0038_past import read_past
from hipercow_slurm.slurm.versions import ADAPTERS, PAST

JOB = Job(
    job_id=7, name="j", user="alice", uid=5001, partition="", state="UNKNOWN", reason="Slurm does not know",
    exit_code=None, signal=None, nodes=(), node_count=1, submit_time=1000, start_time=None, end_time=None,
    latest_end=None, time_limit_min=None, working_directory="/", output="/o", error="/e",
)  # fmt: skip


def past(**given):
    row = {
        "state": "FAILED",
        "partition": "main",
        "nodes": ("c1",),
        "submit_time": 1001,
        "start_time": 1,
        "end_time": 2,
    }
    return Past(**{**row, **given})


def answer(body, kind="application/json", status=200):
    return Answer(status, kind, json.dumps(body).encode() if kind == "application/json" else body, 0.1)


def row(job_id=7, **given):
    times = {"submission": 1001, "start": 1002, "end": 1003}
    base = {"job_id": job_id, "time": times, "state": {"current": "FAILED"}, "partition": "main", "nodes": "c[1-2]"}
    return {**base, "exit_code": {"status": "SUCCESS", "return_code": 0}, "user": None, **given}


def test_the_state_and_the_times_are_taken_and_no_exit_code():
    job = with_past(JOB, [past()])
    assert (job.state, job.reason, job.partition, job.nodes, job.end_time) == ("FAILED", None, "main", ("c1",), 2)
    assert job.exit_code is None, "22.05 says SUCCESS 0 of a job that exited 3"


@pytest.mark.parametrize(
    "found",
    [
        [],
        [past(submit_time=5000)],  # somebody's, years later
        [past(), past(state="COMPLETED")],
        [past(user="bob")],
        [past(state="RUNNING")],
        [past(state="UNKNOWN")],
        [past(state="SOMETHING NEW")],
    ],
)
def test_what_is_not_certainly_ours_and_over_changes_nothing(found):
    """Would have caught: another user's job under a reused id shown as one's own."""
    assert with_past(JOB, found) is JOB


def test_only_rows_of_the_id_asked_for():
    (one,) = read_past(answer({"jobs": [row(), row(8)], "errors": []}), 7)
    assert (one.state, one.nodes, one.submit_time, one.end_time) == ("FAILED", ("c1", "c2"), 1001, 1003)
    assert read_past(answer({"jobs": [row(nodes="None assigned")], "errors": []}), 7)[0].nodes == ()
    nothing = {"jobs": [], "errors": [{"error": "Nothing found with query", "error_number": 9003}]}
    assert read_past(answer(nothing), 7) == []


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (
            answer({"jobs": [], "errors": [{"error": "Protocol authentication error", "error_number": 1007}]}),
            "slurm-token-refused",
        ),
        (
            answer({"jobs": [], "errors": [{"error": "Unable to connect to database", "error_number": 7000}]}),
            "scheduler-unreachable",
        ),
        (answer(b"Not found", "text/plain", 404), "slurm-version"),
        (answer({"jobs": [{"job_id": "seven"}]}), "slurm-answer"),
    ],
)
def test_refusals_come_with_status_200(given, code):
    with pytest.raises(Error) as caught:
        read_past(given, 7)
    assert caught.value.code == code


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("name", "state", "code"), [("done", "COMPLETED", 0), ("exit-3", "FAILED", 3), ("cancelled", "CANCELLED", None)]
)
def test_what_real_ones_tell_of_jobs_that_slurmctld_has_forgotten(version, name, state, code):
    """Would have caught: newer versions never asked; a state read as a list; v0.0.38's made-up exit code believed."""
    recorded, told = Recorded(version), version != "v0.0.38"
    job_id = recorded.asked(f"past-{name}")
    assert recorded.kept(f"past-{name}")["request"].split()[1] == PAST[version].past_path(job_id)
    (found,) = PAST[version].read_past(recorded.answer(f"past-{name}"), job_id)
    assert (found.state, found.partition, found.nodes) == (state, "main", ("c1",)), found
    assert found.submit_time <= found.start_time <= found.end_time, found
    assert (found.user, found.exit_code) == (("alice", code) if told else (None, None)), found
    job = with_past(msgspec.structs.replace(JOB, job_id=job_id, submit_time=found.submit_time), [found])
    assert (job.state, job.exit_code, job.end_time) == (state, code if told else None, found.end_time)
    assert PAST[version].read_past(recorded.answer("past-unknown"), 99) == []


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["down", "token-expired"])
def test_what_real_ones_say_when_they_cannot(version, name):
    """Newer ones say of a token that slurmdbd does not take what they say of a slurmdbd that is down."""
    known = version == "v0.0.38" and name == "token-expired"
    code = "slurm-token-refused" if known else "scheduler-unreachable"
    with pytest.raises(Error) as caught:
        PAST[version].read_past(Recorded(version).answer(f"past-{name}"), 1)
    assert caught.value.code == code, caught.value


@pytest.mark.parametrize("version", ADAPTERS)
@pytest.mark.parametrize(
    ("given", "code"),
    [
        (answer(b"Unable find requested URL", "text/plain", 404), "slurm-version"),
        (answer({"jobs": [{"job_id": "seven"}]}), "slurm-answer"),
        (Answer(200, "application/json", b"\xff{", 0.1), "slurm-answer"),
    ],
)
def test_every_version_can_be_asked_and_answers_nonsense_is_not_believed(version, given, code):
    with pytest.raises(Error) as caught:
        PAST[version].read_past(given, 7)
    assert caught.value.code == code
