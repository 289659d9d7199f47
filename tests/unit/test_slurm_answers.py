"""Every API version's adapter against answers that a real slurmrestd of that version gave (tests/slurm_answers)."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slurm_recorded import VERSIONS, Recorded

from hipercow_slurm.errors import AccessError, Error, InternalError, RequestError, SchedulerError, UnavailableError
from hipercow_slurm.slurm.answers import Answer

OLD = "v0.0.38"
NOT_NOW = "Requested partition configuration not available now"


@pytest.fixture(params=VERSIONS)
def api(request: pytest.FixtureRequest) -> Recorded:
    return Recorded(request.param)


def refusal(act: object, *args: object) -> Error:
    assert callable(act)
    with pytest.raises(Error) as caught:
        act(*args)
    return caught.value


def read(api: Recorded, what: str, name: str, job_id: int = 6, user: str = "alice") -> object:
    """Read the recorded answer ``name`` as one to a question of the kind ``what``."""
    return read_answer(api, what, api.answer(name), job_id, user)


def read_answer(api: Recorded, what: str, answer: Answer, job_id: int = 6, user: str = "alice") -> object:
    reader = getattr(api.family, f"read_{what}")
    more = {
        "job": (job_id, user),
        "jobs": (user,),
        "cancelled": (job_id,),
        "updated": (job_id,),
        "signalled": (job_id,),
    }
    return reader(answer, *more.get(what, ()))


# -- submissions -------------------------------------------------------------------------------------------------


def test_submitted(api: Recorded) -> None:
    submitted = api.family.read_submitted(api.answer("submit-ok"))
    assert (submitted.job_id, submitted.message) == (1, None)


@pytest.mark.parametrize(
    ("version", "name", "words"),
    [
        (OLD, "held", "Job is in held state, pending scheduler release (2042)"),
        (OLD, "too-many-nodes", f"{NOT_NOW} (2015)"),
        (OLD, "over-time-limit", f"{NOT_NOW} (2015)"),
        ("v0.0.42", "held", "Job is in held state, pending scheduler release"),
        ("v0.0.42", "closed-partition", NOT_NOW),
        ("v0.0.42", "over-time-limit", None),
        ("v0.0.45", "held", "Job is in held state, pending scheduler release"),
        ("v0.0.45", "too-many-nodes", NOT_NOW),
        ("v0.0.45", "closed-partition", NOT_NOW),
        ("v0.0.45", "over-time-limit", None),
    ],
)
def test_a_job_slurm_has_doubts_about_is_a_job_with_a_message(version: str, name: str, words: str | None) -> None:
    """Newer versions say it in warnings, each twice."""
    recorded = Recorded(version)
    submitted = recorded.family.read_submitted(recorded.answer(f"submit-{name}"))
    assert submitted.job_id > 0 and submitted.message == words, submitted


@pytest.mark.parametrize(
    ("name", "family", "code", "status", "words"),
    [
        ("no-such-partition", SchedulerError, "job-rejected", 422, "Invalid partition name specified (2000)"),
        ("too-much-memory", SchedulerError, "job-rejected", 422, "Requested node configuration"),
        ("bad-array", SchedulerError, "job-rejected", 422, "Invalid job array specification (2081)"),
        ("no-environment", SchedulerError, "job-rejected", 422, "nvironment"),
        ("script-too-large", RequestError, "script-too-large", 413, "too long (2012)"),
        ("as-root", AccessError, "scheduler-denied", 403, "Invalid user id (2010)"),
    ],
)
def test_refused_submissions(api: Recorded, name: str, family: type[Error], code: str, status: int, words: str) -> None:
    error = refusal(api.family.read_submitted, api.answer(f"submit-{name}"))
    assert (type(error), error.code, error.status) == (family, code, status), error
    assert words in error.message, error.message


@pytest.mark.parametrize(
    ("version", "name", "words"),
    [
        (OLD, "closed-partition", "User's group not permitted"),
        (OLD, "unknown-key", 'Failure during parsing (9001); Unknown key "wibble"'),
        ("v0.0.42", "too-many-nodes", "Requested node configuration is not available (2014)"),
    ],
)
def test_what_only_some_versions_refuse(version: str, name: str, words: str) -> None:
    recorded = Recorded(version)
    error = refusal(recorded.family.read_submitted, recorded.answer(f"submit-{name}"))
    assert error.code == "job-rejected" and words in error.message, error


def test_what_slurmrestd_cannot_parse_is_certainly_no_job() -> None:
    """22.05's answer to --mail-type=WIBBLE. Would have caught: 504 "may or may not exist", and the token blamed."""
    said = [
        {"description": "Unspecified error", "error_number": -1, "error": "Invalid mail type specification"},
        {"error_code": -1, "error": "Unspecified error"},
        {"error_code": 9001, "error": "Failure during parsing"},
    ]
    answer = Answer(500, "application/json", msgspec.json.encode({"errors": said}), 0.01)
    error = refusal(Recorded(OLD).family.read_submitted, answer)
    assert (error.code, error.status) == ("job-rejected", 422) and "Invalid mail type" in error.message, error


