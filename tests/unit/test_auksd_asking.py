"""Many renewals at once: turns under the rate cap, several in one thread, what one that hangs does to the others."""

import asyncio
import os
import threading
import time

import pytest
from test_auksd_renewer import by, due, put, running, until

from hipercow_slurm.auksd import asking
from hipercow_slurm.auksd.asking import Asking
from hipercow_slurm.auksd.pacing import TOGETHER, Pacing
from hipercow_slurm.errors import InternalError, UnavailableError
from hipercow_slurm.store.base import Entry
from hipercow_slurm.store.envelope import Keys
from hipercow_slurm.store.recent import Opened
from hipercow_slurm.store.sqlite import SqliteStore
from hipercow_slurm.values import KrbCred, TicketTimes


class Kdc:
    """Renews at once, but for clients that it lets hang until ``go``."""

    def __init__(self, *hanging):
        self.hanging = set(hanging)
        self.go = threading.Event()
        self.calls = []

    def __call__(self, cred):
        self.calls.append(cred.client)
        if cred.client in self.hanging:
            assert self.go.wait(30), "nobody let it go on"
        now = int(time.time())
        return KrbCred(cred.der, cred.client, TicketTimes(now, now + 1000, cred.times.renew_till))


class Broken:
    """A record that does not open."""

    entry = Entry.of(9, due("broken@R"))

    def open(self):
        raise InternalError("it does not decrypt", code="store-corrupt")


def sealed(client, uid=7):
    cred = due(client)
    return Opened(Entry.of(uid, cred), cred)


@pytest.fixture
async def store(tmp_path):
    store = SqliteStore(tmp_path / "creds.db", Keys(b"k" * 32))
    yield store
    await store.close()


async def taken(asked, count):
    found = []
    async with asyncio.timeout(10):
        while len(found) < count:
            found += await asked.answers()
    return [(one.entry.principal, answer) for one, answer in found]


@pytest.mark.parametrize(("rate", "most"), [(50.0, 1), (400.0, 4), (1e6, TOGETHER)])
async def test_so_many_begin_together_as_may_begin_in_a_moment(rate, most):
    pacing = Pacing(2, rate)
    for uid in range(200):
        pacing.put(uid)
    assert await pacing.turn() == list(range(most))


async def test_nobody_takes_it_all_while_others_have_nothing():
    pacing = Pacing(4, 1e6)
    for uid in range(8):
        pacing.put(uid)
    turns = [await pacing.turn() for _ in range(4)]
    assert [len(turn) for turn in turns] == [3, 2, 1, 1], turns


async def test_turns_of_several_keep_to_the_rate_too():
    pacing, began, turns = Pacing(1, 400.0), time.monotonic(), []
    for uid in range(41):
        pacing.put(uid)
    while len(turns) < 41:
        turns += await pacing.turn()
    assert turns == list(range(41))
    assert 36 / 400 <= time.monotonic() - began < 5, "the last of 41 begins when 36 or more intervals are over"


async def test_what_is_given_back_comes_first():
    pacing = Pacing(1, 1e6)
    for uid in range(2 * TOGETHER):
        pacing.put(uid)
    first = await pacing.turn()
    pacing.put_back(first[1:])
    assert await pacing.turn() == [*range(1, TOGETHER), TOGETHER]


async def test_what_came_before_a_hang_is_known_and_what_comes_after_is_given_back(monkeypatch):
    monkeypatch.setattr(asking, "SLOW_S", 0.1)
    kdc, back = Kdc("b@R"), []
    asked = Asking(by(kdc), 1)
    task = asyncio.create_task(asked.ask([sealed(name) for name in ("a@R", "b@R", "c@R", "d@R")], back.extend))
    assert [name for name, _ in await taken(asked, 1)] == ["a@R"]
    await until(lambda: back)
    assert [one.entry.principal for one in back] == ["c@R", "d@R"]
    assert not task.done(), "one thread is at work"
    kdc.go.set()
    await task
    assert [name for name, _ in await taken(asked, 1)] == ["b@R"]
    assert kdc.calls == ["a@R", "b@R"]
    asked.stop()


