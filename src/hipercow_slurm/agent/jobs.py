"""Which job on this node has which ticket, and when to ask the cache again. Pure: no I/O, the time is an argument.

A job's ticket:

    start            installed                 endtime passes
    -----> missing ------------> ok ... expiring -----------> expired
              ^                   |  ^______________________________|  a newer ticket is installed
              |___________________|
                 its file is gone

Rule 1: the cache is asked per uid, never per job: one answer serves all jobs of that uid.
Rule 2: a ticket is replaced only by one that keeps the job going longer (``better``): a stale replica of the cache,
or a login with a shorter ticket, takes nothing away.
Rule 3: whatever happens, the next question is at most ``poll_s`` away, and before half of what the ticket still
has to live: waiting halves itself as the end comes near, down to ``FLOOR_S``.

Times are seconds since 1970. Waits are shortened at random by up to a quarter, the first one by up to three, so that
the nodes of one large job spread out: they start together, and a fresh ticket is not fetched by all of them at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from hipercow_slurm.values import TicketTimes

FLOOR_S = 1.0
FIRST_RETRY_S = 0.5
CHECKS = 2

State = Literal["ok", "expiring", "expired", "missing"]


@dataclass(frozen=True, slots=True)
class Ticket:
    """What is known of a ticket once its secrets are in a ccache: whose, and how long."""

    client: str
    times: TicketTimes


@dataclass(frozen=True, slots=True)
class Problem:
    """Why there is no (new) ticket. ``passing``: it may be gone in a second (an unreachable server); otherwise
    somebody has to do something first (log in, change a rule)."""

    code: str
    sentence: str
    passing: bool


@dataclass(slots=True)
class Job:
    """One job on this node.

    Attributes:
        ccache: full name of its ccache.
        started: when we first heard of it.
        ticket: what its ccache holds; None if nothing.
        problem: why the last attempt to write the ccache failed; None if it did not.
        unseen: in how many checks in a row the job had no process here.
        spared_until: no check counts before: between its prolog and its first step a job has no process.
    """

    job_id: int
    uid: int
    gid: int
    ccache: str
    started: int
    ticket: Ticket | None = None
    problem: Problem | None = None
    unseen: int = 0
    spared_until: float = 0.0


@dataclass(slots=True)
class Owner:
    """What we know about the tickets of one uid with jobs here.

    Attributes:
        next_question: when to ask the cache again; meaningless while ``asking``.
        failures: passing problems in a row; they set the pace of trying again.
        problem: what was wrong with the last answer.
        answered: when the cache last gave an answer that trying again at once would not change.
    """

    next_question: float
    asking: bool = False
    failures: int = 0
    problem: Problem | None = None
    answered: float = 0.0


def better(new: Ticket, old: Ticket | None) -> bool:
    """Rule 2. A different principal counts as better: the account's owner has changed."""
    if old is None or new.client != old.client:
        return True
    return (new.times.endtime, new.times.starttime) > (old.times.endtime, old.times.starttime)


def state(job: Job, now: float) -> State:
    """``expiring`` means: less than a quarter of its life is left, so a replacement is late."""
    if job.ticket is None:
        return "missing"
    times = job.ticket.times
    left = times.endtime - now
    if left <= 0:
        return "expired"
    return "expiring" if left < (times.endtime - times.starttime) / 4 else "ok"


