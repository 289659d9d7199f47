"""The keeper on real files with a source of tickets that the test plays (the real one is in tests/kdc)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import stat
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hipercow_slurm.agent import keeper as keeper_module
from hipercow_slurm.agent.config import AgentConfig
from hipercow_slurm.agent.jobs import state
from hipercow_slurm.agent.keeper import Keeper
from hipercow_slurm.agent.state import BOOT_ID, State
from hipercow_slurm.errors import AccessError, Error, UnavailableError
from hipercow_slurm.krb5 import krbcred
from hipercow_slurm.values import KrbCred

ALICE, BOB = 5001, 5002


def credential(life_s: float = 600, *, client: str = "alice@REALM.TEST", key: bytes = b"k" * 32) -> KrbCred:
    now = int(time.time())
    end = int(time.time() + life_s)
    return krbcred.build(
        [krbcred.Ticket(client, "krbtgt/REALM.TEST@REALM.TEST", 18, key, 0x40800000, now, now, end, end, TICKET)]
    )


def _ticket_der() -> bytes:
    """The smallest Ticket for krbtgt/REALM.TEST@REALM.TEST: its encrypted part is four octets of nothing."""

    def tlv(tag: int, *parts: bytes) -> bytes:
        body = b"".join(parts)
        return bytes([tag, len(body)]) + body

    number = lambda n: tlv(0x02, bytes([n]))  # noqa: E731
    text = lambda s: tlv(0x1B, s.encode())  # noqa: E731
    names = tlv(0xA1, tlv(0x30, text("krbtgt"), text("REALM.TEST")))
    sname = tlv(0xA2, tlv(0x30, tlv(0xA0, number(2)), names))
    encrypted = tlv(0xA3, tlv(0x30, tlv(0xA0, number(18)), tlv(0xA2, tlv(0x04, b"\0\0\0\0"))))
    return tlv(0x61, tlv(0x30, tlv(0xA0, number(5)), tlv(0xA1, text("REALM.TEST")), sname, encrypted))


TICKET = _ticket_der()


@dataclass
class PlayedSource:
    """Gives what the test put there; ``asked`` counts questions per uid; ``gate`` holds answers back."""

    tickets: dict[int, KrbCred | Error] = field(default_factory=dict)
    asked: list[int] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def get(self, uid: int) -> KrbCred | None:
        self.asked.append(uid)
        await self.gate.wait()
        found = self.tickets.get(uid)
        if isinstance(found, Error):
            raise found
        return found


@dataclass
class Node:
    keeper: Keeper
    source: PlayedSource
    tmp: Path
    live: set[int]

    def path(self, job_id: int, uid: int = ALICE) -> Path:
        return self.tmp / f"krb5cc_{uid}_{job_id}"

    def names(self) -> list[str]:
        return sorted(entry.name for entry in self.tmp.iterdir())


class Nodes:
    """Starts and kills agents on one node's files; a kill is without any clean-up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tmp = folder / "tmp"
        self.tmp.mkdir()
        self.tmp.chmod(0o1777)
        self.live: set[int] = set()
        self.at_slurmctld: set[int] = set()
        self._running: list[tuple[Keeper, asyncio.Task[None], State]] = []

    async def agent(self, source: PlayedSource | None = None, **settings: object) -> Node:
        source = source or PlayedSource()
        source.gate.set()
        config = AgentConfig(
            **{"ccache": f"{self.tmp}/krb5cc_%u_%j", "answer_s": 1.0, "poll_s": 0.4, "sweep_s": 30.0} | settings  # type: ignore[arg-type]
        )
        disk = State(self.folder / "state")
        keeper = Keeper(config, source, disk, live_jobs=lambda: set(self.live), still_runs=self._still_runs)
        await keeper.take_over()
        self._running.append((keeper, asyncio.create_task(keeper.run()), disk))
        return Node(keeper, source, self.tmp, self.live)

    async def _still_runs(self, job_id: int) -> bool:
        return job_id in self.at_slurmctld

    async def kill(self) -> None:
        for _, task, disk in self._running:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            disk.close()
        self._running.clear()


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    found = Nodes(tmp_path)
    yield found
    await found.kill()


async def until(what: str, check: Callable[[], object], within_s: float = 3.0) -> None:
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.01)


