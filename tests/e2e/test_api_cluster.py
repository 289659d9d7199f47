"""What the cluster has, in our words and in hipercow-api's; and jobs that wait for their owner's next login."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import eventually
from node_people import agent_with
from person import Answer, Person

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def alice(sandbox: Sandbox) -> Iterator[Person]:
    person = Person(sandbox, "alice")
    yield person
    person.ask("DELETE", "/v1/sessions/current")


def test_partitions_nodes_load_and_limits(alice: Person) -> None:
    (partition,) = alice.ask("GET", "/v1/partitions").json["partitions"]
    assert (partition["name"], partition["is_default"], partition["nodes"]) == ("main", True, ["c1", "c2"])
    assert partition["max_time_min"] is None and partition["total_cpus"] == 8
    nodes = alice.ask("GET", "/v1/nodes").json["nodes"]
    assert [(node["name"], node["cpus"], node["memory_mb"], node["online"]) for node in nodes] == [
        ("c1", 4, 8000, True),
        ("c2", 4, 8000, True),
    ]
    cluster = alice.ask("GET", "/v1/cluster").json
    assert cluster["cpus"]["total"] == cluster["cpus"]["usable"] == 8 and cluster["limits"]["time_min"] is None
    assert cluster["limits"]["script_bytes"] == 3 * 2**20 and cluster["partitions"] == ["main"]


def test_a_nodes_gpus_and_who_has_them_are_shown(alice: Person) -> None:
    """Would have caught: GPUs nowhere in the list of nodes, or busy ones shown as free."""
    job_id = alice.submit("sleep 60\n", gpus="a100:1").json["job_id"]

    def used() -> list[tuple[str, str]] | None:
        nodes = alice.ask("GET", "/v1/nodes").json["nodes"]
        seen = [(node["gres"], re.sub(r"\(IDX:[^)]*\)", "", node["gres_used"])) for node in nodes]
        return seen if "gpu:a100:1" in seen[0][1] else None

    try:
        shown = eventually("a GPU is in use", used, within_s=20)
    finally:
        alice.ask("DELETE", f"/v1/jobs/{job_id}")
    assert [sorted(had.split(",")) for had, _ in shown] == [["gpu:a100:2", "tile:2"], ["tile:2"]], shown
    busy = [[one for one in now.split(",") if not one.endswith(":0")] for _, now in shown]
    assert busy == [["gpu:a100:1"], []], shown


def test_drivers_are_told_which_share_is_which_folder(sandbox: Sandbox, alice: Person) -> None:
    """The folder that the API calls /mnt/work on nodes is the one the laptop has mounted as that share: without that a
    driver would submit jobs that find no project. Strangers learn no server's name."""
    row = alice.ask("GET", "/v1/paths").json["paths"][0]
    mounts = sandbox.run("laptop", ["findmnt", "-rn", "-o", "TARGET", "-S", row["share"]], user="pat").stdout.split()
    sandbox.run("laptop", ["touch", f"{mounts[-1]}/alice/from-laptop"], user="pat")
    owner = sandbox.run("c2", ["stat", "-c", "%U", f"{row['path']}/alice/from-laptop"]).stdout
    assert owner == "alice\n", (row, mounts, owner)
    told = alice.ask("GET", "/v1/hipercow").json
    (python,) = told["python"].values()
    assert sandbox.run("c1", [python, "-c", "import hipercow; print('there')"], user="alice").stdout == "there\n", told
    assert alice.ask("GET", "/v1/paths", headers={"Authorization": ""}).status == 401


def test_hipercow_apis_clients_get_what_they_know(sandbox: Sandbox, alice: Person) -> None:
    """What one of the API's processes saw, all of them tell: each request here may reach another process."""
    anonymous = {"Authorization": ""}
    alice.ask("GET", "/v1/cluster")
    for _ in range(6):
        assert alice.ask("GET", "/api/v1/Clusters", headers=anonymous).json == ["sandbox"]
    info = alice.ask("GET", "/api/v1/clusters/sandbox", headers=anonymous)
    assert info.json == {
        "name": "sandbox",
        "maxRam": 8,
        "maxCores": 4,
        "nodes": ["c1", "c2"],
        "queues": ["main"],
        "defaultQueue": "main",
    }
    load = alice.ask("GET", "/api/v1/ClusterLoad/sandbox", headers=anonymous).json
    assert (
        load["name"] == "sandbox"
        and [set(row) for row in load["nodeLoads"]] == [{"name", "coresInUse", "nodeCores", "state"}] * 2
    )
    assert {(row["nodeCores"], row["state"]) for row in load["nodeLoads"]} == {(4, "Online")}
    for path in ("Clusters/Sandbox", "ClusterLoad/nosuch", "Nothing"):
        missing = alice.ask("GET", f"/api/v1/{path}", headers=anonymous)
        assert missing.status == 404 and set(missing.json) == {"type", "title", "status", "traceId"}, missing


