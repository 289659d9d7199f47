"""Slurm goes away or hangs under the API: what people are told, how soon, and what health says. On the real parts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from hipercow_slurm.slurm.silence import RESTART_S
from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import eventually
from person import Answer, Person

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def alice(sandbox: Sandbox) -> Person:
    return Person(sandbox, "alice")


@contextmanager
def away(sandbox: Sandbox, name: str, *, stopped: bool = False) -> Iterator[None]:
    """The service stands still, or is not there."""
    service = sandbox.service(name)
    go, back = (service.stop, service.start) if stopped else (service.pause, service.resume)
    go()
    try:
        yield
    finally:
        back()


def health(person: Person) -> dict[str, Any]:
    """Of one of the API's processes, and not what it knew before."""
    time.sleep(5.1)
    found: dict[str, Any] = person.ask("GET", "/v1/health").json
    return found


def test_without_slurmctld_nothing_is_called_a_refusal(sandbox: Sandbox, alice: Person) -> None:
    """Would have caught: 422 "Slurm refused the job" for a list of partitions or nodes, as 22.05 gives no number there;
    500 for one of nodes, as newer ones give no reason at all; and a service that calls itself well while no job can be
    submitted."""
    eventually("well", lambda: health(alice)["status"] == "ok", within_s=90)
    paths = ("/v1/partitions", "/v1/nodes", "/v1/cluster", "/v1/jobs", "/api/v1/ClusterLoad/sandbox")
    sandbox.service("slurmctld").stop()
    try:
        with ThreadPoolExecutor(6) as threads:
            answers = list(threads.map(lambda path: alice.ask("GET", path), paths))
            # There are two processes; each has met it by then.
            answers += threads.map(lambda _: alice.ask("GET", "/v1/jobs"), range(6))
        # slurmrestd may be busy with those who asked, while it waits for slurmctld itself; then that is what is told.
        said = health(alice)
        for _ in range(8):
            assert said["status"] != "ok", said
            if said["checks"]["slurm"] == "scheduler-unreachable":
                break
            said = health(alice)
    finally:
        sandbox.service("slurmctld").start()
    codes = {(one.status, one.json["code"]) for one in answers if "code" in one.json}
    assert codes == {(503, "scheduler-unreachable")}, [one.text for one in answers]
    assert {one.status for one in answers} == {503}, [one.text for one in answers]
    assert said["checks"]["slurm"] == "scheduler-unreachable" and "Slurm" in said["reasons"]["slurm"], said
    eventually("a job again", lambda: alice.submit("true\n").status == 201, within_s=60)


@pytest.mark.parametrize("name", ["slurmctld", "slurmrestd"])
def test_a_submission_to_a_slurm_that_hangs_ends_in_time_and_is_one_job(
    sandbox: Sandbox, alice: Person, name: str
) -> None:
    """Would have caught: a hundred seconds without a word, as each of six looks for the job took its whole deadline."""
    eventually("a job", lambda: alice.submit("true\n").status == 201, within_s=60)
    begin = time.monotonic()
    with away(sandbox, name):
        lost = alice.submit("true\n", key=f"hanging-{name}", name=f"hanging-{name}")
        took = time.monotonic() - begin
        said = health(alice) if name == "slurmrestd" else None
    assert lost.status in (503, 504) and lost.json["code"] in ("submit-unknown", "scheduler-unreachable"), lost
    assert took < 40, f"{took:.0f} s for {lost.text}"
    assert said is None or said["checks"]["slurm"] == "timeout", said

    def again() -> Answer | None:
        answer = alice.submit("true\n", key=f"hanging-{name}", name=f"hanging-{name}")
        assert answer.status in (201, 503, 504), answer
        return answer if answer.status == 201 else None

    made = eventually("the job", again, within_s=90)
    listed = alice.ask("GET", f"/v1/jobs?name=hanging-{name}").json["jobs"]
    assert [job["job_id"] for job in listed] == [made.json["job_id"]], listed


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [False, True], ids=["hanging", "stopped"])
def test_without_slurmctld_nobody_waits_for_long(sandbox: Sandbox, alice: Person, stopped: bool) -> None:
    """Would have caught: 15 s for GET /v1/jobs/ID, each time, as slurmrestd itself waits 9 to 20 s for slurmctld; a
    bulk submission that takes 3 s for each of its jobs; and no answer for a job of which we have seen the end."""
    made = eventually("a job", lambda: (one := alice.submit("true\n")).status == 201 and one, within_s=60)
    over = alice.ended(made.json["job_id"])
    paths = (f"/v1/jobs/{over['job_id']}", "/v1/jobs", "/v1/partitions", "/v1/nodes", "/v1/cluster")

    def timed(method: str, path: str, **more: Any) -> tuple[Answer, float]:
        begin = time.monotonic()
        return alice.ask(method, path, **more), time.monotonic() - begin

    with away(sandbox, "slurmctld", stopped=stopped):
        found = [timed("GET", path) for path in paths]
        for _ in range(4):  # there are two processes; by now both know
            found.append(timed("GET", "/v1/jobs"))
        time.sleep(RESTART_S)  # so long it may be restarting, and is waited for
        bulk, bulk_s = timed("POST", "/v1/jobs:bulk", json={"jobs": [{"script": "#!/bin/sh\n"}] * 100})
        last = [timed("GET", path) for path in paths]
    assert max(took for _, took in found) < 15, found
    assert max(took for _, took in last) < 3, last
    assert bulk_s < 10 and {row["problem"]["code"] for row in bulk.json["results"]} == {"scheduler-unreachable"}, bulk
    for answers in (found[: len(paths)], last):
        (kept, _), *others = answers
        assert kept.status == 200 and kept.json["state"] == over["state"], kept
        assert {(one.status, one.json["code"]) for one, _ in others} == {(503, "scheduler-unreachable")}, others
    begin = time.monotonic()
    eventually("lists again", lambda: alice.ask("GET", "/v1/jobs").status == 200, within_s=60)
    assert time.monotonic() - begin < 10, "a slurmctld that is back is found to be"