async def test_start_installs_for_the_user_alone(nodes: Nodes) -> None:
    node = await nodes.agent()
    node.source.tickets[ALICE] = credential()
    job, problem = await node.keeper.start(42, ALICE, ALICE)
    assert problem is None and job.ccache == f"FILE:{node.path(42)}"
    found = node.path(42).lstat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (ALICE, ALICE, 0o600)
    assert node.path(42).read_bytes()[:2] == b"\x05\x04"
    assert node.names() == ["krb5cc_5001_42"]


async def test_fresh_login_reaches_all_jobs_with_one_question_a_poll(nodes: Nodes) -> None:
    node = await nodes.agent()
    node.source.tickets[ALICE] = credential(600)
    for job_id in (1, 2, 3):
        await node.keeper.start(job_id, ALICE, ALICE)
    asked = len(node.source.asked)
    await asyncio.sleep(1.0)
    polls = len(node.source.asked) - asked
    assert 1 <= polls <= 4, f"{polls} questions for 3 jobs of one user in 2.5 polls"
    before = {job_id: node.path(job_id).read_bytes() for job_id in (1, 2, 3)}
    node.source.tickets[ALICE] = credential(1200, key=b"n" * 32)
    await until("all replaced", lambda: all(node.path(n).read_bytes() != before[n] for n in before))
    assert all(b"n" * 32 in node.path(n).read_bytes() for n in before)


async def test_no_ticket_then_login(nodes: Nodes) -> None:
    node = await nodes.agent(answer_s=30.0)
    started = time.monotonic()
    _, problem = await node.keeper.start(42, ALICE, ALICE)
    assert problem is not None and problem.code == "no-ticket" and "log in" in problem.sentence
    assert time.monotonic() - started < 15, "waiting could not have helped"
    node.source.tickets[ALICE] = credential()
    await until("installed late", node.path(42).exists)
    assert (await node.keeper.ccache(42, ALICE, None))[1] is None


async def test_cache_down_waits_at_most_the_answer_time_and_comes_late(nodes: Nodes) -> None:
    node = await nodes.agent()
    node.source.tickets[ALICE] = UnavailableError("cache is down", code="cache-unreachable")
    started = time.monotonic()
    _, problem = await node.keeper.start(42, ALICE, ALICE)
    took = time.monotonic() - started
    assert problem is not None and problem.code == "cache-unreachable" and 0.9 < took < 10, took
    started = time.monotonic()
    _, problem = await node.keeper.ccache(42, ALICE, None)
    assert problem is not None and time.monotonic() - started < 0.9, "each step waited for a cache that is down"
    node.source.tickets[ALICE] = credential()
    await until("installed late", node.path(42).exists)


async def test_cache_that_is_back_within_the_answer_time_is_not_noticed(nodes: Nodes) -> None:
    node = await nodes.agent()
    node.source.tickets[ALICE] = UnavailableError("cache is down", code="cache-unreachable")
    asyncio.get_running_loop().call_later(0.3, node.source.tickets.__setitem__, ALICE, credential())
    assert (await node.keeper.start(42, ALICE, ALICE))[1] is None


async def test_source_that_hangs_answers_in_time(nodes: Nodes) -> None:
    node = await nodes.agent()
    node.source.gate.clear()
    started = time.monotonic()
    _, problem = await node.keeper.start(42, ALICE, ALICE)
    assert problem is not None and time.monotonic() - started < 10
    node.source.tickets[ALICE] = credential()
    node.source.gate.set()
    await until("installed late", node.path(42).exists)


async def test_refusal_is_passed_on_at_once(nodes: Nodes) -> None:
    node = await nodes.agent(answer_s=30.0)
    node.source.tickets[ALICE] = AccessError("this host may not get tickets", code="role-denied")
    started = time.monotonic()
    _, problem = await node.keeper.start(42, ALICE, ALICE)
    assert problem is not None and problem.code == "role-denied" and time.monotonic() - started < 15


async def test_bug_in_the_source_does_not_end_refreshing(nodes: Nodes) -> None:
    node = await nodes.agent()
    node.source.tickets[ALICE] = "not a credential"  # type: ignore[assignment]
    _, problem = await node.keeper.start(42, ALICE, ALICE)
    assert problem is not None and problem.code == "bug"
    node.source.tickets[ALICE] = credential()
    await until("installed after all", node.path(42).exists)