class Jobs:
    """All jobs of the node.

    Args:
        poll_s: see rule 3.
        chance: random numbers in [0, 1).
    """

    def __init__(self, *, poll_s: float, chance: Callable[[], float]) -> None:
        self._poll_s = poll_s
        self._chance = chance
        self._jobs: dict[int, Job] = {}
        self._owners: dict[int, Owner] = {}

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._jobs.values()))

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, job_id: int) -> Job | None:
        return self._jobs.get(job_id)

    def of(self, uid: int) -> list[Job]:
        return [job for job in self._jobs.values() if job.uid == uid]

    def owner(self, uid: int) -> Owner | None:
        return self._owners.get(uid)

    def start(self, job: Job, now: float) -> Job:
        """Take on ``job``, or find the one with its id; either way the cache is asked now.

        The caller has ended a job of the same id and another uid before.
        """
        known = self._jobs.setdefault(job.job_id, job)
        assert known.uid == job.uid, "the caller ends the old job first"
        known.unseen = 0
        known.spared_until = job.spared_until
        self.want(job.uid, now)
        return known

    def want(self, uid: int, now: float) -> None:
        """Ask for ``uid`` now, whatever was planned."""
        owner = self._owners.setdefault(uid, Owner(next_question=now))
        owner.next_question = min(owner.next_question, now)

    def restore(self, job: Job, now: float) -> None:
        """Take over a job of an earlier life of the agent; the questions are spread over the first seconds."""
        self._jobs[job.job_id] = job
        left = job.ticket.times.endtime - now if job.ticket else 0.0
        soon = now + min(5.0, max(0.0, left) / 4) * self._chance()
        owner = self._owners.setdefault(job.uid, Owner(next_question=soon))
        owner.next_question = min(owner.next_question, soon)

    def end(self, job_id: int) -> Job | None:
        """Forget the job (None: not known), and its owner with the last one."""
        job = self._jobs.pop(job_id, None)
        if job is not None and not self.of(job.uid):
            del self._owners[job.uid]
        return job

    def due(self, now: float) -> list[int]:
        """Uids to ask for now; each is marked as being asked until ``planned``.

        A plan further away than rule 3 allows was made before somebody set the clock back: it is due too.
        """
        uids = [
            uid
            for uid, owner in self._owners.items()
            if not owner.asking and not now < owner.next_question <= now + self._poll_s
        ]
        for uid in uids:
            self._owners[uid].asking = True
        return uids

    def wake_at(self) -> float | None:
        """When ``due`` will have something; None: nothing is planned."""
        return min((owner.next_question for owner in self._owners.values() if not owner.asking), default=None)

    def answer(self, uid: int, found: Ticket | None, now: float) -> tuple[list[Job], Problem | None]:
        """The cache answered for ``uid``: the jobs whose ccache must be written, or what is wrong with the answer."""
        if found is None:
            return [], Problem("no-ticket", f"the cache gives no ticket for uid {uid}; log in again", passing=False)
        if found.times.endtime <= now:
            sentence = f"the cache's ticket of {found.client} has expired; log in again"
            return [], Problem("expired", sentence, passing=False)
        return [job for job in self.of(uid) if better(found, job.ticket)], None

    def to_renew(self, uid: int, now: float) -> Job | None:
        """While the cache cannot be asked: the job with the ticket to renew at the KDC ourselves, if it is time.

        Not before half of its life is over: until then the cache may well be back.
        """
        held = [(job.ticket.times, job) for job in self.of(uid) if job.ticket is not None]
        times, job = max(held, key=lambda one: one[0].endtime, default=(None, None))
        if times is None or not now < times.endtime < times.renew_till:
            return None
        return job if times.endtime - now < (times.endtime - times.starttime) / 2 else None

    def planned(self, uid: int, problem: Problem | None, now: float) -> None:
        """The question for ``uid`` is over, with or without a problem, its tickets are installed: plan the next one."""
        owner = self._owners.get(uid)
        if owner is None:
            return
        owner.asking = False
        owner.problem = problem
        wait, shorter = self._poll_s, 0.25 if owner.answered else 0.75
        if problem is not None and problem.passing:
            owner.failures += 1
            wait = min(wait, FIRST_RETRY_S * 2 ** min(owner.failures - 1, 20))
        else:
            owner.failures = 0
            owner.answered = now
        ends = [job.ticket.times.endtime for job in self.of(uid) if job.ticket and job.ticket.times.endtime > now]
        if ends:
            wait = min(wait, max(FLOOR_S, (min(ends) - now) / 2))
        owner.next_question = now + wait * (1 - self._chance() * shorter)

    def problem(self, job: Job, now: float) -> Problem | None:
        """None if the job has a good ticket; otherwise why not."""
        has = state(job, now)
        if has in ("ok", "expiring"):
            return None
        owner = self.owner(job.uid)
        why = job.problem or (owner.problem if owner else None)
        if has == "expired" and job.ticket is not None:
            then = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(job.ticket.times.endtime))
            more = f"; {why.sentence}" if why else ""
            return Problem("expired", f"its ticket expired at {then}{more}", passing=why.passing if why else True)
        return why or Problem("cache-unreachable", "the cache has not answered yet", passing=True)

    def unseen(self, live: set[int], now: float) -> list[Job]:
        """One check of which jobs have processes here; the jobs to end because ``CHECKS`` checks missed them."""
        for job in self._jobs.values():
            job.unseen = 0 if job.job_id in live or now < job.spared_until else job.unseen + 1
        return [job for job in self._jobs.values() if job.unseen >= CHECKS]
