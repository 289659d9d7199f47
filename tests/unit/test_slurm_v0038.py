"""API v0.0.38 against answers that a real slurmrestd 22.05.8 gave (tests/slurm_answers)."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipercow_slurm.errors import AccessError, Error, InternalError, RequestError, SchedulerError, UnavailableError
from hipercow_slurm.slurm import v0038
from hipercow_slurm.slurm.answers import Answer
from hipercow_slurm.slurm.model import Job, JobChange, JobSpec

RECORDED = Path(__file__).parent.parent / "slurm_answers" / "v0.0.38"
SPEC = JobSpec(script="#!/bin/sh\nid\n", working_directory="/home/alice")


def recorded(name: str) -> Answer:
    kept = json.loads((RECORDED / f"{name}.json").read_text())
    body = kept["body"] if isinstance(kept["body"], str) else json.dumps(kept["body"])
    return Answer(kept["status"], kept["content_type"], body.encode(), kept["seconds"])


def job(name: str) -> Job:
    answer = recorded(f"job-{name}")
    asked = int(json.loads((RECORDED / f"job-{name}.json").read_text())["request"].split()[1].split("/")[1])
    return v0038.read_job(answer, asked, "alice")


def refusal(act: object, *args: object) -> Error:
    assert callable(act)
    with pytest.raises(Error) as caught:
        act(*args)
    return caught.value


# -- submissions -------------------------------------------------------------------------------------------------


def test_submitted() -> None:
    submitted = v0038.read_submitted(recorded("submit-ok"))
    assert (submitted.job_id, submitted.message) == (1, None)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("held", "Job is in held state, pending scheduler release (2042)"),
        ("too-many-nodes", "Requested partition configuration not available now (2015)"),
        ("over-time-limit", "Requested partition configuration not available now (2015)"),
    ],
)
def test_a_job_slurm_has_doubts_about_is_a_job_with_a_message(name: str, words: str) -> None:
    submitted = v0038.read_submitted(recorded(f"submit-{name}"))
    assert submitted.job_id > 0 and submitted.message == words, submitted


@pytest.mark.parametrize(
    ("name", "family", "code", "status", "words"),
    [
        ("no-such-partition", SchedulerError, "job-rejected", 422, "Invalid partition name specified (2000)"),
        ("closed-partition", SchedulerError, "job-rejected", 422, "User's group not permitted"),
        ("too-much-memory", SchedulerError, "job-rejected", 422, "Requested node configuration"),
        ("bad-array", SchedulerError, "job-rejected", 422, "Invalid job array specification (2081)"),
        ("unknown-key", SchedulerError, "job-rejected", 422, 'Failure during parsing (9001); Unknown key "wibble"'),
        ("no-environment", SchedulerError, "job-rejected", 422, "environment must be set (2127)"),
        ("script-too-large", RequestError, "script-too-large", 413, "too long (2012)"),
        ("as-root", AccessError, "scheduler-denied", 403, "Invalid user id (2010)"),
    ],
)
def test_refused_submissions(name: str, family: type[Error], code: str, status: int, words: str) -> None:
    error = refusal(v0038.read_submitted, recorded(f"submit-{name}"))
    assert (type(error), error.code, error.status) == (family, code, status), error
    assert words in error.message, error.message


def submit_answer(number: int, *, seconds: float = 0.01, status: int = 500) -> Answer:
    errors = [{"error_code": number, "error": "words"}]
    return Answer(status, "application/json", msgspec.json.encode({"errors": errors}), seconds)


@pytest.mark.parametrize("number", [104, 32, 110, 1002, 1003, 1802, 5000, 5004])
def test_a_connection_that_broke_after_sending_leaves_the_outcome_open(number: int) -> None:
    """104 was seen on a real cluster: slurmctld killed while it had the request."""
    error = refusal(v0038.read_submitted, submit_answer(number))
    assert (error.code, error.status) == ("submit-unknown", 504), error


def test_a_full_queue_is_worth_another_try() -> None:
    error = refusal(v0038.read_submitted, submit_answer(11))
    assert isinstance(error, UnavailableError) and error.code == "scheduler-full", error


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, "application/json", b"{}", 0.1),
        Answer(200, "application/json", b'{"job_id": 0, "errors": []}', 0.1),
        Answer(200, "application/json", b'{"job_id": 17', 0.1),
        Answer(200, "application/json", b'{"job_id": "17"}', 0.1),
        Answer(200, "text/html", b"<html>", 0.1),
        Answer(500, "application/json", b'{"errors": []}', 0.1),
    ],
)
def test_a_submit_answer_nobody_understands_may_have_made_a_job(answer: Answer) -> None:
    assert refusal(v0038.read_submitted, answer).code == "submit-unknown"


def test_messages_of_a_submit_plugin_are_kept_on_one_line() -> None:
    body = {"errors": [], "job_id": 5, "job_submit_user_msg": "no more\nthan 2 GB\n"}
    submitted = v0038.read_submitted(Answer(200, "application/json", msgspec.json.encode(body), 0.1))
    assert submitted.message == "no more than 2 GB"


# -- tokens and outages ------------------------------------------------------------------------------------------


def read_job(answer: Answer) -> object:
    return v0038.read_job(answer, 1, "alice")


def read_jobs(answer: Answer) -> object:
    return v0038.read_jobs(answer, "alice")


def read_cancelled(answer: Answer) -> object:
    v0038.read_cancelled(answer, 1)
    return None


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("token-expired-jobs", read_jobs),
        ("token-other-key-jobs", read_jobs),
        ("token-other-user-jobs", read_jobs),
        ("token-expired-job", read_job),
        ("token-expired-ping", v0038.read_ping),
        ("token-expired-cancel", read_cancelled),
        ("token-expired-submit", v0038.read_submitted),
        ("token-missing", read_jobs),
    ],
)
def test_a_refused_token_is_an_operators_business(name: str, read: object) -> None:
    error = refusal(read, recorded(name))
    assert isinstance(error, InternalError) and error.code == "slurm-token-refused", error
    assert error.hint and "jwks" in error.hint


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("down-jobs", read_jobs),
        ("down-job", read_job),
        ("down-ping", v0038.read_ping),
        ("down-cancel", read_cancelled),
        ("down-submit", v0038.read_submitted),
    ],
)
def test_a_dead_slurmctld_is_not_mistaken_for_a_bad_token(name: str, read: object) -> None:
    error = refusal(read, recorded(name))
    assert isinstance(error, UnavailableError) and error.code == "scheduler-unreachable", error


def test_a_version_slurmrestd_does_not_serve() -> None:
    error = refusal(v0038.read_jobs, recorded("no-such-path"), "alice")
    assert error.code == "slurm-answer" and "openapi/v0.0.38" in (error.hint or ""), error


def test_an_unchanged_list_is_not_an_empty_list() -> None:
    """304 has no body; nothing we send asks for it, and taken for 200 it would say: no jobs."""
    assert refusal(v0038.read_jobs, recorded("jobs-unchanged"), "alice").code == "slurm-answer"


# -- one job -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "state", "reason", "exit_code", "signal", "nodes"),
    [
        ("done", "COMPLETED", None, 0, None, ("c1",)),
        ("exit-3", "FAILED", "NonZeroExitCode", 3, None, ("c1",)),  # raw 768
        ("killed", "FAILED", "JobLaunchFailure", None, 9, ("c1",)),  # raw 9
        ("launch-failure", "FAILED", "JobLaunchFailure", None, None, ("c1",)),  # 4021, slurmd's own number
        ("timeout", "TIMEOUT", "TimeLimit", None, 15, ("c2",)),
        ("cancelled", "CANCELLED", None, None, 15, ("c1", "c2")),
        ("cancelled-before-start", "CANCELLED", "JobHeldUser", None, None, ()),  # raw 0, but nothing ran
        ("running", "RUNNING", None, None, None, ("c1", "c2")),
        ("limited", "RUNNING", None, None, None, ("c2",)),
        ("held", "PENDING", "JobHeldUser", None, None, ()),
        ("array", "PENDING", "JobArrayTaskLimit", None, None, ()),
    ],
)
def test_states_and_exit_codes(
    name: str, state: str, reason: str | None, exit_code: int | None, signal: int | None, nodes: tuple[str, ...]
) -> None:
    found = job(name)
    assert (found.state, found.reason, found.exit_code, found.signal, found.nodes) == (
        state,
        reason,
        exit_code,
        signal,
        nodes,
    ), found
    assert found.ended == (state not in ("RUNNING", "PENDING"))
    assert (found.user, found.uid) == ("alice", 5001)


def test_nodes_nobody_understands_are_said_so() -> None:
    kept = json.loads((RECORDED / "job-running.json").read_text())
    kept["body"]["jobs"][0]["nodes"] = "c[1-"
    answer = Answer(200, "application/json", json.dumps(kept["body"]).encode(), 0.1)
    assert refusal(v0038.read_job, answer, 6, "alice").code == "slurm-answer"


def test_times_are_facts_not_guesses() -> None:
    done, running, limited, held = job("done"), job("running"), job("limited"), job("held")
    assert done.submit_time and done.start_time and done.end_time and done.latest_end is None, done
    assert done.submit_time <= done.start_time <= done.end_time
    # without a limit slurmctld answers an end_time a year ahead
    assert running.start_time and running.end_time is None and running.latest_end is None, running
    assert limited.start_time and limited.latest_end == limited.start_time + 300, limited
    assert limited.time_limit_min == 5 and running.time_limit_min is None
    assert (held.start_time, held.end_time, held.latest_end) == (None, None, None), held
    cancelled = job("cancelled-before-start")
    assert cancelled.start_time is None and cancelled.end_time, "it ended without having started"


def test_a_pending_job_with_a_begin_time_has_not_started() -> None:
    """Recorded by hand: slurmctld guesses a start, and an end in the year 2163."""
    kept = json.loads((RECORDED / "job-held.json").read_text())
    kept["body"]["jobs"][0] |= {"start_time": 1795407761, "end_time": 6090374997, "state_reason": "BeginTime"}
    answer = Answer(200, "application/json", json.dumps(kept["body"]).encode(), 0.1)
    found = v0038.read_job(answer, 9, "alice")
    assert (found.start_time, found.end_time, found.latest_end) == (None, None, None), found


def test_where_the_output_is() -> None:
    assert job("done").output == job("done").error == "/home/alice/o-1-recorded.out"
    assert job("exit-3").output == "/home/alice/slurm-2.out"
    # relative, and %N not known before the start; stderr of its own
    assert (job("held").output, job("held").error) == ("/home/alice/sub/%N-9.out", "/home/alice/e.err")
    tasks = {one.array_task_id: one.output for one in v0038.read_jobs(recorded("job-array"), "alice")}
    assert tasks == {n: f"/home/alice/slurm-8_{n}.out" for n in (1, 2, 3)}


def test_an_arrays_task_is_found_by_its_own_id_and_the_array_by_its() -> None:
    answer = recorded("job-array")
    assert v0038.read_job(answer, 13, "alice").array_task_id == 1
    assert v0038.read_job(answer, 8, "alice").array_job_id == 8
    for foreign in (999, 0):
        assert refusal(v0038.read_job, answer, foreign, "alice").code == "no-such-job"


def test_unknown_and_foreign_jobs_look_alike() -> None:
    answers = [
        refusal(v0038.read_job, recorded("job-unknown"), 6, "bob"),
        refusal(v0038.read_job, recorded("job-of-another"), 6, "bob"),  # with PrivateData=jobs
        refusal(v0038.read_job, recorded("job-running"), 6, "bob"),  # without it slurmctld shows the job
        refusal(v0038.read_cancelled, recorded("cancel-of-another"), 6),
        refusal(v0038.read_cancelled, recorded("cancel-unknown"), 6),
    ]
    assert {(error.code, error.status, error.message) for error in answers} == {
        ("no-such-job", 404, "there is no job 6 of yours")
    }


def test_the_list_has_ones_own_jobs_only_in_order() -> None:
    jobs = v0038.read_jobs(recorded("jobs"), "alice")
    ids = [one.job_id for one in jobs]
    assert ids == sorted(ids) and {1, 6, 8, 13, 14} <= set(ids), ids
    assert v0038.read_jobs(recorded("jobs"), "bob") == []
    assert v0038.read_jobs(recorded("jobs-of-bob"), "bob") == []
    assert next(one for one in jobs if one.job_id == 1).comment == "request 7"


def test_cancelled_also_when_it_was_over() -> None:
    for name in ("cancel", "cancel-again", "cancel-held"):
        v0038.read_cancelled(recorded(name), 6)


def test_ping() -> None:
    v0038.read_ping(recorded("ping"))
    down = Answer(200, "application/json", b'{"pings": [{"hostname": "head", "ping": "DOWN"}]}', 0.1)
    error = refusal(v0038.read_ping, down)
    assert error.code == "scheduler-unreachable" and "head is DOWN" in error.message


# -- requests ----------------------------------------------------------------------------------------------------


def body(spec: JobSpec) -> dict[str, object]:
    document = json.loads(v0038.submit_body(spec, "alice"))
    assert set(document) == {"script", "job"} and document["script"] == spec.script
    job: dict[str, object] = document["job"]
    return job


def test_the_smallest_job() -> None:
    """The environment is never empty, and nothing is sent that was not asked for."""
    assert body(SPEC) == {
        "name": "job",
        "current_working_directory": "/home/alice",
        "environment": {"PATH": v0038.DEFAULT_PATH, "USER": "alice", "LOGNAME": "alice"},
    }


def test_the_fullest_job() -> None:
    spec = JobSpec(
        script="#!/bin/sh\n",
        name="n",
        partition="main",
        account="a",
        qos="q",
        nodes=2,
        tasks=4,
        cpus_per_task=3,
        memory_mb=100,
        time_limit_min=5,
        working_directory="/w",
        output="o-%j",
        error="e-%j",
        environment={"PATH": "/opt/bin", "X": "1"},
        hold=True,
        array="0-9%2",
        comment="key",
    )
    assert body(spec) == {
        "name": "n",
        "current_working_directory": "/w",
        "environment": {"PATH": "/opt/bin", "USER": "alice", "LOGNAME": "alice", "X": "1"},
        "partition": "main",
        "account": "a",
        "qos": "q",
        "nodes": 2,
        "tasks": 4,
        "cpus_per_task": 3,
        "memory_per_node": 100,
        "time_limit": 5,
        "standard_output": "o-%j",
        "standard_error": "e-%j",
        "array": "0-9%2",
        "comment": "key",
        "hold": True,
    }


# -- robustness --------------------------------------------------------------------------------------------------


def mutated(data: st.DataObject) -> bytes:
    text = bytearray(json.dumps(json.loads((RECORDED / "job-done.json").read_text())["body"]).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    return bytes(text[: data.draw(st.integers(0, len(text)))])


@given(st.data(), st.sampled_from([200, 400, 401, 500]))
def test_damaged_answers_give_values_or_our_errors(data: st.DataObject, status: int) -> None:
    answer = Answer(status, "application/json", mutated(data), 0.1)
    for read in (read_job, read_jobs, read_cancelled, v0038.read_ping, v0038.read_submitted):
        try:
            read(answer)
        except Error:
            continue


# -- changes, signals, the cluster -------------------------------------------------------------------------------


def test_the_rarer_fields_of_a_submission() -> None:
    spec = msgspec.structs.replace(
        SPEC, begin_time=1896120000, requeue=False, exclusive="user", gpus="2", priority=5, constraint="fast", nice=-1
    )
    sent = json.loads(v0038.submit_body(spec, "alice"))["job"]
    wanted = {"begin_time": "uts1896120000", "no_requeue": True, "exclusive": "user", "gpus": "2", "priority": "5"}
    assert {key: sent[key] for key in wanted} == wanted and (sent["constraints"], sent["nice"]) == ("fast", -1)
    assert "requeue" not in sent, "slurmrestd takes any value of it for yes"


@pytest.mark.parametrize(
    ("change", "sent"),
    [
        (JobChange(hold=False, begin_now=True), {"hold": False, "begin_time": "now+5"}),
        (JobChange(time_limit_min=5, nice=0), {"time_limit": 5, "nice": 0}),
    ],
)
def test_a_change_says_only_what_changes(change: JobChange, sent: dict[str, object]) -> None:
    assert json.loads(v0038.update_body(change)) == sent


@pytest.mark.parametrize("name", ["update-release", "update-time-limit"])
def test_a_change_that_was_made(name: str) -> None:
    v0038.read_updated(recorded(name), 50)


@pytest.mark.parametrize(
    ("read", "name", "code"),
    [
        (v0038.read_updated, "update-of-another", "no-such-job"),
        (v0038.read_updated, "update-unknown", "no-such-job"),
        (v0038.read_updated, "update-longer", "change-refused"),
        (v0038.read_updated, "update-priority", "change-refused"),
        (v0038.read_updated, "token-expired-cancel", "slurm-token-refused"),
        (v0038.read_updated, "down-cancel", "scheduler-unreachable"),
        (v0038.read_signalled, "signal-of-another", "no-such-job"),
        (v0038.read_signalled, "signal-unknown", "no-such-job"),
        (v0038.read_signalled, "signal-pending", "change-refused"),
        (v0038.read_signalled, "signal-bad", "change-refused"),
    ],
)
def test_a_change_that_was_refused(read: object, name: str, code: str) -> None:
    assert refusal(read, recorded(name), 50).code == code


def test_partitions() -> None:
    (main,) = v0038.read_partitions(recorded("partitions"))
    assert (main.name, main.state, main.nodes, main.is_default) == ("main", "UP", ("c1", "c2"), True)
    assert (main.max_time_min, main.default_time_min, main.max_nodes_per_job) == (None, None, None), "-1 is no limit"
    assert (main.total_cpus, main.total_nodes) == (8, 2)


def test_nodes() -> None:
    one, two = v0038.read_nodes(recorded("nodes"))
    assert (one.name, one.state, one.partitions, two.name) == ("c1", "IDLE", ("main",), "c2")
    assert (one.cpus, one.cpus_allocated, one.memory_mb, one.cpu_load) == (4, 0, 8000, 2.38)
    assert one.reason is None