async def test_end_removes_only_that_job(nodes: Nodes) -> None:
    node = await nodes.agent()
    node.source.tickets |= {ALICE: credential(), BOB: credential(client="bob@REALM.TEST")}
    await node.keeper.start(1, ALICE, ALICE)
    await node.keeper.start(2, ALICE, ALICE)
    await node.keeper.start(3, BOB, BOB)
    await node.keeper.end(1, ALICE)
    assert node.names() == ["krb5cc_5001_2", "krb5cc_5002_3"]
    await node.keeper.end(3, ALICE)
    assert node.path(3, BOB).exists(), "ended by the wrong owner"
    await node.keeper.end(2, None)
    await node.keeper.end(3, None)
    await node.keeper.end(99, None)
    assert node.names() == [] and len(node.keeper.jobs) == 0
    assert [p.name for p in (nodes.folder / "state").iterdir()] == ["lock"]


async def test_end_during_an_open_question_leaves_nothing(nodes: Nodes) -> None:
    node = await nodes.agent(answer_s=0.2)
    node.source.gate.clear()
    await node.keeper.start(42, ALICE, ALICE)
    await node.keeper.end(42, ALICE)
    node.source.tickets[ALICE] = credential()
    node.source.gate.set()
    await asyncio.sleep(0.3)
    assert node.names() == [], "the ticket came after the end"


