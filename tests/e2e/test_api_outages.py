"""Slurm goes away or hangs under the API: what people are told, how soon, and what health says. On the real parts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import eventually
from person import Answer, Person

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def alice(sandbox: Sandbox) -> Person:
    return Person(sandbox, "alice")


@contextmanager
def hanging(sandbox: Sandbox, name: str) -> Iterator[None]:
    sandbox.service(name).pause()
    try:
        yield
    finally:
        sandbox.service(name).resume()


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
    with hanging(sandbox, name):
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