async def test_one_that_fails_is_an_answer_and_the_others_go_on():
    def renew(cred):
        if cred.client == "a@R":
            raise UnavailableError("KDC unreachable", code="kdc-unreachable")
        return cred

    asked = Asking(by(renew), 1)
    await asked.ask([sealed("a@R"), Broken(), sealed("c@R")], pytest.fail)
    answers = dict(await taken(asked, 3))
    assert {name: getattr(answer, "code", "renewed") for name, answer in answers.items()} == {
        "a@R": "kdc-unreachable",
        "broken@R": "store-corrupt",
        "c@R": "renewed",
    }
    asked.stop()


async def test_a_kdc_that_hangs_for_some_does_not_keep_the_others(store, monkeypatch):
    """Three of four threads hang, each with others behind it; all others are renewed and stored meanwhile."""
    monkeypatch.setattr(asking, "SLOW_S", 0.1)
    names = [f"u{uid}@R" for uid in range(200)]
    kdc = Kdc("u0@R", "u70@R", "u150@R")
    for uid, name in enumerate(names):
        await put(store, uid, due(name))
    async with running(store, kdc, threads=4) as renewer:
        await until(lambda: len(renewer._busy) == 3, 20)
        assert sorted(kdc.calls) == sorted(names)
        ends = {entry.uid: entry.times.endtime for entry in await store.entries()}
        late = [uid for uid, end in ends.items() if end < time.time() + 900]
        assert late == [0, 70, 150]
        kdc.go.set()
        await until(lambda: not renewer._busy, 20)
    assert sorted(kdc.calls) == sorted(names), "each once"


@pytest.mark.parametrize("error", [UnavailableError("disk full", code="store-full"), RuntimeError("a bug")])
async def test_what_could_not_be_stored_is_renewed_again(store, monkeypatch, capsys, error):
    kdc, put_all, failed = Kdc(), store.put_all, []

    async def fails_once(creds, rule):
        if not failed:
            failed.append(sorted(creds))
            raise error
        return await put_all(creds, rule)

    monkeypatch.setattr(store, "put_all", fails_once)
    for uid in range(5):
        await put(store, uid, due(f"u{uid}@R"))
    async with running(store, kdc) as renewer:
        await until(lambda: failed and not renewer._busy and not renewer._due_since, 20)
    ends = [entry.times.endtime for entry in await store.entries()]
    assert min(ends) > time.time() + 900, ends
    assert set(failed[0]) == {int(name[1]) for name in kdc.calls if kdc.calls.count(name) == 2}, (failed, kdc.calls)


async def test_answers_that_come_together_are_stored_together(store, monkeypatch):
    kdc, put_all, groups = Kdc(), store.put_all, []

    async def counted(creds, rule):
        groups.append(len(creds))
        return await put_all(creds, rule)

    monkeypatch.setattr(store, "put_all", counted)
    for uid in range(300):
        await put(store, uid, due(f"u{uid}@R"))
    async with running(store, kdc) as renewer:
        await until(lambda: sum(groups) == 300 and not renewer._busy, 20)
    assert len(groups) < 100, f"one transaction for many: {groups}"


async def test_what_nobody_asked_for_is_not_remembered_but_what_is_remembered_is_the_new_one(store):
    for uid in range(3):
        await put(store, uid, due(f"u{uid}@R"))
    store._recent.clear()
    assert store.get_now(1) is not None
    fresh = {uid: due(f"u{uid}@R", left=5000) for uid in range(3)}
    assert len(await store.get_all([0, 1, 2, 99])) == 3
    await store.put_all(fresh, lambda old, new: True)
    assert len(store._recent) == 1
    assert store.get_now(1).open() is fresh[1]
    assert store.get_now(0).entry.times == fresh[0].times


async def test_its_threads_take_the_cpu_from_nobody_who_works():
    """Would have caught: threads that push aside whatever runs, a user's request or the KDC, with each answer."""
    policies = []

    def renew(cred):
        policies.append(os.sched_getscheduler(0))
        return cred

    asked = Asking(by(renew), 2)
    await asked.ask([sealed("alice@R")], lambda rest: None)
    await taken(asked, 1)
    asked.stop()
    assert policies == [os.SCHED_BATCH] and os.sched_getscheduler(0) == os.SCHED_OTHER