async def test_end_while_the_file_is_being_written_leaves_nothing(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the moment between the decision to write and the rename."""
    node = await nodes.agent()
    node.source.tickets[ALICE] = credential()
    real = keeper_module.install.write

    def slow(*args: object, **named: object) -> object:
        time.sleep(0.15)
        return real(*args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(keeper_module.install, "write", slow)
    for pause in (0.0, 0.02, 0.1, 0.2):
        starting = asyncio.create_task(node.keeper.start(42, ALICE, ALICE))
        await asyncio.sleep(pause)
        await node.keeper.end(42, ALICE)
        with contextlib.suppress(Exception):
            await starting
        await node.keeper.end(42, ALICE)
        assert node.names() == [], f"left after an end at {pause} s"


async def test_start_twice_and_end_of_requeue(nodes: Nodes) -> None:
    node = await nodes.agent()
    node.source.tickets[ALICE] = credential()
    first, again = await asyncio.gather(*(node.keeper.start(42, ALICE, ALICE) for _ in range(2)))
    assert first[0] is again[0] and node.names() == ["krb5cc_5001_42"]
    await node.keeper.end(42, ALICE)
    await node.keeper.start(42, ALICE, ALICE)
    assert node.path(42).exists()


async def test_job_id_used_again_by_another_user(nodes: Nodes) -> None:
    node = await nodes.agent()
    node.source.tickets |= {ALICE: credential(), BOB: credential(client="bob@REALM.TEST")}
    await node.keeper.start(42, ALICE, ALICE)
    await node.keeper.start(42, BOB, BOB)
    assert node.names() == ["krb5cc_5002_42"], "the first user's ticket stayed"


async def test_file_that_somebody_removed_comes_back(nodes: Nodes) -> None:
    """A cleaner of old files in /tmp, or a kdestroy in the job's script."""
    node = await nodes.agent()
    node.source.tickets[ALICE] = credential()
    await node.keeper.start(42, ALICE, ALICE)
    node.path(42).unlink()
    await until("back after a poll", node.path(42).exists)
    node.path(42).unlink()
    assert (await node.keeper.ccache(42, ALICE, None))[1] is None and node.path(42).exists()


async def test_expired_is_said(nodes: Nodes) -> None:
    node = await nodes.agent()
    node.source.tickets[ALICE] = credential(1.2)
    job, problem = await node.keeper.start(42, ALICE, ALICE)
    assert problem is None
    await until("expired", lambda: state(job, time.time()) == "expired")
    _, problem = await node.keeper.ccache(42, ALICE, None)
    assert problem is not None and problem.code == "expired" and "expired at 2" in problem.sentence, problem


async def test_killed_and_restarted_goes_on(nodes: Nodes) -> None:
    node = await nodes.agent()
    node.source.tickets[ALICE] = credential(600)
    nodes.live |= {42}
    await node.keeper.start(42, ALICE, ALICE)
    before = node.path(42).read_bytes()
    await nodes.kill()
    (nodes.tmp / ".hipercow-slurm-0011223344556677").write_text("killed while writing this")
    source = PlayedSource({ALICE: credential(1200, key=b"n" * 32)})
    node = await nodes.agent(source)
    assert node.names() == ["krb5cc_5001_42"], "half a ticket was left"
    await until("replaced by the second agent", lambda: node.path(42).read_bytes() != before)
    job = node.keeper.jobs.get(42)
    assert job is not None and job.ticket is not None and job.ticket.client == "alice@REALM.TEST"


async def test_restart_with_the_cache_down_remembers_the_ticket(nodes: Nodes) -> None:
    node = await nodes.agent()
    node.source.tickets[ALICE] = credential(600)
    nodes.live |= {42}
    await node.keeper.start(42, ALICE, ALICE)
    await nodes.kill()
    node = await nodes.agent(PlayedSource({ALICE: UnavailableError("down", code="cache-unreachable")}))
    started = time.monotonic()
    job, problem = await node.keeper.ccache(42, ALICE, None)
    assert problem is None and state(job, time.time()) == "ok" and time.monotonic() - started < 0.3


async def test_job_that_ended_while_no_agent_ran_is_cleaned_up(nodes: Nodes) -> None:
    node = await nodes.agent()
    node.source.tickets[ALICE] = credential()
    await node.keeper.start(1, ALICE, ALICE)
    await node.keeper.start(2, ALICE, ALICE)
    await nodes.kill()
    nodes.live |= {2}
    node = await nodes.agent(node.source, sweep_s=0.2)
    await until("the dead job's ticket gone", lambda: node.names() == ["krb5cc_5001_2"])
    assert node.keeper.jobs.get(1) is None and node.keeper.jobs.get(2) is not None


async def test_swept_job_comes_back_with_its_next_step(nodes: Nodes) -> None:
    """An allocation in which nothing runs for a while (salloc) looks like a job that is gone."""
    node = await nodes.agent(sweep_s=0.2)
    node.source.tickets[ALICE] = credential()
    await node.keeper.start(42, ALICE, ALICE)
    await until("swept", lambda: node.names() == [])
    _, problem = await node.keeper.ccache(42, ALICE, ALICE)
    assert problem is None and node.path(42).exists()


async def test_after_a_reboot_everything_goes(nodes: Nodes) -> None:
    node = await nodes.agent()
    node.source.tickets[ALICE] = credential()
    nodes.live |= {42}
    await node.keeper.start(42, ALICE, ALICE)
    await nodes.kill()
    record = nodes.folder / "state" / "42.json"
    boot = BOOT_ID.read_text().strip()
    record.write_text(record.read_text().replace(boot, "00000000-0000-0000-0000-000000000000"))
    node = await nodes.agent(node.source)
    assert node.names() == [] and not record.exists() and len(node.keeper.jobs) == 0


async def test_state_holds_no_secret_and_is_roots(nodes: Nodes) -> None:
    node = await nodes.agent()
    node.source.tickets[ALICE] = credential(key=b"SESSIONKEY-SESSIONKEY-SESSIONKEY")
    await node.keeper.start(42, ALICE, ALICE)
    record = nodes.folder / "state" / "42.json"
    assert b"SESSIONKEY" in node.path(42).read_bytes() and b"SESSIONKEY" not in record.read_bytes()
    assert stat.S_IMODE(record.stat().st_mode) == 0o600 and stat.S_IMODE(record.parent.stat().st_mode) == 0o700


async def test_unreadable_state_is_kept_and_others_go_on(nodes: Nodes) -> None:
    node = await nodes.agent()
    node.source.tickets[ALICE] = credential()
    nodes.live |= {42}
    await node.keeper.start(42, ALICE, ALICE)
    await nodes.kill()
    (nodes.folder / "state" / "41.json").write_text('{"job_id": ')
    node = await nodes.agent(node.source)
    assert node.keeper.jobs.get(42) is not None and (nodes.folder / "state" / "41.json").exists()


async def test_records_of_the_first_builds_are_read(nodes: Nodes) -> None:
    """They have ``path`` where newer ones have ``ccache``: an upgrade must lose no running job, and clean up after a
    reboot."""
    (nodes.folder / "state").mkdir()
    for job_id, boot in ((42, BOOT_ID.read_text().strip()), (43, "of another time")):
        node_path = nodes.tmp / f"krb5cc_{ALICE}_{job_id}"
        node_path.write_text("a ticket")
        record = {"job_id": job_id, "uid": ALICE, "gid": ALICE, "path": str(node_path), "started": 1, "boot": boot}
        (nodes.folder / "state" / f"{job_id}.json").write_text(json.dumps(record))
    nodes.live |= {42}
    node = await nodes.agent()
    job = node.keeper.jobs.get(42)
    assert job is not None and job.ccache == f"FILE:{node.path(42)}"
    assert node.names() == ["krb5cc_5001_42"], "the ticket of the job before the reboot is still there"
    node.source.tickets[ALICE] = credential()
    _, problem = await node.keeper.start(42, ALICE, ALICE)
    assert problem is None and '"ccache"' in (nodes.folder / "state" / "42.json").read_text()


@pytest.mark.parametrize("names", ["", '"ccache": "KCM:1:2", "path": "/tmp/x", '])
async def test_a_record_that_names_no_ccache_is_left_alone(nodes: Nodes, names: str) -> None:
    (nodes.folder / "state").mkdir()
    record = nodes.folder / "state" / "42.json"
    record.write_text(f'{{{names}"job_id": 42, "uid": 5001, "gid": 5001, "started": 1, "boot": "x"}}')
    node = await nodes.agent()
    assert record.exists() and not len(node.keeper.jobs)


async def test_blocked_place_is_tried_again(nodes: Nodes) -> None:
    node = await nodes.agent()
    node.source.tickets[ALICE] = credential()
    nodes.tmp.chmod(0o777)
    _, problem = await node.keeper.start(42, ALICE, ALICE)
    assert problem is not None and problem.code == "ccache-blocked" and node.names() == []
    nodes.tmp.chmod(0o1777)
    await until("installed once the place is safe", node.path(42).exists)
    job = node.keeper.jobs.get(42)
    assert job is not None and job.problem is None


async def test_launch_storm(nodes: Nodes) -> None:
    """200 jobs of 10 users at once, 300 steps of one of them: few questions, nobody waits too long."""
    node = await nodes.agent(poll_s=30.0, answer_s=20.0)
    for uid in range(6000, 6010):
        node.source.tickets[uid] = credential(client=f"u{uid}@REALM.TEST")
    answers = await asyncio.gather(*(node.keeper.start(n, 6000 + n % 10, 100) for n in range(200)))
    assert all(problem is None for _, problem in answers) and len(node.names()) == 200
    assert len(node.source.asked) <= 60, f"{len(node.source.asked)} questions for 10 users"
    asked = len(node.source.asked)
    answers = await asyncio.gather(*(node.keeper.ccache(10, 6000, 100) for _ in range(300)))
    assert all(problem is None for _, problem in answers)
    assert len(node.source.asked) - asked <= 10, "steps with a good ticket asked the cache"


async def test_allocation_without_a_step_keeps_its_ticket(nodes: Nodes) -> None:
    """salloc, and nothing runs in it at the moment; then slurmctld does not know it any more."""
    node = await nodes.agent(sweep_s=0.1)
    nodes.at_slurmctld.add(42)
    node.source.tickets[ALICE] = credential()
    await node.keeper.start(42, ALICE, ALICE)
    await asyncio.sleep(0.8)
    assert node.names() == ["krb5cc_5001_42"]
    nodes.at_slurmctld.clear()
    await until("it is ended", lambda: node.names() == [])


async def test_the_default_ccache_is_one_of_the_users_jobs(nodes: Nodes) -> None:
    """Through a restart, the end of the linked job, a job that nobody knows, and a reboot; gone with the last."""
    link = nodes.tmp / f"krb5cc_{ALICE}"
    settings = {"default_ccache": f"{nodes.tmp}/krb5cc_%u"}
    node = await nodes.agent(**settings)
    node.source.tickets[ALICE] = credential()
    for job_id in (42, 43):
        await node.keeper.start(job_id, ALICE, ALICE)
    assert link.readlink() == node.path(42)
    await nodes.kill()
    assert link.read_bytes() == node.path(42).read_bytes()
    node = await nodes.agent(node.source, **settings)
    await node.keeper.end(42, ALICE)
    assert link.readlink() == node.path(43) and link.exists()
    link.unlink()
    await until("a link that somebody removed is back", link.is_symlink)
    await node.keeper.end(43, ALICE)
    assert node.names() == []
    link.symlink_to(node.path(44))
    await node.keeper.end(44, ALICE)
    assert node.names() == [], "the link of a job that only Slurm knew of stayed"


async def test_a_ccache_of_zeros_is_made_anew(nodes: Nodes) -> None:
    """kdestroy without a KRB5CCNAME follows the link to the job's file before it removes the link."""
    node = await nodes.agent()
    node.source.tickets[ALICE] = credential()
    await node.keeper.start(42, ALICE, ALICE)
    whole = node.path(42).read_bytes()
    node.path(42).write_bytes(bytes(len(whole)))
    await until("the ticket is back", lambda: node.path(42).read_bytes() == whole)
