"""Two API hosts on one PostgreSQL, beside a real slurmctld: what one of them knows, both know, and one is enough.

tests/kdc/test_api_hosts.py has what only a slurmrestd that misbehaves can show; here Slurm itself counts the jobs.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from api_hosts import FIRST, HOSTS, SECOND, Answer, Hosts, request
from fix_sandbox import SLURM
from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("test_api_hosts_on_slurm.py")]
TICKET_S = 12


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """Tickets of 12 s, so that they are renewed while the tests run."""
    with Sandbox(programs=("signer", "auksd"), slurm=SLURM) as sandbox, Hosts(sandbox, ticket_life_s=TICKET_S) as hosts:
        yield hosts


def submission(host: str, token: str, key: str, **more: object) -> dict[str, object]:
    job = {"script": "#!/bin/sh\n", "name": key, "working_directory": "/tmp", "time_limit_min": 1, **more}
    return request(host, "POST", "/v1/jobs", token, json=job, headers={"Idempotency-Key": key})


def names(hosts: Hosts) -> Counter[str]:
    """The jobs that slurmctld has, ended ones as well."""
    return Counter(hosts.sandbox.run("head", ["squeue", "-h", "--states=all", "-o", "%j"]).stdout.split())


def settled(hosts: Hosts, host: str, token: str, keys: list[str], **more: object) -> list[Answer]:
    """Answers once none is that an attempt is not settled; a client repeats as we do here."""
    end = time.monotonic() + 90
    while True:
        answers = hosts.ask_all([submission(host, token, key, **more) for key in keys], at_once=4)
        again = [said for status, said in answers if status == 503]
        if not again:
            return answers
        assert {said["code"] for said in again} == {"submit-unsettled"} and time.monotonic() < end, again


def test_log_in_at_one_submit_at_the_other_and_look_from_both(hosts: Hosts) -> None:
    """Would have caught: a session, a submission or an answer that only its own host knows; a token of the second
    host's signer that slurmctld does not take."""
    token = hosts.login(FIRST, "alice")["token"]
    (made,) = hosts.ask_all([submission(SECOND, token, "first")])
    assert made[0] == 201, (made, hosts.log(SECOND)[-2000:])
    job_id = made[1]["job_id"]
    for host in HOSTS:
        status, again = hosts.ask_all([submission(host, token, "first")])[0]
        assert (status, again["job_id"]) == (201, job_id), again
        eventually(
            f"{host} says how it ended",
            lambda host=host: hosts.ask(host, "GET", f"/v1/jobs/{job_id}", token)[1]["state"] == "COMPLETED",
            within_s=60,
        )
    assert names(hosts)["first"] == 1, names(hosts)


def test_the_same_key_at_both_hosts_at_once_is_one_job(hosts: Hosts) -> None:
    """Would have caught: a lock on the key that only its own host knows."""
    token = hosts.login(SECOND, "alice")["token"]
    answers = hosts.ask_all([submission(HOSTS[n % 2], token, "both", hold=True) for n in range(12)], at_once=12)
    made = {said["job_id"] for status, said in answers if status == 201}
    others = {said["code"] for status, said in answers if status != 201}
    assert len(made) == 1 and others <= {"submit-unsettled"}, answers
    assert names(hosts)["both"] == 1, names(hosts)


@pytest.mark.parametrize(("ends", "other"), [HOSTS, HOSTS[::-1]])
def test_a_session_revoked_at_one_host_is_refused_at_the_other(hosts: Hosts, ends: str, other: str) -> None:
    """Would have caught: what a host has in memory is believed for some seconds, long enough to submit."""
    token = hosts.login(ends, "bob")["token"]
    looks = [request(host, "GET", "/v1/ticket", token) for host in (ends, other, other, other, other)]
    over = request(ends, "DELETE", "/v1/sessions/current", token)
    late = [submission(host, token, "late") for host in (other, ends, other)]
    answers = hosts.ask_all([*looks, over, *late])
    assert [status for status, _ in answers[: len(looks)]] == [200] * len(looks), answers
    assert answers[len(looks)][0] == 204, answers
    assert {(status, said.get("code")) for status, said in answers[-3:]} == {(401, "not-authenticated")}, answers[-3:]
    assert "late" not in names(hosts)


def test_one_host_killed_between_answers_and_the_other_goes_on(hosts: Hosts) -> None:
    """kill -9 of every process of a host while it submits; each key without an answer is repeated at the other.

    Would have caught: a job twice (Slurm had taken it, the note of it was lost), a job answered and not there, a
    second host that needs the first.
    """
    token = hosts.login(FIRST, "alice")["token"]
    keys = [f"killed-{n}" for n in range(60)]
    asking = hosts.asking([submission(FIRST, token, key, hold=True) for key in keys], at_once=4)
    assert asking.stdout is not None
    answers = [json.loads(asking.stdout.readline()) for _ in range(10)]
    hosts.kill(FIRST)
    answers += [json.loads(line) for line in asking.stdout]
    told = {key: said["job_id"] for key, (status, said) in zip(keys, answers, strict=True) if status == 201}
    lost = [key for key in keys if key not in told]
    assert len(told) >= 10 and len(lost) >= 10, answers
    try:
        repeated = settled(hosts, SECOND, token, keys, hold=True)
        assert {status for status, _ in repeated} == {201}, repeated
        known = {key: said["job_id"] for key, (_, said) in zip(keys, repeated, strict=True)}
        assert {key: known[key] for key in told} == told
        there = names(hosts)
        assert {key: there[key] for key in keys} == dict.fromkeys(keys, 1)
        assert len(set(known.values())) == len(keys), known
    finally:
        hosts.start(FIRST)
    status, job = hosts.ask(FIRST, "GET", f"/v1/jobs/{known[lost[0]]}", token)
    assert (status, job["state"]) == (200, "PENDING"), job
    hosts.sandbox.run("head", ["scancel", "--user=alice"])


def test_in_the_background_a_ticket_is_renewed_once(hosts: Hosts) -> None:
    """Would have caught: four processes with a session open ask the KDC for four tickets; a host that goes on with the
    old one."""
    made = hosts.login(SECOND, "bob")
    session_id = made["session_id"]
    looks = [request(host, "GET", "/v1/ticket", made["token"]) for host in HOSTS * 5]
    before = hosts.ask_all(looks, at_once=10)
    sql = f"SELECT generation FROM hipercow_api.session WHERE session_id = '{session_id}'"
    eventually("it was renewed twice", lambda: int(hosts.sql(sql)) >= 2, within_s=60)
    for _ in range(5):  # it may be renewed once more just while we look
        made_so_far = int(hosts.sql(sql))
        answers = hosts.ask_all(looks, at_once=10)
        lines = [line for host in HOSTS for line in hosts.log(host).splitlines()]
        if int(hosts.sql(sql)) == made_so_far:
            break
    ends = {said["session"]["valid_until"] for _, said in answers}
    renewed = [line for line in lines if "event=session.renewed" in line and session_id in line]
    assert len(renewed) == made_so_far, renewed
    assert len(ends) == 1 and min(ends) > max(said["session"]["valid_until"] for _, said in before), (before, answers)