def submit_answer(number: int, *, seconds: float = 0.01, status: int = 500) -> Answer:
    errors = [{"error_code": number, "error": "words"}]
    return Answer(status, "application/json", msgspec.json.encode({"errors": errors}), seconds)


@pytest.mark.parametrize("number", [104, 32, 110, 1002, 1003, 1802, 5000, 5004])
def test_a_connection_that_broke_after_sending_leaves_the_outcome_open(api: Recorded, number: int) -> None:
    """104 was seen on a real cluster: slurmctld killed while it had the request."""
    error = refusal(api.family.read_submitted, submit_answer(number))
    assert (error.code, error.status) == ("submit-unknown", 504), error


def test_a_full_queue_is_worth_another_try(api: Recorded) -> None:
    error = refusal(api.family.read_submitted, submit_answer(11))
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
def test_a_submit_answer_nobody_understands_may_have_made_a_job(api: Recorded, answer: Answer) -> None:
    assert refusal(api.family.read_submitted, answer).code == "submit-unknown"


def test_messages_of_a_submit_plugin_are_kept_on_one_line(api: Recorded) -> None:
    body = {"errors": [], "job_id": 5, "job_submit_user_msg": "no more\nthan 2 GB\n"}
    submitted = api.family.read_submitted(Answer(200, "application/json", msgspec.json.encode(body), 0.1))
    assert submitted.message == "no more than 2 GB"


# -- tokens and outages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "name"),
    [
        ("jobs", "token-expired-jobs"),
        ("jobs", "token-other-key-jobs"),
        ("jobs", "token-other-user-jobs"),
        ("job", "token-expired-job"),
        ("ping", "token-expired-ping"),
        ("cancelled", "token-expired-cancel"),
        ("submitted", "token-expired-submit"),
        ("jobs", "token-missing"),
        ("partitions", "token-expired-partitions"),
        ("nodes", "token-expired-nodes"),
    ],
)
def test_a_refused_token_is_an_operators_business(api: Recorded, what: str, name: str) -> None:
    """Of partitions and nodes 22.05 has the number in a third place, and newer ones none: it was job-rejected."""
    error = refusal(read, api, what, name)
    assert isinstance(error, InternalError) and error.code == "slurm-token-refused", error
    assert error.hint and "jwks" in error.hint


@pytest.mark.parametrize("what", ["jobs", "job", "ping", "cancel", "submit", "partitions", "nodes"])
def test_a_dead_slurmctld_is_not_mistaken_for_a_bad_token(api: Recorded, what: str) -> None:
    """Nor, who asked for partitions or nodes, told that the job was refused."""
    reader = {"cancel": "cancelled", "submit": "submitted"}.get(what, what)
    error = refusal(read, api, reader, f"down-{what}")
    assert isinstance(error, UnavailableError) and error.code == "scheduler-unreachable", error


