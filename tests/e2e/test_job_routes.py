"""Jobs through the HTTP API on the real Slurm: every way to ask for one, and everything that can be done to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import eventually
from person import Person

pytestmark = pytest.mark.e2e
SLEEP = "sleep 60\n"


@pytest.fixture(scope="module")
def alice(sandbox: Sandbox) -> Iterator[Person]:
    person = Person(sandbox, "alice")
    yield person
    person.ask("DELETE", "/v1/sessions/current")


@pytest.fixture(scope="module")
def bob(sandbox: Sandbox) -> Iterator[Person]:
    person = Person(sandbox, "bob")
    yield person
    person.ask("DELETE", "/v1/sessions/current")


@pytest.fixture
def held(alice: Person) -> Iterator[Any]:
    """Makes held jobs, and cancels them in the end."""
    made: list[int] = []

    def make(script: str = "true\n", **more: Any) -> dict[str, Any]:
        answer = alice.submit(script, hold=True, **more)
        assert answer.status == 201, answer
        made.append(answer.json["job_id"])
        return answer.json

    yield make
    if made:
        alice.ask("DELETE", "/v1/jobs?job_id=" + ",".join(map(str, made)))


def scontrol(sandbox: Sandbox, job_id: int) -> dict[str, str]:
    """What Slurm itself says of a job, newer releases in 22.05's words."""
    shown = sandbox.run("head", ["scontrol", "-o", "show", "job", str(job_id)]).stdout
    said = dict(word.split("=", 1) for word in shown.split() if "=" in word)
    if "TresPerNode" in said:
        said["TresPerNode"] = said["TresPerNode"].replace("gres/", "gres:")
    if "Exclusive" in said:
        said["OverSubscribe"] = said["Exclusive"]
    return said


def state(alice: Person, job_id: int, *wanted: str) -> dict[str, Any]:
    def probe() -> dict[str, Any] | None:
        job = alice.ask("GET", f"/v1/jobs/{job_id}").json
        return job if job["state"] in wanted else None

    return eventually(f"job {job_id} {wanted}", probe, within_s=20)


def test_every_field_of_a_submission_reaches_slurm(sandbox: Sandbox, held: Any) -> None:
    first = held()["job_id"]
    local = sandbox.run("head", ["date", "-d", "2030-01-31T20:00:00Z", "+%Y-%m-%dT%H:%M:%S"]).stdout.strip()
    job_id = held(
        tasks=2,
        tasks_per_node=1,
        nodes=2,
        cpus_per_task=2,
        memory_per_cpu_mb=50,
        gres="tile:1",
        licenses="sandbox:1",
        nodelist="c[1-2]",
        dependency=f"afterany:{first}",
        begin_time="2030-01-31T22:00:00+02:00",
        requeue=False,
        exclusive="user",
        nice=7,
        name="fields",
        account="physics",
        time_limit_min=9,
        input="in.txt",
        mail_type="END",
        mail_user="alice@example.org",
    )["job_id"]
    shown = scontrol(sandbox, job_id)
    wanted = {
        "NumTasks": "2",
        "NtasksPerN:B:S:C": "1:0:*:*",
        "NumNodes": "2-2",
        "CPUs/Task": "2",
        "MinMemoryCPU": "50M",
        "TresPerNode": "gres:tile:1",
        "Licenses": "sandbox:1",
        "ReqNodeList": "c[1-2]",
        "Dependency": f"afterany:{first}(unfulfilled)",
        "EligibleTime": local,
        "Requeue": "0",
        "OverSubscribe": "USER",
        "Nice": "7",
        "JobName": "fields",
        "Account": "physics",
        "TimeLimit": "00:09:00",
        "StdIn": "/home/alice/in.txt",
        "MailType": "END",
        "MailUser": "alice@example.org",
    }
    assert {key: shown.get(key) for key in wanted} == wanted, shown