def test_hipercow_apis_login_and_job_list(sandbox: Sandbox, alice: Person) -> None:
    none = {"Authorization": ""}
    wrong = alice.ask("POST", "/api/v1/Auth/login", headers=none, json={"username": "alice", "password": "wrong"})
    assert (wrong.status, wrong.text) == (401, "Failed to login"), wrong
    right = {"username": "alice", "password": sandbox.passwords["alice"]}
    token = alice.ask("POST", "/api/v1/Auth/login", headers=none, json=right)
    assert token.status == 200 and token.headers["content-type"].startswith("text/plain"), token
    bearer = {"Authorization": f"Bearer {token.text}"}
    assert alice.ask("GET", "/api/v1/ClusterAccess", headers=bearer).text == "sandbox"
    job_id = alice.submit("true\n", hold=True, name="listed").json["job_id"]
    form = {"cluster": "sandbox", "user": "alice", "state": "Queued", "maxRows": "9999"}
    rows = alice.ask("POST", "/api/v1/JobList", headers=bearer, data=form).json
    alice.ask("DELETE", f"/v1/jobs/{job_id}")
    assert rows["name"] == "sandbox" and {"id": job_id, "state": "Queued", "jobName": "listed"} in rows["jobs"]
    bad = alice.ask("POST", "/api/v1/JobList", headers={"Authorization": "Bearer nonsense"}, data=form)
    assert (bad.status, bad.text) == (401, "Invalid JWT token."), bad
    missing = alice.ask("POST", "/api/v1/JobList", headers=none, data=form)
    assert (missing.status, missing.text) == (401, "Missing or invalid Authorization header."), missing
    alice.ask("DELETE", "/v1/sessions/current", headers=bearer)


def test_hipercow_apis_job_list_takes_what_its_clients_send(alice: Person) -> None:
    """Ids are numbers and the states are HPC Pack's, with one l in Canceled; only ``cluster`` must be given, in either
    kind of form; and a state that does not exist is said to be none: it was an empty list, as if there were no jobs."""
    job_id = alice.submit("true\n", hold=True, name="ended").json["job_id"]
    alice.ask("DELETE", f"/v1/jobs/{job_id}")

    def ask(form: dict[str, str], **more: Any) -> Answer:
        return alice.ask("POST", "/api/v1/JobList", data=form, **more)

    row = {"id": job_id, "state": "Canceled", "jobName": "ended"}
    for form in ({}, {"user": "", "state": "", "maxRows": ""}, {"STATE": "Canceled", "user": "alice"}):
        assert row in ask({"Cluster": "sandbox", **form}).json["jobs"], form
    assert row not in ask({"cluster": "sandbox", "state": "Finishing"}).json["jobs"]
    assert ask({"cluster": "sandbox", "maxRows": "1"}).json["jobs"] == ask({"cluster": "sandbox"}).json["jobs"][:1]
    body = "".join(
        f'--X\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in {"cluster": "sandbox", "state": "Canceled"}.items()
    )
    parts = {"Content-Type": "multipart/form-data; boundary=X"}
    assert row in alice.ask("POST", "/api/v1/JobList", headers=parts, content=body + "--X--\r\n").json["jobs"]
    for state in ("Cancelled", "queued", "*"):
        wrong = ask({"cluster": "nosuch", "state": state})
        options = "Options: Canceled, Failed, Finished, Queued, Running or leave empty."
        assert (wrong.status, wrong.text) == (400, f"Job State {state} not found. {options}"), wrong
    for form, field in (({}, "cluster"), ({"cluster": "sandbox", "maxRows": "many"}, "maxRows")):
        wrong = ask(form, headers={} if form else {"Content-Type": "application/x-www-form-urlencoded"})
        assert (wrong.status, list(wrong.json["errors"])) == (400, [field]), wrong
    assert alice.ask("POST", "/api/v1/JobList", json={"cluster": "sandbox"}).status == 415
    assert ask({"cluster": "nosuch"}).status == 404


def test_hipercow_apis_clients_see_jobs_and_nodes_in_each_state(sandbox: Sandbox, alice: Person) -> None:
    """Would have caught: a drained node that is Online, busy cores that are idle, a failed job that is Finished."""
    ids = {}
    for name, script in {"Finished": "true\n", "Failed": "exit 3\n", "Running": "sleep 60\n"}.items():
        ids[alice.submit(script, name=name, nodelist="c1", cpus_per_task=2).json["job_id"]] = name
    sandbox.run("head", ["scontrol", "update", "NodeName=c2", "State=DRAIN", "Reason=test"])

    def seen() -> bool:
        rows = alice.ask("POST", "/api/v1/JobList", data={"cluster": "sandbox"}).json["jobs"]
        states = {row["id"]: row["state"] for row in rows if row["id"] in ids}
        loads = alice.ask("GET", "/api/v1/ClusterLoad/sandbox").json["nodeLoads"]
        cores = {row["name"]: (row["coresInUse"], row["state"]) for row in loads}
        return states == ids and cores == {"c1": (2, "Online"), "c2": (0, "Offline")}

    try:
        eventually("each as HPC Pack calls it", seen, within_s=30)
    finally:
        sandbox.run("head", ["scontrol", "update", "NodeName=c2", "State=RESUME"])
        alice.ask("DELETE", f"/v1/jobs?job_id={','.join(map(str, ids))}")