def test_a_version_slurmrestd_does_not_serve(api: Recorded) -> None:
    error = refusal(read, api, "jobs", "no-such-path")
    assert error.code == "slurm-version" and "openapi/slurmctld" in (error.hint or ""), error


def test_an_unchanged_list_is_not_an_empty_list() -> None:
    """304 has no body; nothing we send asks for it, and taken for 200 it would say: no jobs."""
    assert refusal(read, Recorded(OLD), "jobs", "jobs-unchanged").code == "slurm-answer"


# -- one job -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "state", "reason", "exit_code", "signal", "node_count"),
    [
        ("done", "COMPLETED", None, 0, None, 1),
        ("exit-3", "FAILED", "NonZeroExitCode", 3, None, 1),  # 22.05: raw 768
        ("killed", "FAILED", {"JobLaunchFailure", "RaisedSignal"}, None, 9, 1),
        # 22.05: exit code 4021, slurmd's own number; newer: "signal 53"
        ("launch-failure", "FAILED", {"JobLaunchFailure", "RaisedSignal"}, None, None, 1),
        ("timeout", "TIMEOUT", "TimeLimit", None, 15, 1),
        ("cancelled", "CANCELLED", None, None, 15, 2),
        ("cancelled-before-start", "CANCELLED", "JobHeldUser", None, None, 0),  # 22.05: raw 0, but nothing ran
        ("running", "RUNNING", None, None, None, 2),
        ("limited", "RUNNING", None, None, None, 1),
        ("held", "PENDING", "JobHeldUser", None, None, 0),
        ("array", "PENDING", "JobArrayTaskLimit", None, None, 0),
    ],
)
def test_states_and_exit_codes(
    api: Recorded,
    name: str,
    state: str,
    reason: str | set[str] | None,
    exit_code: int | None,
    signal: int | None,
    node_count: int,
) -> None:
    found = api.job(name)
    assert (found.state, found.exit_code, found.signal, len(found.nodes)) == (state, exit_code, signal, node_count)
    assert found.reason in reason if isinstance(reason, set) else found.reason == reason, found
    assert set(found.nodes) <= {"c1", "c2"}
    assert found.ended == (state not in ("RUNNING", "PENDING"))
    assert (found.user, found.uid) == ("alice", 5001)


@pytest.mark.parametrize(
    ("words", "state"),
    [
        (["COMPLETED", "COMPLETING"], "COMPLETING"),
        (["RUNNING", "CONFIGURING"], "CONFIGURING"),
        (["PENDING", "REQUEUED", "COMPLETING"], "COMPLETING"),
        (["PENDING", "REQUEUE_HOLD", "SPECIAL_EXIT"], "REQUEUE_HOLD"),
        (["RUNNING", "POWER_UP_NODE"], "RUNNING"),
        (["CANCELLED"], "CANCELLED"),
        ([], "UNKNOWN"),
    ],
)
def test_of_a_list_of_states_squeues_word_is_taken(words: list[str], state: str) -> None:
    newest = Recorded(VERSIONS[-1])
    assert newest.family.read_job(newest.answer("job-done", job_state=words), 1, "alice").state == state


def test_nodes_nobody_understands_are_said_so(api: Recorded) -> None:
    answer = api.answer("job-running", nodes="c[1-")
    assert refusal(read_answer, api, "job", answer).code == "slurm-answer"


