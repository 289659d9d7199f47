"""What logins do for jobs that wait for a ticket, as far as it can be seen without Slurm."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from hipercow_slurm.api.job_actions import JobActions


class CountingJobs:
    """Lists no jobs, slowly, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def mine(self, session: Any) -> list[Any]:
        self.asked += 1
        await asyncio.sleep(0.05)
        return []


async def test_a_burst_of_logins_lists_the_jobs_twice() -> None:
    """300 logins at once made slurmrestd list all jobs 300 times; the last login is still answered by a later look."""
    jobs = CountingJobs()
    actions = JobActions(SimpleNamespace(held_marker=""), jobs, None, None, None, None)  # type: ignore[arg-type]
    session = SimpleNamespace(principal="alice@EXAMPLE.ORG")
    await asyncio.gather(*(actions.release_waiting(session) for _ in range(300)))  # type: ignore[arg-type]
    assert jobs.asked == 2, f"{jobs.asked} listings for one burst"
    await actions.release_waiting(session)  # type: ignore[arg-type]
    assert jobs.asked == 3, "a login after the burst must look again"