def test_the_other_fields_reach_slurm_too(sandbox: Sandbox, held: Any) -> None:
    """Would have caught: a field that the API takes and nobody passes on."""
    now = sandbox.run("head", ["date", "+%Y-%m-%dT%H:%M:%S"]).stdout.strip()
    book = [
        "create",
        "reservation",
        "ReservationName=booked",
        f"StartTime={now}",
        "Duration=9",
        "Users=alice",
        "Nodes=c1",
    ]
    sandbox.run("head", ["scontrol", *book])
    sandbox.run("head", ["scontrol", "update", "NodeName=c1", "AvailableFeatures=fast", "ActiveFeatures=fast"])
    try:
        job_id = held(
            partition="main",
            qos="normal",
            memory_mb=64,
            reservation="booked",
            constraint="fast",
            array="1-7:3%2",
            working_directory="runs",
            output="o-%j.txt",
            error="/tmp/e.txt",
            comment="mine",
        )["job_id"]
        shown = scontrol(sandbox, job_id)
        prior = scontrol(sandbox, held(priority=4321, requeue=True, exclusive=True)["job_id"])
    finally:
        sandbox.run("head", ["scontrol", "update", "NodeName=c1", "AvailableFeatures=", "ActiveFeatures="])
        sandbox.run("head", ["sh", "-c", f"scancel {job_id}; scontrol delete ReservationName=booked"])
    wanted = {
        "Partition": "main",
        "MinMemoryNode": "64M",
        "Reservation": "booked",
        "Features": "fast",
        "ArrayTaskId": "1,4,7%2",
        "WorkDir": "/home/alice/runs",
        "StdErr": "/tmp/e.txt",
    }
    assert {key: shown.get(key) for key in wanted} == wanted, shown
    assert shown["StdOut"].startswith("/home/alice/runs/o-"), shown
    assert prior["Requeue"] == "1" and prior["OverSubscribe"] in ("NO", "NODE"), prior


def test_open_mode_and_environment_are_seen_by_the_job(alice: Person) -> None:
    script = "echo $COLOUR ${SLURM_JOB_QOS-none} ${KRB5CCNAME%%_*} ${LD_PRELOAD-clean}\n"
    laptops = {"COLOUR": "green", "KRB5CCNAME": "FILE:/evil", "LD_PRELOAD": "/evil.so", "SLURM_JOB_QOS": "evil"}
    for mode in ("truncate", "append", "append"):
        made = alice.submit(script, output="mode.txt", open_mode=mode, environment=laptops)
        assert made.status == 201 and "KRB5CCNAME, LD_PRELOAD, SLURM_JOB_QOS" in made.json["warnings"][0], made
        assert alice.ended(made.json["job_id"])["state"] == "COMPLETED"
    text = alice.ask("GET", f"/v1/jobs/{made.json['job_id']}/output").text
    assert len(text.splitlines()) == 3 and "evil" not in text, text
    assert set(text.splitlines()) == {text.splitlines()[0]} and text.startswith("green "), text
    assert text.splitlines()[0].endswith("FILE:/tmp/krb5cc clean"), text


def test_a_nodelist_cannot_end_slurmrestd(sandbox: Sandbox, alice: Person) -> None:
    """Would have caught: ranges that slurmrestd 22.05 dies of, for everybody."""
    for nodes in ("c[1-99999999]", "c[2-1]", "c[a-b]"):
        for field in ("nodelist", "exclude"):
            answer = alice.submit("true\n", hold=True, **{field: nodes})
            assert (answer.status, answer.json["code"]) == (400, "bad-request"), answer
    assert alice.ask("GET", "/v1/health").json["checks"]["slurm"] == "ok"


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"gpus": "3"}, "node configuration"),
        ({"gpus": "v100:1"}, "node configuration"),
        ({"gpus_per_node": "1", "nodes": 2}, "node configuration"),
        ({"gpus_per_task": "1", "tasks": 3}, "node configuration"),
        ({"gres": "gpu:3"}, "node configuration"),
        ({"licenses": "nosuch:1"}, "license"),
        ({"reservation": "nosuch"}, "reservation"),
        ({"constraint": "nosuch"}, "feature"),
    ],
    ids=["gpus", "kind-of-gpus", "gpus-per-node", "gpus-per-task", "gres", "licenses", "reservation", "constraint"],
)
def test_slurms_refusal_of_a_field_reaches_the_user_in_its_own_words(
    alice: Person, field: dict[str, Any], words: str
) -> None:
    answer = alice.submit("true\n", **field)
    assert answer.status == 422 and words in answer.json["detail"].lower(), answer