def test_times_are_facts_not_guesses(api: Recorded) -> None:
    done, running, limited, held = (api.job(name) for name in ("done", "running", "limited", "held"))
    assert done.submit_time and done.start_time and done.end_time and done.latest_end is None, done
    assert done.submit_time <= done.start_time <= done.end_time
    # without a limit slurmctld answers an end_time a year ahead, and a limit of a year once the job has ended
    assert running.start_time and running.end_time is None and running.latest_end is None, running
    assert running.time_limit_min is None and api.job("exit-3").time_limit_min is None
    assert limited.start_time and limited.latest_end == limited.start_time + 300, limited
    assert limited.time_limit_min == 5
    assert (held.start_time, held.end_time, held.latest_end) == (None, None, None), held
    cancelled = api.job("cancelled-before-start")
    assert cancelled.start_time is None and cancelled.end_time, "it ended without having started"


def test_a_pending_job_with_a_begin_time_has_not_started(api: Recorded) -> None:
    """Recorded by hand: slurmctld guesses a start, and an end in the year 2163."""
    guesses = {"start_time": api.number(1795407761), "end_time": api.number(6090374997), "state_reason": "BeginTime"}
    found = api.family.read_job(api.answer("job-held", **guesses), 9, "alice")
    assert (found.start_time, found.end_time, found.latest_end) == (None, None, None), found


def test_where_the_output_is(api: Recorded) -> None:
    """v0.0.38 and v0.0.45 answer with patterns, v0.0.42 with paths."""
    assert api.job("done").output == api.job("done").error == "/home/alice/o-1-recorded.out"
    assert api.job("exit-3").output == "/home/alice/slurm-2.out"
    # relative, and %N not known before the start; stderr of its own
    assert (api.job("held").output, api.job("held").error) == ("/home/alice/sub/%N-9.out", "/home/alice/e.err")
    tasks = {one.array_task_id: one.output for one in api.family.read_jobs(api.answer("job-array"), "alice")}
    assert tasks == {n: f"/home/alice/slurm-8_{n}.out" for n in (1, 2, 3)}


def test_where_the_output_of_an_array_will_be() -> None:
    """24.11 fills NO_VAL into the name of an array that has not been split."""
    recorded = Recorded("v0.0.42")
    path = {"standard_output": "/home/alice/slurm-8_4294967294.out", "array_task_id": {"set": False}}
    found = recorded.family.read_job(recorded.answer("job-array", **path), 8, "alice")
    assert found.output == "/home/alice/slurm-8_%a.out", found


def test_an_arrays_task_is_found_by_its_own_id_and_the_array_by_its(api: Recorded) -> None:
    answer = api.answer("job-array")
    ids = {raw["job_id"] for raw in api.kept("job-array")["body"]["jobs"]} - {8}
    tasks = {api.family.read_job(answer, one, "alice").array_task_id for one in ids}
    assert tasks == {1, 2}, tasks
    assert api.family.read_job(answer, 8, "alice").array_job_id == 8
    for foreign in (999, 0):
        assert refusal(read_answer, api, "job", answer, foreign).code == "no-such-job"


def test_unknown_and_foreign_jobs_look_alike(api: Recorded) -> None:
    errors = [
        refusal(read, api, "job", "job-unknown", 6, "bob"),
        refusal(read, api, "job", "job-of-another", 6, "bob"),  # with PrivateData=jobs
        refusal(read, api, "job", "job-running", 6, "bob"),  # without it slurmctld shows the job
        refusal(read, api, "cancelled", "cancel-unknown"),
    ]
    if api.version == OLD:
        errors.append(refusal(read, api, "cancelled", "cancel-of-another"))
    assert {(error.code, error.status, error.message) for error in errors} == {
        ("no-such-job", 404, "there is no job 6 of yours")
    }


def test_a_slurmctld_that_stands_still_is_unreachable() -> None:
    """What newer Slurms do when they are asked to end another user's job; rest.py never asks."""
    for version in VERSIONS[1:]:
        recorded = Recorded(version)
        assert not recorded.family.deletes_anothers
        assert recorded.kept("cancel-of-another")["seconds"] > 5
        assert refusal(read, recorded, "cancelled", "cancel-of-another").code == "scheduler-unreachable"


