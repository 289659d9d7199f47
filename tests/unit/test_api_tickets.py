"""What a user is told about ticket and job, and when a ticket is filed again. Pure decisions, no clock."""

import re
import time

import pytest

from hipercow_slurm.api import submissions_db
from hipercow_slurm.api.jobs import ends_by
from hipercow_slurm.api.session import last_good, nearly_over, renewal_due
from hipercow_slurm.api.submitting import fate_of, find
from hipercow_slurm.api.tickets import Filed, credential, worse
from hipercow_slurm.slurm.model import Job
from hipercow_slurm.values import TicketTimes

NOW = 1_772_330_400
GOOD = TicketTimes(NOW - 100, NOW + 3600, NOW + 86400)


def job(**given) -> Job:
    values = {
        "job_id": 7, "name": "n", "user": "alice", "uid": 5001, "partition": "main", "state": "PENDING",
        "reason": None, "exit_code": None, "signal": None, "nodes": (), "node_count": 1, "submit_time": NOW,
        "start_time": None, "end_time": None, "latest_end": None, "time_limit_min": 10,
        "working_directory": "/home/alice", "output": "/o", "error": "/o",
    }  # fmt: skip
    return Job(**{**values, **given})


@pytest.mark.parametrize(
    ("filed", "ends", "over", "state", "covers", "words"),
    [
        (Filed(GOOD), NOW + 600, False, "ok", True, "ends by 2026-03-01T02:10:00Z"),
        (Filed(GOOD), NOW + 86400, False, "ok", True, "at the latest"),
        (Filed(GOOD), NOW + 86401, False, "expiring", False, "log in again before then"),
        (Filed(GOOD), None, False, "ok", None, "not known"),
        (Filed(TicketTimes(NOW - 9, NOW + 60, 0)), NOW + 50, False, "expiring", True, "ends by"),
        (Filed(TicketTimes(NOW - 9, NOW + 3600, 0)), NOW + 3601, False, "expiring", False, "2026-03-01T03:00:00Z"),
        (Filed(TicketTimes(NOW - 99, NOW - 1, NOW + 86400)), NOW + 60, False, "expired", False, "log in again"),
        (Filed(None), NOW + 60, False, "missing", False, "log in again"),
        (Filed(None, known=False), NOW + 60, False, "unknown", None, "does not answer"),
        (Filed(GOOD), None, True, "ok", None, "has ended"),
        (Filed(None), None, True, "missing", None, "has ended"),
        (Filed(TicketTimes(NOW - 9, NOW + 60, 0)), None, True, "ok", None, "has ended"),
    ],
)
def test_the_outlook(filed, ends, over, state, covers, words):
    found = credential(filed, ends_by=ends, over=over, now=NOW)
    assert (found.state, found.covers_job) == (state, covers), found
    assert words in found.sentence, found.sentence
    assert (found.valid_until is None) == (filed.times is None)


@pytest.mark.parametrize(
    ("found", "latest"),
    [
        (job(), NOW + 600),
        (job(state="RUNNING", start_time=NOW - 60, latest_end=NOW + 540), NOW + 540),
        (job(state="RUNNING", start_time=NOW - 60), NOW + 540),
        (job(time_limit_min=None), None),
    ],
)
def test_the_latest_end_of_a_job(found, latest):
    assert ends_by(found, NOW) == latest


@pytest.mark.parametrize(
    ("filed", "is_worse"),
    [
        (GOOD, False),
        (TicketTimes(NOW - 9, NOW + 60, GOOD.renew_till), False),  # the cache renewed, later or earlier than we did
        (TicketTimes(NOW - 99, NOW, GOOD.renew_till + 9), True),
        (TicketTimes(NOW, NOW + 9999, GOOD.renew_till - 1), True),
        (TicketTimes(NOW, NOW + 9999, 0), True),
        (TicketTimes(NOW, NOW + 60, GOOD.renew_till + 1), False),
    ],
)
def test_when_to_file_again(filed, is_worse):
    assert worse(filed, GOOD, NOW) is is_worse


def test_a_ticket_that_cannot_be_renewed_is_judged_by_its_end():
    ours = TicketTimes(NOW, NOW + 100, 0)
    assert worse(TicketTimes(NOW, NOW + 99, 0), ours, NOW)
    assert not worse(TicketTimes(NOW, NOW + 101, 0), ours, NOW)


def test_renewal_is_due_at_half_life_a_little_spread():
    times = TicketTimes(1000, 1060, 3000)
    due = [at for at in range(990, 1070) if renewal_due(times, at, spread=0.0)]
    assert (due[0], due[-1]) == (1030, 1059), "not before half its life, and never after its end"
    early = [at for at in range(990, 1070) if renewal_due(times, at, spread=1.0)]
    assert early[0] == 1024
    assert not renewal_due(TicketTimes(1000, 1060, 1060), 1050, spread=0.0), "renewing would gain nothing"
    assert not renewal_due(TicketTimes(1000, 1060, 0), 1050, spread=0.0), "not renewable"
    assert next(at for at in range(990, 1070) if nearly_over(times, at)) == 1046
    assert last_good(times) == 3000 and last_good(TicketTimes(0, 1060, 0)) == 1060


@pytest.mark.parametrize(
    ("age", "fate"),
    [(0, "wait"), (20, "wait"), (21, "ask-again"), (299, "ask-again"), (300, "unknown"), (9e9, "unknown")],
)
def test_the_fate_of_a_lost_attempt(age, fate):
    assert fate_of(age, settled_s=20, min_job_age_s=300) == fate


def test_finding_a_job_by_its_marker():
    ours = "hipercow-slurm:00ff"
    jobs = [
        job(job_id=1),
        job(job_id=2, comment="hipercow-slurm:00ff0 request=x"),
        job(job_id=3, comment="my note hipercow-slurm:00ff"),
        job(job_id=9, comment=f"{ours} request=x note", array_job_id=8, array_task_id=1),
        job(job_id=8, comment=f"{ours} request=x note", array_job_id=8, array_task_id=0),
    ]
    assert find(jobs, ours) == 8, "of an array, the array"
    assert find(jobs[:3], ours) is None, "only a whole marker at the beginning counts"


def test_markers_are_unlike_and_sort_by_when_they_were_made():
    """Neighbours in the index share its pages: with random ones a submission wrote a quarter more."""
    early = {submissions_db.new_marker() for _ in range(5000)}
    begin = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 == begin:
        pass
    late = {submissions_db.new_marker() for _ in range(5000)}
    assert len(early | late) == 10_000
    assert max(early) < min(late)
    assert all(re.fullmatch("[0-9a-f]{24}", marker) for marker in early), early