def test_directives_in_the_script_are_honoured_and_the_request_wins(sandbox: Sandbox, held: Any) -> None:
    script = "#SBATCH -J directed -n 3 --time=0:07:00 --nice=5 --licenses sandbox:2\n#SBATCH --export=A=1\ntrue\n"
    job_id = held(script, name="explicit", time_limit_min=4)["job_id"]
    shown = scontrol(sandbox, job_id)
    found = {key: shown[key] for key in ("JobName", "NumTasks", "TimeLimit", "Nice", "Licenses")}
    assert found == {
        "JobName": "explicit",
        "NumTasks": "3",
        "TimeLimit": "00:04:00",
        "Nice": "5",
        "Licenses": "sandbox:2",
    }
    ignored = scontrol(sandbox, held(script, ignore_directives=True)["job_id"])
    assert (ignored["NumTasks"], ignored["Licenses"]) == ("1", "(null)")


def test_hold_release_and_requeue(alice: Person, sandbox: Sandbox) -> None:
    job_id = alice.submit(SLEEP, hold=True).json["job_id"]
    released = alice.ask("POST", f"/v1/jobs/{job_id}/release")
    assert released.status == 200, released
    state(alice, job_id, "RUNNING")
    requeued = alice.ask("POST", f"/v1/jobs/{job_id}/requeue")
    assert requeued.status == 200 and scontrol(sandbox, job_id)["Restarts"] == "1", requeued
    again = eventually("pending", lambda: state(alice, job_id, "PENDING"), within_s=10)
    assert alice.ask("POST", f"/v1/jobs/{job_id}/hold").json["reason"] == "JobHeldUser", again
    assert alice.ask("DELETE", f"/v1/jobs/{job_id}").status == 204


def test_what_is_done_to_an_array_is_done_to_its_tasks(alice: Person, sandbox: Sandbox) -> None:
    """Some of its tasks run, some wait. Would have caught: 422 for everything that Slurm had just done."""
    script = "trap 'echo caught' USR1\necho up\nfor i in $(seq 300); do sleep 0.1; done\n"
    made = alice.submit(script, array="0-3%1", time_limit_min=3)
    path = f"/v1/jobs/{made.json['job_id']}"

    def tasks(form: str) -> set[str]:
        return set(sandbox.run("head", ["squeue", "-h", "-r", "-j", path[9:], "-o", form]).stdout.split())

    first = eventually("a task runs", lambda: alice.task(made.json["job_id"], 0, "RUNNING"), within_s=20)
    eventually("it is up", lambda: "up" in alice.ask("GET", f"/v1/jobs/{first}/output").text or None, within_s=20)
    answers = {"signal": alice.ask("POST", f"{path}/signal", json={"signal": "USR1"})}
    for act in ("hold", "release"):
        answers[act] = alice.ask("POST", f"{path}/{act}")
    answers["limit"] = alice.ask("PATCH", path, json={"time_limit_min": 2})
    limits = tasks("%l")
    eventually("caught", lambda: "caught" in alice.ask("GET", f"/v1/jobs/{first}/output").text or None, within_s=10)
    answers["requeue"] = alice.ask("POST", f"{path}/requeue")
    answers["longer"] = alice.ask("PATCH", path, json={"time_limit_min": 400_000_000})
    cancelled = alice.ask("DELETE", path)
    assert {act: answer.status for act, answer in answers.items()} == dict.fromkeys(answers, 200) | {"longer": 400}
    assert "2:00" in limits and cancelled.status == 204
    eventually("all are gone", lambda: not tasks("%i") or None, within_s=20)


def test_a_signal_to_a_job_that_has_ended_is_refused(alice: Person) -> None:
    job_id = alice.submit("true\n").json["job_id"]
    alice.ended(job_id)
    answer = alice.ask("POST", f"/v1/jobs/{job_id}/signal", json={"signal": "USR1"})
    assert (answer.status, answer.json["code"]) == (422, "change-refused"), answer


def test_a_signal_reaches_the_jobs_processes(alice: Person) -> None:
    script = "trap 'echo caught; exit 0' USR1\necho ready\nwhile :; do sleep 0.1; done\n"
    job_id = alice.submit(script).json["job_id"]
    output = f"/v1/jobs/{job_id}/output"
    eventually("ready", lambda: "ready" in alice.ask("GET", output).text or None, within_s=20)
    assert alice.ask("POST", f"/v1/jobs/{job_id}/signal", json={"signal": "SIGUSR1"}).status == 200
    assert state(alice, job_id, "COMPLETED")["exit_code"] == 0
    assert "caught" in alice.ask("GET", output).text
    refused = alice.ask("POST", f"/v1/jobs/{job_id}/signal", json={"signal": "NOPE"})
    assert refused.status == 400 and "USR1" in refused.json["detail"], refused


