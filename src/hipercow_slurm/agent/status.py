"""What the agent says of itself: one line of JSON for ``status``."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from hipercow_slurm.agent.jobs import Job, state
from hipercow_slurm.agent.keeper import Keeper
from hipercow_slurm.agent.source import HostTicket


class Status:
    """Composes the answer; times are seconds since 1970, null if there is none."""

    def __init__(self, keeper: Keeper, host: HostTicket) -> None:
        self._keeper = keeper
        self._host = host
        self._started = int(time.time())

    def line(self, uid: int | None) -> bytes:
        """For root (None) everything, for a user their own jobs: ``{"policy", "principal", "jobs": [...]}``."""
        now = time.time()
        jobs = [self._job(job, now) for job in self._keeper.jobs if uid is None or job.uid == uid]
        document: dict[str, Any] = {
            "policy": self._keeper.config.policy,
            "principal": self._host.principal,
            "jobs": sorted(jobs, key=lambda job: job["job_id"]),
        }
        if uid is None:
            document |= {"started": self._started, "host_ticket_until": self._host.endtime}
        return msgspec.json.encode(document) + b"\n"

    def _job(self, job: Job, now: float) -> dict[str, Any]:
        owner = self._keeper.jobs.owner(job.uid)
        problem = job.problem or (owner.problem if owner else None)
        times = job.ticket.times if job.ticket else None
        return {
            "job_id": job.job_id,
            "uid": job.uid,
            "ccache": job.ccache,
            "state": state(job, now),
            "principal": job.ticket.client if job.ticket else None,
            "valid_until": times.endtime if times else None,
            "renewable_until": (times.renew_till or None) if times else None,
            "problem": {"code": problem.code, "sentence": problem.sentence} if problem else None,
            "next_question": int(owner.next_question) if owner and not owner.asking else None,
        }