def test_the_list_has_ones_own_jobs_only_in_order(api: Recorded) -> None:
    jobs = api.family.read_jobs(api.answer("jobs"), "alice")
    ids = [one.job_id for one in jobs]
    assert ids == sorted(ids) and {1, 6, 8, 9} <= set(ids), ids
    assert api.family.read_jobs(api.answer("jobs"), "bob") == []
    assert api.family.read_jobs(api.answer("jobs-of-bob"), "bob") == []
    assert next(one for one in jobs if one.job_id == 1).comment == "request 7"


def test_cancelled_also_when_it_was_over(api: Recorded) -> None:
    for name in ("cancel", "cancel-again", "cancel-held"):
        read(api, "cancelled", name)


def test_ping(api: Recorded) -> None:
    read(api, "ping", "ping")


def test_ping_of_a_controller_that_is_down() -> None:
    down = Answer(200, "application/json", b'{"pings": [{"hostname": "head", "ping": "DOWN"}]}', 0.1)
    error = refusal(Recorded(OLD).family.read_ping, down)
    assert error.code == "scheduler-unreachable" and "head is DOWN" in error.message


# -- changes, signals, the cluster -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["update-release", "update-time-limit"])
def test_a_change_that_was_made(api: Recorded, name: str) -> None:
    read(api, "updated", name)


@pytest.mark.parametrize(
    ("what", "name", "code"),
    [
        ("updated", "update-of-another", "no-such-job"),
        ("updated", "update-unknown", "no-such-job"),
        ("updated", "update-longer", "change-refused"),
        ("updated", "update-priority", "change-refused"),
        ("updated", "token-expired-cancel", "slurm-token-refused"),
        ("updated", "down-cancel", "scheduler-unreachable"),
        ("signalled", "signal-unknown", "no-such-job"),
        ("signalled", "signal-pending", "change-refused"),
        ("signalled", "signal-bad", "change-refused"),
    ],
)
def test_a_change_that_was_refused(api: Recorded, what: str, name: str, code: str) -> None:
    assert refusal(read, api, what, name, 50).code == code


def test_partitions(api: Recorded) -> None:
    main, *_ = api.family.read_partitions(api.answer("partitions"))
    assert (main.name, main.state, main.nodes) == ("main", "UP", ("c1", "c2"))
    assert (main.max_time_min, main.default_time_min, main.max_nodes_per_job) == (None, None, None), "-1 is no limit"
    assert (main.total_cpus, main.total_nodes) == (8, 2)
    assert main.is_default is (None if api.version == "v0.0.42" else True), "v0.0.42 does not tell"


def test_nodes(api: Recorded) -> None:
    one, two = api.family.read_nodes(api.answer("nodes"))
    assert (one.name, one.state, one.partitions[0], two.name) == ("c1", "IDLE", "main", "c2")
    assert (one.cpus, one.cpus_allocated, one.memory_mb, one.gres) == (4, 0, 8000, one.gres)
    assert one.cpu_load == api.kept("nodes")["body"]["nodes"][0]["cpu_load"] / 100
    assert one.reason is None


# -- robustness --------------------------------------------------------------------------------------------------


def mutated(data: st.DataObject, version: str) -> bytes:
    text = bytearray(json.dumps(Recorded(version).kept("job-done")["body"]).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    return bytes(text[: data.draw(st.integers(0, len(text)))])


@given(st.data(), st.sampled_from(VERSIONS), st.sampled_from([200, 400, 401, 500]))
def test_damaged_answers_give_values_or_our_errors(data: st.DataObject, version: str, status: int) -> None:
    answer = Answer(status, "application/json", mutated(data, version), 0.1)
    for what in ("job", "jobs", "cancelled", "ping", "submitted", "partitions", "nodes"):
        try:
            read_answer(Recorded(version), what, answer)
        except Error:
            continue
