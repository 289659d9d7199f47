"""Which jobs a list shows, page by page; and what is said of a job that waits for a ticket or has no limit."""

import codecs
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_api_tickets import GOOD, NOW, job

from hipercow_slurm.api.follow import Text
from hipercow_slurm.api.job_list import Wanted, page, wanted
from hipercow_slurm.api.jobs import shown, waits_for_ticket
from hipercow_slurm.api.partitions import default_limit
from hipercow_slurm.api.tickets import Filed
from hipercow_slurm.errors import RequestError
from hipercow_slurm.slurm.model import Partition

MARKER = "hipercow-slurm: no ticket"


def test_a_query_is_read():
    found = wanted(
        [("state", "running, pending"), ("state", "FAILED"), ("name", "a*"), ("limit", "5"), ("cursor", "7")]
    )
    assert found == Wanted(frozenset({"RUNNING", "PENDING", "FAILED"}), name="a*", limit=5, after=7)
    assert wanted([("since", "2026-03-01T02:00:00+00:00")]).since == NOW
    assert wanted([("since", "2026-03-01T02:00:00 00:00")]).since == NOW, "a plus sign that was not quoted"
    assert wanted([("since", str(NOW))]).since == NOW


@pytest.mark.parametrize(
    "pair",
    [
        ("colour", "red"),
        ("state", "a;b"),
        ("limit", "0"),
        ("limit", "x"),
        ("limit", "99999999999"),
        ("limit", "\u0665"),
        ("cursor", "-1"),
        ("since", "yesterday"),
        ("forgotten", "maybe"),
    ],
)
def test_a_query_that_means_nothing_is_refused(pair):
    with pytest.raises(RequestError):
        wanted([pair])


@given(st.lists(st.integers(1, 10_000), unique=True, max_size=60), st.integers(1, 20))
def test_the_pages_together_are_the_whole_list_once(ids, limit):
    jobs = [job(job_id=number) for number in ids]
    seen, after = [], 0
    for _ in range(len(ids) + 1):
        chosen, cursor = page(jobs, Wanted(limit=limit, after=after))
        seen += [one.job_id for one in chosen]
        if cursor is None:
            break
        after = int(cursor)
    assert seen == sorted(ids)


@pytest.mark.parametrize(
    ("given_", "waits"),
    [
        ({"reason": "JobHeldUser", "remark": f"{MARKER} on c1"}, True),
        ({"reason": "JobHeldAdmin", "comment": f"hipercow-slurm:00 {MARKER}"}, True),
        ({"reason": "JobHeldUser", "remark": "held for maintenance"}, False),
        ({"reason": "Resources", "remark": MARKER}, False),
        ({"reason": None, "remark": MARKER, "state": "RUNNING"}, False),
        ({"reason": "JobHeldUser"}, False),
    ],
)
def test_a_job_that_waits_for_a_ticket_is_told_from_one_that_is_held(given_, waits):
    one = job(**given_)
    assert waits_for_ticket(one, MARKER) is waits
    answer = shown(one, Filed(GOOD), NOW, waits=waits)
    assert answer.held_for_ticket is waits and ("put back" in answer.credential.sentence) is waits
    assert not waits_for_ticket(one, ""), "no marker marks nothing"


def partition(name, *, default=None, most=None, is_default=False):
    return Partition(
        name=name, state="UP", nodes=(), total_cpus=1, total_nodes=1, max_time_min=most, default_time_min=default,
        max_nodes_per_job=None, max_memory_per_node_mb=None, is_default=is_default,
    )  # fmt: skip


def test_the_limit_of_a_job_without_one():
    parts = [partition("a", default=5, most=60, is_default=True), partition("b", most=120), partition("c")]
    assert default_limit(parts, None) == 5
    assert default_limit(parts, "b") == 120
    assert default_limit(parts, "a,b") == 120, "whichever it starts in"
    assert default_limit(parts, "b,c") is None and default_limit(parts, "nosuch") is None


@given(st.binary(max_size=200), st.lists(st.integers(1, 30), max_size=20))
def test_text_in_pieces_is_the_text_and_each_id_is_a_place_to_go_on(data, cuts):
    text, events = Text(0, exact=False), []
    rest = data
    for cut in cuts:
        events += text.take(rest[:cut])
        rest = rest[cut:]
    events += [*text.take(rest), *text.rest()]
    told, at = "", 0
    for event in events:
        fields = dict(line.split(": ", 1) for line in event.decode().strip().split("\n"))
        content = json.loads(fields["data"])
        assert content["offset"] == at
        told, at = told + content["text"], int(fields["id"])
    assert told == codecs.decode(data, "utf-8", "replace") and (at == len(data) or not data)