def test_hipercow_apis_addresses_and_fields_are_known_in_any_case(sandbox: Sandbox, alice: Person) -> None:
    """.NET's clients may write Username; who accepts JSON alone gets JSON, the token too."""
    only_json = {"Authorization": "", "Accept": "application/json"}
    right = {"Username": "alice", "Password": sandbox.passwords["alice"], "RememberMe": True}
    token = alice.ask("POST", "/API/V1/auth/LOGIN/", headers=only_json, json=right)
    assert token.status == 200 and token.headers["content-type"].startswith("application/json"), token
    bearer = {**only_json, "Authorization": f"Bearer {token.json}"}
    assert alice.ask("GET", "/Api/V1/clusteraccess", headers=bearer).json == "sandbox"
    alice.ask("DELETE", "/v1/sessions/current", headers=bearer)
    none = {"Authorization": ""}
    for body, status, says in (
        ({"username": "alice", "password": ""}, 400, "cannot be empty"),
        ({"username": "a\n", "password": "x"}, 401, "Failed to login"),
        ({"username": "alice"}, 400, "One or more validation errors"),
        ({"username": "alice", "password": 7}, 401, "Failed to login"),
    ):
        wrong = alice.ask("POST", "/api/v1/Auth/login", headers=none, json=body)
        assert wrong.status == status and says in wrong.text, (body, wrong)
    other = alice.ask("POST", "/api/v1/Clusters", headers=none)
    assert (other.status, other.headers["allow"], other.text) == (405, "GET", ""), other


def test_a_job_put_back_for_want_of_a_ticket_is_released_by_its_owners_next_login(
    sandbox: Sandbox, alice: Person
) -> None:
    """As the node's agent leaves a job: put back, held as its owner's, with the marker in both comments."""
    other = alice.submit("true\n", hold=True).json["job_id"]
    job_id = alice.submit("sleep 60\n").json["job_id"]
    eventually("it runs", lambda: alice.ask("GET", f"/v1/jobs/{job_id}").json["state"] == "RUNNING", within_s=15)
    reason = "hipercow-slurm: no ticket: log in again"
    for act in (
        ["requeuehold", str(job_id)],
        ["update", f"JobId={job_id}", f"Comment=mine | {reason}", f"AdminComment={reason}"],
        ["uhold", str(job_id)],
    ):
        assert sandbox.run("head", ["scontrol", *act]).returncode == 0
    waiting = alice.ask("GET", f"/v1/jobs/{job_id}").json
    assert waiting["held_for_ticket"] is True and "log in again" in waiting["credential"]["sentence"], waiting
    again = Person(sandbox, "alice")

    def released() -> dict[str, Any] | None:
        job = again.ask("GET", f"/v1/jobs/{job_id}").json
        return job if job["state"] == "RUNNING" else None

    job = eventually("the job runs", released, within_s=40)
    untouched = again.ask("GET", f"/v1/jobs/{other}").json
    again.ask("DELETE", f"/v1/jobs?job_id={job_id},{other}")
    again.ask("DELETE", "/v1/sessions/current")
    assert "held_for_ticket" not in job, job
    assert untouched["reason"] == "JobHeldUser", "a job its owner holds stays held"


def test_jobs_that_the_nodes_policy_put_back_run_after_the_next_login(sandbox: Sandbox, alice: Person) -> None:
    """The whole way, with the real agent's policy: a job, and both tasks of an array.

    The test of a job put back does the agent's part by hand: it would not notice other marks than the API looks for.
    """
    script = "klist -s && echo ticket\n"
    with agent_with(sandbox, "c1", 'policy = "require"'), agent_with(sandbox, "c2", 'policy = "require"'):
        made = [alice.submit(script, hold=True, **more).json["job_id"] for more in ({}, {"array": "0-1"})]
        assert alice.ask("DELETE", "/v1/ticket").status == 204
        for job_id in made:
            assert alice.ask("POST", f"/v1/jobs/{job_id}/release").status == 200

        def waiting() -> list[dict[str, Any]] | None:
            jobs = alice.ask("GET", "/v1/jobs?state=PENDING").json["jobs"]
            held = [job for job in jobs if job.get("held_for_ticket")]
            return held if len(held) == 3 else None

        held = eventually("three jobs are put back", waiting, within_s=40)
        time.sleep(2.1)  # for so long the other one of the API's processes goes by what the cache said before
        held = waiting() or held
        outlooks = {(job["credential"]["state"], job["credential"]["covers_job"]) for job in held}
        assert outlooks == {("missing", False)} and "log in again" in held[0]["credential"]["sentence"], held
        again = Person(sandbox, "alice")
        for job in held:
            assert again.ended(job["job_id"])["state"] == "COMPLETED"
            assert again.ask("GET", f"/v1/jobs/{job['job_id']}/output").text.endswith("ticket\n")
        again.ask("DELETE", "/v1/sessions/current")
