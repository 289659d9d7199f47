"""What the API's database promises, on SQLite and PostgreSQL alike; a class of tests for each, with its own fixture.

The fixture ``database`` gives one, ``another`` makes a second one on the same rows, as another process would.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from hipercow_slurm.api import conversations, last_view, sessions_db, submissions_db, throttle_db
from hipercow_slurm.api.sessions_db import SessionRecord
from hipercow_slurm.api.submissions_db import Submission
from hipercow_slurm.errors import RequestError, UnavailableError
from hipercow_slurm.krb5.krbcred import Ticket
from hipercow_slurm.slurm.model import Node


def record(session_id="s1", principal="alice@R", expires_at=1000, token_hash=None) -> SessionRecord:
    return SessionRecord(
        session_id, token_hash or session_id.encode(), principal, "alice", 5001, "192.0.2.1", 10, expires_at, b"sealed"
    )


def node(name: str) -> Node:
    return Node(
        name=name, state="IDLE", flags=("CLOUD",), partitions=("main",), cpus=4, cpus_allocated=1, memory_mb=15_800,
        memory_allocated_mb=0, cpu_load=None, features="", gres="", gres_used="", reason=None,
    )  # fmt: skip


def submission(marker="m1", key: str | None = "k", principal="alice@R", digest=b"d") -> Submission:
    return Submission(marker, principal, key, digest, 100, 5001, "request-1", "/home/alice", "/o", "/e")


class DatabaseContract:
    """Would have caught: SQL that one of them reads otherwise, a lost row count, a group that fails as a whole."""

    async def test_failure_leaves_the_rest_of_its_group_alone(self, database):
        async def broken(transaction):
            await transaction.change("DELETE FROM session")
            raise ValueError("half way")

        await database.run(sessions_db.add(record("keep")))
        results = await asyncio.gather(
            database.run(sessions_db.add(record("s2"))),
            database.run(broken),
            database.run(sessions_db.add(record("s3")), durable=False),
            return_exceptions=True,
        )
        assert results[0] is None and results[2] is None, results
        assert isinstance(results[1], ValueError)
        with pytest.raises(UnavailableError) as caught:
            await database.run(sessions_db.add(record("s2")))  # the same id again
        assert caught.value.code == "database-failed"
        rows = await database.run(sessions_db.of_principal("alice@R", 0))
        assert {row.session_id for row in rows} == {"keep", "s2", "s3"}

    async def test_what_one_process_saw_of_the_cluster_another_one_tells(self, database, another):
        """Would have caught: strangers who get 503 from the one of two processes that nobody logged in at."""
        other = await another()
        assert await other.run(last_view.since(0)) is None
        early, late = last_view.Seen([], []), last_view.Seen([], [node("c1")])
        await database.run(last_view.keep(early, 100), durable=False)
        assert await other.run(last_view.since(100)) == (100, early)
        await other.run(last_view.keep(late, 110), durable=False)
        await database.run(last_view.keep(early, 105), durable=False)
        assert await database.run(last_view.since(110)) == (110, late), "an older look replaced a newer one"
        assert await database.run(last_view.since(111)) is None, "older than what may be told"

    async def test_sessions(self, database):
        await database.run(sessions_db.add(record("a1")))
        await database.run(sessions_db.add(record("a2", expires_at=500)))
        await database.run(sessions_db.add(record("b1", principal="bob@R")))
        assert [row.session_id for row in await database.run(sessions_db.of_principal("alice@R", 600))] == ["a1"]
        assert await database.run(sessions_db.by_token(b"a1")) == record("a1")
        assert await database.run(sessions_db.by_token(b"zz")) is None
        assert not await database.run(sessions_db.revoke("bob@R", "a1")), "bob ended alice's session"
        assert await database.run(sessions_db.revoke("alice@R", "a1"))
        assert await database.run(sessions_db.by_token(b"a1")) is None
        assert await database.run(sessions_db.reseal("a1", b"new", 9)) is None, "a revoked session came back"
        assert await database.run(sessions_db.reseal("b1", b"new", 9)) == 1
        assert await database.run(sessions_db.drop_expired(500)) == 2

    async def test_one_of_all_processes_renews_a_ticket(self, database, another):
        """Would have caught: each process asks the KDC, and what came last is kept, be it a ticket that ends sooner."""
        other = await another()
        await database.run(sessions_db.add(record("a1")))
        claims = [one.run(sessions_db.claim("a1", 0, 60)) for _ in range(10) for one in (database, other)]
        assert (await asyncio.gather(*claims)).count(True) == 1
        assert await database.run(sessions_db.reseal("a1", b"renewed", 2000, generation=0)) == 1
        assert not await other.run(sessions_db.claim("a1", 0, 60)), "that ticket is not there any more"
        assert await other.run(sessions_db.claim("a1", 1, 60)), "a kept ticket is nobody's claim"
        assert not await database.run(sessions_db.claim("a1", 1, 60))
        await other.run(sessions_db.let_go("a1", 1, 60))
        assert not await database.run(sessions_db.claim("a1", 1, 60)), "not before the pause is over"
        await other.run(sessions_db.let_go("a1", 1, 0))
        assert await database.run(sessions_db.claim("a1", 1, 60)), "whoever comes first may try"
        assert await other.run(sessions_db.reseal("a1", b"logged in again", 3000)) == 2
        assert await database.run(sessions_db.reseal("a1", b"renewed", 2000, generation=1)) is None
        found = await database.look(sessions_db.by_token(b"a1"))
        assert (found.sealed, found.expires_at, found.generation) == (b"logged in again", 3000, 2)
        assert await other.look(sessions_db.generation_of(b"a1")) == 2

    async def test_what_another_process_did_is_seen_at_once(self, database, another):
        """Would have caught: a session that goes on for seconds where it was not revoked."""
        other = await another()
        hashes = [f"a{n}".encode() for n in range(600)]
        assert await database.run(sessions_db.still(hashes)) == set()
        for number in range(20):
            session_id = f"a{number}"
            await database.run(sessions_db.add(record(session_id)))
            assert (await other.look(sessions_db.by_token(session_id.encode()))).session_id == session_id
            assert await other.look(sessions_db.generation_of(session_id.encode())) == 0
            assert await other.run(sessions_db.still(hashes)) == {session_id.encode()}
            assert await database.run(sessions_db.revoke("alice@R", session_id))
            assert await other.look(sessions_db.by_token(session_id.encode())) is None
            assert await other.look(sessions_db.generation_of(session_id.encode())) is None

    async def test_of_too_many_sessions_the_oldest_go(self, database):
        await asyncio.gather(*(database.run(sessions_db.add(record(f"a{n:03}"))) for n in range(103)))
        await database.run(sessions_db.add(record("b", principal="bob@R")))
        await database.run(sessions_db.add(record("a103")))
        rows = {row.session_id for row in await database.run(sessions_db.of_principal("alice@R", 0))}
        assert len(rows) == 100 and {"a102", "a103"} <= rows and not rows & {"a000", "a001", "a002"}, sorted(rows)
        assert await database.run(sessions_db.by_token(b"b"))

    async def test_a_key_is_reserved_once_per_principal(self, database):
        begun = int(time.time())
        first, _ = await database.run(submissions_db.reserve(submission("m1")))
        again, age_s = await database.run(submissions_db.reserve(submission("m2", digest=b"other")))
        bobs, _ = await database.run(submissions_db.reserve(submission("m3", principal="bob@R")))
        keyless = [(await database.run(submissions_db.reserve(submission(m, key=None))))[0] for m in ("m4", "m5")]
        assert begun <= first.attempted_at == again.attempted_at <= time.time() and 0 <= age_s < 60
        assert (first.marker, again.marker, bobs.marker) == ("m1", "m1", "m3")
        assert [row.marker for row in keyless] == ["m4", "m5"]
        assert again.digest == b"d", "the filed digest must be kept, to refuse the key for another job"

    async def test_submission_life(self, database):
        await database.run(submissions_db.reserve(submission("m1")))
        await database.run(submissions_db.refused("m1"))
        row, _ = await database.run(submissions_db.reserve(submission("m2")))
        assert row.marker == "m2", "a refused submission must free its key"
        await database.run(submissions_db.answered("m2", 77))
        await database.run(submissions_db.refused("m2"))
        found = await database.run(submissions_db.of_jobs("alice@R", [77, 78]))
        assert found[77].marker == "m2" and list(found) == [77]
        assert await database.run(submissions_db.of_jobs("bob@R", [77])) == {}
        await database.run(submissions_db.ended("alice@R", 77, b"{}"))
        assert [row.seen for row in await database.run(submissions_db.of_principal("alice@R", 10))] == [b"{}"]
        await database.run(submissions_db.reopened("alice@R", 77))
        assert (await database.run(submissions_db.of_jobs("alice@R", [77])))[77].seen is None
        assert await database.run(submissions_db.drop_old(row.attempted_at + 1)) == 1

    async def test_what_nobody_waits_for_is_there_at_the_end(self, database, another):
        """Would have caught: notes that are dropped when the program stops."""
        for number in range(1, 200):
            row = Submission(f"m{number}", "alice@R", None, b"d", 1, 5001, "r", "/", "/o", "/e", number)
            database.tell(submissions_db.record(row), "a note")
        await database.close()
        other = await another()
        rows = await other.run(submissions_db.of_principal("alice@R", 500))
        assert {row.job_id for row in rows} == set(range(1, 200))

    async def test_two_processes_share_it(self, database, another):
        """A key reserved through one is known to the other, also when both ask at the same moment."""
        other = await another()
        rows = await asyncio.gather(
            *(one.run(submissions_db.reserve(submission(f"m{n}"))) for n in range(10) for one in (database, other))
        )
        assert len({row.marker for row, _ in rows}) == 1, rows

    async def test_a_lost_attempt_is_made_again_by_one_process(self, database, another):
        """Would have caught: two hosts that both find the first attempt settled and lost make a job each."""
        other = await another()
        await database.run(submissions_db.reserve(submission("m1")))
        await database.run(lambda transaction: transaction.change("UPDATE submission SET attempted_at = 50"))
        lost, age_s = await database.run(submissions_db.reserve(submission("m2")))
        assert lost.attempted_at == 50 and age_s > 1_000_000
        made = await asyncio.gather(
            *(one.run(submissions_db.attempt(lost)) for _ in range(5) for one in (database, other))
        )
        (row,) = [one for one in made if one is not None]
        assert row.marker == "m1" and abs(row.attempted_at - time.time()) < 60
        await database.run(submissions_db.answered("m1", 77))
        assert await other.run(submissions_db.attempt(row)) is None, "the job is known"

    async def test_guesses_through_several_processes_are_counted_together(self, database, another):
        """Would have caught: a bucket for each process, so that a guesser gets as many times the guesses."""
        other = await another()
        rules = (throttle_db.Rule("net n", 20, 10.0), throttle_db.Rule("user alice", 5, 60.0, quiet=True))
        acts = (one.run(throttle_db.take(rules, 1000.0), durable=False) for _ in range(10) for one in (database, other))
        taken = await asyncio.gather(*acts)
        assert [one.wait_s for one in taken].count(0.0) == 5, taken
        assert {one.undecided for one in taken if one.wait_s} == {True}
        for one in (database, other):
            await one.run(throttle_db.settle(rules, "failed", 1000.0), durable=False)
        left = await database.run(throttle_db.take(rules[:1], 1000.0))
        assert left.wait_s == 0, "the address has tokens"
        await other.run(throttle_db.settle(rules, "succeeded", 1000.0, fill=rules[1:]), durable=False)
        assert (await database.run(throttle_db.take(rules, 1000.0))).wait_s == 0
        await database.run(throttle_db.know("alice@R", "n", 1000.0))
        assert await other.run(throttle_db.is_known("alice@R", "n"))
        assert await database.run(throttle_db.clean(5000.0, 300.0)) == 2

    async def test_any_process_goes_on_with_a_conversation(self, database, another):
        other = await another()
        ticket = Ticket("alice@R", "kadmin/changepw@R", 18, b"key", 0, 1, 1, 900, 0, b"ticket", ((2, b"1234"),))
        begun = await conversations.Conversations(database).begin("alice@R", ticket)
        there = conversations.Conversations(other)
        for tried in (True, False, True, True, False, True, True):  # five, and two whom the KDC did not answer
            found = await there.take(begun, 800.0)
            assert (found.principal, found.ticket.key, found.ticket.addresses) == ("alice@R", b"key", ((2, b"1234"),))
            with pytest.raises(RequestError):  # somebody goes on with it already
                await conversations.Conversations(database).take(begun, 800.0)
            await there.give_back(begun, tried=tried)
        for conversation, now in ((begun, 800.0), (begun, 901.0), ("x" * 43, 800.0), ("", 800.0)):
            with pytest.raises(RequestError) as caught:
                await there.take(conversation, now)
            assert caught.value.code == "no-such-conversation"
        assert await database.run(conversations.drop_expired(901)) == 1
