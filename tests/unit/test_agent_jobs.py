"""Decisions of the agent: no clock, no files, the time is an argument."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable

import pytest

from hipercow_slurm.agent.jobs import FLOOR_S, Job, Jobs, Problem, Ticket, better, state
from hipercow_slurm.values import TicketTimes

UID = 5001
DOWN = Problem("kdc-unreachable", "the cache is down", passing=True)
REFUSED = Problem("role-denied", "this host may not", passing=False)


def ticket(start: int, end: int, *, till: int = 100_000, client: str = "alice@R") -> Ticket:
    return Ticket(client, TicketTimes(start, end, till))


def job(job_id: int = 42, uid: int = UID, *, started: int = 0, held: Ticket | None = None) -> Job:
    return Job(job_id, uid, uid, f"FILE:/tmp/krb5cc_{uid}_{job_id}", started, held)


def table(*, poll_s: float = 30, chance: Callable[[], float] = lambda: 0.0) -> Jobs:
    return Jobs(poll_s=poll_s, chance=chance)


def next_wait(jobs: Jobs, now: float) -> float:
    planned = jobs.wake_at()
    assert planned is not None
    return planned - now


def ask(jobs: Jobs, now: float, found: Ticket | None, *, uid: int = UID) -> list[int]:
    """One whole round as the keeper does it; the ids of the jobs that got ``found``."""
    assert uid in jobs.due(now), "nothing was due"
    due, problem = jobs.answer(uid, found, now)
    for one in due:
        one.ticket = found
    jobs.planned(uid, problem, now)
    return [one.job_id for one in due]


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        (ticket(0, 60), None, True),
        (ticket(30, 90), ticket(0, 60), True),
        (ticket(0, 60), ticket(0, 60), False),
        (ticket(0, 60), ticket(30, 90), False),  # a replica of the cache that lags behind
        (ticket(30, 50), ticket(0, 60), False),  # a fresh login with a shorter ticket
        (ticket(30, 60), ticket(0, 60), True),  # renewed at its last possible moment
        (ticket(0, 10, client="al@R"), ticket(0, 60), True),
    ],
)
def test_better(new: Ticket, old: Ticket | None, expected: bool) -> None:
    assert better(new, old) is expected


def test_states() -> None:
    held = ticket(0, 100)
    assert [state(job(held=held), now) for now in (0, 74, 76, 99, 100, 101)] == [
        "ok", "ok", "expiring", "expiring", "expired", "expired",
    ]  # fmt: skip
    assert state(job(), 0) == "missing"


def test_nothing_to_do_plans_nothing() -> None:
    jobs = table()
    assert jobs.due(1e9) == [] and jobs.wake_at() is None


def test_one_question_serves_all_jobs_of_a_uid() -> None:
    jobs = table()
    for number in (1, 2, 3):
        jobs.start(job(number), 0)
    jobs.start(job(9, 5002), 0)
    assert jobs.due(0) == [UID, 5002]
    assert jobs.due(0) == [], "asked twice at the same time"
    due, problem = jobs.answer(UID, ticket(0, 60), 0)
    assert ([one.job_id for one in due], problem) == ([1, 2, 3], None)


def test_start_twice_is_one_job_and_asks_again() -> None:
    jobs = table()
    first = jobs.start(job(started=5), 5)
    ask(jobs, 5, ticket(0, 600))
    again = jobs.start(job(started=99), 99)
    assert again is first and again.ticket is not None and again.started == 5
    assert jobs.due(99) == [UID], "a requeued job must not wait for the next poll"


def test_slow_poll_when_the_ticket_is_long() -> None:
    jobs = table()
    jobs.start(job(), 0)
    ask(jobs, 0, ticket(0, 36_000))
    assert next_wait(jobs, 0) == 30


def test_waiting_halves_towards_the_end_and_never_sleeps_past_it() -> None:
    """A 60-s ticket that the cache renews late: asked at half of what is left each time, at least FLOOR_S apart."""
    jobs = table()
    jobs.start(job(), 0)
    now, waits = 0.0, []
    ask(jobs, now, ticket(0, 60))
    while now < 59:
        waits.append(next_wait(jobs, now))
        now += waits[-1]
        ask(jobs, now, ticket(0, 60))
    assert waits[:5] == [30, 15, 7.5, 3.75, 1.875], waits
    assert min(waits) == FLOOR_S and now < 60
    assert ask(jobs, now + next_wait(jobs, now), ticket(30, 90)) == [42], "the renewed ticket was not taken"


def test_the_shortest_ticket_of_a_uid_sets_the_pace() -> None:
    jobs = table(poll_s=1000)
    jobs.restore(job(1, held=ticket(0, 100)), 0)
    jobs.restore(job(2, held=ticket(0, 900)), 0)
    ask(jobs, 0, ticket(0, 50))
    assert next_wait(jobs, 0) == 50


def test_jitter_only_shortens_and_most_of_all_the_first_wait() -> None:
    for chance, first, second in ((0.0, 30.0, 30.0), (0.999, 7.5, 22.5)):
        jobs = table(chance=lambda chance=chance: chance)
        jobs.start(job(), 0)
        ask(jobs, 1, ticket(0, 36_000))
        assert next_wait(jobs, 1) == pytest.approx(first, abs=0.03)
        ask(jobs, 1 + first + 1, ticket(0, 36_000))
        assert next_wait(jobs, 1 + first + 1) == pytest.approx(second, abs=0.03)


def test_backoff_while_the_cache_is_down_and_reset_after() -> None:
    jobs = table()
    jobs.start(job(), 0)
    now, waits = 0.0, []
    for _ in range(9):
        jobs.due(now)
        jobs.planned(UID, DOWN, now)
        waits.append(next_wait(jobs, now))
        now += waits[-1]
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    ask(jobs, now, ticket(0, 36_000))
    jobs.due(now + 30)
    jobs.planned(UID, DOWN, now + 30)
    assert next_wait(jobs, now + 30) == 0.5, "the failures before the success still count"


def test_down_for_long_does_not_overflow() -> None:
    jobs = table()
    jobs.start(job(), 0)
    for now in range(3000):
        jobs.want(UID, now)
        jobs.due(now)
        jobs.planned(UID, DOWN, now)
    assert next_wait(jobs, 2999) == 30


def test_backoff_is_shorter_than_what_the_ticket_has_left() -> None:
    jobs = table()
    jobs.restore(job(held=ticket(0, 60)), 40)
    for _ in range(20):
        jobs.want(UID, 40)
        jobs.due(40)
        jobs.planned(UID, DOWN, 40)
    assert next_wait(jobs, 40) == 10


def test_a_refusal_is_not_hammered() -> None:
    jobs = table()
    jobs.start(job(), 0)
    jobs.due(0)
    jobs.planned(UID, REFUSED, 0)
    owner = jobs.owner(UID)
    assert owner is not None and owner.problem is REFUSED and next_wait(jobs, 0) == 30


@pytest.mark.parametrize(("found", "code"), [(None, "no-ticket"), (ticket(0, 60), "expired")])
def test_no_usable_ticket_in_the_cache(found: Ticket | None, code: str) -> None:
    jobs = table()
    jobs.start(job(), 100)
    assert ask(jobs, 100, found) == [], "an expired ticket was installed"
    owner = jobs.owner(UID)
    assert owner is not None and owner.problem is not None and owner.problem.code == code
    assert next_wait(jobs, 100) == 30, "a fresh login must reach the job within a minute"
    assert ask(jobs, 130, ticket(120, 900)) == [42]
    assert owner.problem is None


def test_end_forgets_the_owner_with_the_last_job() -> None:
    jobs = table()
    jobs.start(job(1), 0)
    jobs.start(job(2), 0)
    ended = jobs.end(1)
    assert ended is not None and jobs.owner(UID) is not None and jobs.end(1) is None
    jobs.end(2)
    assert jobs.owner(UID) is None and jobs.wake_at() is None and len(jobs) == 0


def test_job_that_ends_while_its_question_is_open() -> None:
    jobs = table()
    jobs.start(job(), 0)
    jobs.due(0)
    jobs.end(42)
    assert jobs.answer(UID, ticket(0, 60), 1) == ([], None)
    jobs.planned(UID, None, 1)
    assert jobs.wake_at() is None


def test_new_job_of_a_uid_being_asked_for_is_served_by_that_answer() -> None:
    jobs = table()
    jobs.start(job(1), 0)
    jobs.due(0)
    jobs.start(job(2), 0.5)
    due, _ = jobs.answer(UID, ticket(0, 60), 1)
    assert [one.job_id for one in due] == [1, 2]


def test_take_over_spreads_questions_but_not_past_a_short_life() -> None:
    jobs = table(chance=lambda: 0.999)
    jobs.restore(job(1, held=ticket(0, 36_000)), 100)
    jobs.restore(job(2, 5002, held=ticket(0, 108)), 100)
    jobs.restore(job(3, 5003), 100)
    assert jobs.due(100) == [5003], "a job without a ticket waits for nothing"
    assert jobs.due(102) == [5002]
    assert jobs.due(105) == [UID]


def test_unseen_twice_in_a_row_after_the_grace() -> None:
    jobs = table()
    for number, spared_until in ((1, 0), (2, 0), (3, 150)):
        one = job(number)
        one.spared_until = spared_until
        jobs.start(one, 0)
    assert jobs.unseen({2}, 100) == [], "one check is not enough: it may be between two steps"
    assert [one.job_id for one in jobs.unseen({2}, 160)] == [1]
    assert jobs.unseen({1, 3}, 220) == [], "a job that is back counts from the start"
    assert [one.job_id for one in jobs.unseen(set(), 280)] == [2]
    assert [one.job_id for one in jobs.unseen({2}, 340)] == [1, 3]


def test_clock_set_back_by_an_hour() -> None:
    """A node without a battery clock gets its time some seconds after boot."""
    jobs = table()
    jobs.start(job(), 10_000)
    ask(jobs, 10_000, ticket(9_000, 46_000))
    assert jobs.due(10_001) == []
    assert jobs.due(6_400) == [UID], "nothing would be asked for an hour"


def test_renewing_ourselves_is_for_the_second_half_of_a_life() -> None:
    jobs = Jobs(poll_s=30, chance=lambda: 0.0)
    job = jobs.start(Job(1, 5001, 5001, "/x", 0), 0)
    assert jobs.to_renew(5001, 0) is None and jobs.to_renew(7, 0) is None
    job.ticket = Ticket("alice@REALM.TEST", TicketTimes(1000, 1100, 2000))
    assert [jobs.to_renew(5001, now) is job for now in (1049, 1051, 1099, 1100, 1200)] == [
        False,
        True,
        True,
        False,
        False,
    ]
    job.ticket = Ticket("alice@REALM.TEST", TicketTimes(1000, 1100, 1100))
    assert jobs.to_renew(5001, 1060) is None, "its renewable time is over"


def test_a_thousand_nodes_of_one_job_are_no_herd() -> None:
    """They start within half a second; a login at 200 s reaches all of them within poll_s, a few per second."""
    login_at, poll_s, asked, reached = 200.0, 30.0, Counter[int](), {}
    nodes = [Jobs(poll_s=poll_s, chance=random.Random(number).random) for number in range(1000)]
    waiting = []
    for number, node in enumerate(nodes):
        started = number / 2000
        node.start(Job(1, 5001, 5001, "FILE:/x", 0), started)
        waiting.append((started, number))
    heapq.heapify(waiting)
    while waiting[0][0] < 300:
        now, number = heapq.heappop(waiting)
        node = nodes[number]
        if node.due(now):
            asked[int(now)] += 1
            begins = int(login_at) if now >= login_at else 0
            found = Ticket("alice@R", TicketTimes(begins, begins + 36000, 0))
            for job in node.answer(5001, found, now)[0]:
                job.ticket = found
                reached[number] = now
            node.planned(5001, None, now)
        planned = node.wake_at()
        assert planned is not None
        heapq.heappush(waiting, (max(planned, now), number))
    late = [when - login_at for when in reached.values()]
    assert len(reached) == 1000 and min(late) >= 0 and max(late) <= poll_s, (min(late), max(late))
    assert asked[0] == 1000 and max(count for second, count in asked.items() if second) <= 80, asked.most_common(5)