def test_a_time_limit_can_be_made_shorter_and_slurm_says_who_may_not_make_it_longer(alice: Person) -> None:
    job_id = alice.submit(SLEEP, time_limit_min=5).json["job_id"]
    state(alice, job_id, "RUNNING")
    shorter = alice.ask("PATCH", f"/v1/jobs/{job_id}", json={"time_limit_min": 3})
    longer = alice.ask("PATCH", f"/v1/jobs/{job_id}", json={"time_limit_min": 30})
    nothing = alice.ask("PATCH", f"/v1/jobs/{job_id}", json={})
    alice.ask("DELETE", f"/v1/jobs/{job_id}")
    assert (shorter.status, shorter.json["time_limit_min"]) == (200, 3), shorter
    assert (longer.status, longer.json["code"]) == (422, "change-refused"), longer
    assert "denied" in longer.json["detail"]
    assert nothing.status == 400, nothing


def test_nobody_does_anything_to_anothers_job(alice: Person, bob: Person, held: Any) -> None:
    job_id = held()["job_id"]
    answers = [bob.ask("POST", f"/v1/jobs/{job_id}/{act}") for act in ("hold", "release", "requeue")]
    answers.append(bob.ask("POST", f"/v1/jobs/{job_id}/signal", json={"signal": "KILL"}))
    answers.append(bob.ask("PATCH", f"/v1/jobs/{job_id}", json={"time_limit_min": 1}))
    answers.append(bob.ask("GET", f"/v1/jobs/{job_id}"))
    assert {(answer.status, answer.json["code"]) for answer in answers} == {(404, "no-such-job")}, answers
    many = bob.ask("DELETE", f"/v1/jobs?job_id={job_id}").json["results"]
    assert [(item["status"], item["problem"]["code"]) for item in many] == [(404, "no-such-job")]
    assert alice.ask("GET", f"/v1/jobs/{job_id}").json["state"] == "PENDING"


def test_bulk_submission_has_an_outcome_for_each_and_repeating_it_makes_none_twice(alice: Person) -> None:
    good = {"script": "#!/bin/sh\n", "hold": True, "time_limit_min": 2}
    body = {"jobs": [good, {**good, "partition": "nosuch"}, {"skript": 1}, {**good, "name": "fourth"}]}
    key = {"Idempotency-Key": "bulk-1"}
    first = alice.ask("POST", "/v1/jobs:bulk", headers=key, json=body)
    assert first.status == 200, first
    results = first.json["results"]
    assert [(item["index"], item["status"]) for item in results] == [(0, 201), (1, 422), (2, 400), (3, 201)], results
    assert "partition" in results[1]["problem"]["detail"].lower() and "skript" in results[2]["problem"]["detail"]
    assert results[3]["job"]["name"] == "fourth"
    ids = [results[0]["job_id"], results[3]["job_id"]]
    again = alice.ask("POST", "/v1/jobs:bulk", headers=key, json=body).json["results"]
    assert [again[0]["job_id"], again[3]["job_id"]] == ids
    cancelled = alice.ask("DELETE", f"/v1/jobs?job_id={ids[0]}&job_id={ids[1]},999999").json["results"]
    assert [(item["job_id"], item["status"]) for item in cancelled] == [(ids[0], 204), (ids[1], 204), (999999, 404)]
    assert state(alice, ids[0], "CANCELLED") and state(alice, ids[1], "CANCELLED")


def test_the_list_is_filtered_and_paged(alice: Person, held: Any) -> None:
    since = int(time.time()) - 1
    ids = [held(name=f"paged-{number}")["job_id"] for number in range(3)]
    query = f"/v1/jobs?name=paged-*&state=pending&since={since}"
    whole = alice.ask("GET", query).json
    assert [job["job_id"] for job in whole["jobs"]] == ids and whole["next_cursor"] is None
    seen, cursor = [], None
    for _ in range(3):
        page = alice.ask("GET", f"{query}&limit=1" + (f"&cursor={cursor}" if cursor else "")).json
        seen += [job["job_id"] for job in page["jobs"]]
        cursor = page["next_cursor"]
    assert seen == ids and cursor is None
    assert alice.ask("GET", f"{query}&state=RUNNING&name=other").json["jobs"] == []
    assert alice.ask("GET", "/v1/jobs?colour=red").status == 400
