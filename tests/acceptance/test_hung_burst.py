"""Slurm hangs in the middle of a burst of submissions, for longer than anyone waits for an answer: one job for each."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from typing import Any

import pytest

from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import eventually
from person import URL, Person

pytestmark = pytest.mark.e2e
COUNT = 60  # more than our connections to slurmrestd, and many more than its threads
HANGS_S = 25.0  # longer than our wait for an answer (15 s) and than what a lost attempt takes to settle (20 s)

# Each client repeats its submission, with its own key, until it has a job. A line: the answers each has had.
BURST = """
import asyncio, httpx, json, sys, time
ask = json.load(sys.stdin)

async def client(http, number):
    job = {"script": "#!/bin/sh\\n", "hold": True, "name": f"{ask['name']}-{number}", "working_directory": "/tmp"}
    answers = []
    while time.monotonic() < end:
        answer = await http.post("/v1/jobs", json=job, headers={"Idempotency-Key": job["name"]})
        answers.append(answer.json().get("code") or answer.json()["job_id"])
        if answer.status_code == 201:
            break
        await asyncio.sleep(1)
    return answers

async def main():
    limits = httpx.Limits(max_connections=ask["count"])
    trust = "/etc/hipercow-slurm/ca.pem"
    async with httpx.AsyncClient(base_url=ask["url"], verify=trust, headers=ask["headers"], timeout=90,
                                 trust_env=False, limits=limits) as http:
        print(json.dumps(await asyncio.gather(*(client(http, number) for number in range(ask["count"])))))

end = time.monotonic() + ask["patience_s"]
asyncio.run(main())
"""


@pytest.mark.parametrize("hanging", ["slurmctld", "slurmrestd"])
def test_a_burst_into_a_hanging_slurm_makes_each_job_once(sandbox: Sandbox, hanging: str) -> None:
    """Would have caught: a lost submission that is carried out late, from slurmrestd's queue, and then made again."""
    alice, service, found = Person(sandbox, "alice"), sandbox.service(hanging), []
    assert alice.submit("true\n", hold=True, working_directory="/tmp").status == 201, "all that is asked for once"

    def burst() -> None:
        ask = {"url": URL, "headers": alice.headers, "count": COUNT, "name": f"burst-{hanging}", "patience_s": 90}
        found.append(sandbox.run("laptop", ["hipercow-python", "-c", BURST], user="laptop", input=json.dumps(ask)))

    clients = threading.Thread(target=burst)
    service.pause()
    try:
        clients.start()
        time.sleep(HANGS_S)
    finally:
        service.resume()
        clients.join()
    answers: list[list[Any]] = json.loads(found[0].stdout)
    print(
        f"{hanging} hung for {HANGS_S:g} s:",
        Counter(str([a if isinstance(a, str) else "job" for a in one]) for one in answers),
    )
    jobs = eventually("the queue", lambda: named(sandbox, f"burst-{hanging}-"), within_s=10)
    sandbox.run("head", ["scancel", "--user=alice"])
    told = {f"burst-{hanging}-{number}": one[-1] for number, one in enumerate(answers)}
    assert jobs == {name: [job_id] for name, job_id in told.items()}, {"told": told, "in Slurm": jobs}


def named(sandbox: Sandbox, prefix: str) -> dict[str, list[int]]:
    """Job ids by name."""
    jobs: dict[str, list[int]] = {}
    for line in sandbox.run("head", ["squeue", "-h", "-o", "%i %j"]).stdout.splitlines():
        job_id, name = line.split()
        if name.startswith(prefix):
            jobs.setdefault(name, []).append(int(job_id))
    return jobs
