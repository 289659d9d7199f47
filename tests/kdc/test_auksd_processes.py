"""``processes = 2``: two front processes share the port of one daemon. Whoever serves, the answer is the same."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import time
from functools import partial
from pathlib import Path

import pytest
from auksd_box import ACL, USERS, Auksd, login, uid_of
from auksd_kills import rising, survive_kills
from auksd_site import Site, Talk

from hipercow_slurm.testing.story import eventually
from hipercow_slurm.wire import messages as m
from hipercow_slurm.wire.session import Ended

GAMES, NEWS = uid_of("games"), uid_of("news")
TWO = "processes = 2"
NODES = '[nodes]\nrealm = "REALM.TEST"\ndomains = ["test"]\n'
METRICS = '[metrics]\nlisten = "127.0.0.1:0"\n'


@pytest.fixture(scope="module")
def daemon(folder, tgt):
    with Site(folder / "site", folder, extra=TWO, sections=NODES + METRICS) as made:
        yield made


@pytest.fixture
def site(daemon):
    """The daemon, running, with the usual rules."""
    if daemon.process.poll() is not None:
        daemon.start()
    yield daemon
    assert "Traceback" not in daemon.log and not daemon.lines("auksd.bug"), daemon.log
    daemon.acl(ACL)
    if daemon.process.poll() is None:
        daemon.signal(signal.SIGHUP, "auksd.reloaded")


@contextlib.contextmanager
def frozen(*pids):
    """Stop processes; what comes meanwhile goes to the others."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def one_at_each(site, cred):
    """A connection through each front."""
    with contextlib.ExitStack() as stack:
        first, second = site.fronts()
        talks = []
        for other in (second, first):
            with frozen(other):
                talks.append(stack.enter_context(Talk(site, cred)))
        yield talks


def gone(pids):
    """None of these processes is there any more."""
    return not any(Path(f"/proc/{pid}/exe").exists() for pid in pids)


def test_what_one_process_is_told_all_know_at_once(site, tgt):
    """Would have caught: a front that remembers what was replaced, removed, or taken from its reader."""
    with one_at_each(site, tgt["node"]) as (left, right):
        for number in range(10):
            new = rising(tgt["games"], number + 1)
            assert isinstance(left.ask(m.Add(new.der)), m.AddReply)
            assert right.ask(m.Get(GAMES)).record.data == new.der, "the other one answers what was replaced"
            left, right = right, left
        assert len(right.ask(m.Dump()).records) == 1
        assert isinstance(left.ask(m.Remove(GAMES)), m.RemoveReply)
        assert isinstance(right.ask(m.Get(GAMES)), m.ErrorReply), "it is gone"
        assert isinstance(left.ask(m.Add(tgt["games"].der)), m.AddReply)
        site.acl("\n".join(line for line in ACL.splitlines() if "host/" not in line))
        site.signal(signal.SIGHUP, "auksd.reloaded")
        for talk in (left, right):
            assert isinstance(talk.ask(m.Get(GAMES)), m.ErrorReply), "the role is gone"
            assert isinstance(talk.ask(m.Dump()), m.ErrorReply), "for dumps as well"


def test_numbers_and_health_are_those_of_all(site, tgt):
    """Would have caught: metrics of the one process that answers the scrape, and a dead front that nobody notices."""
    line = 'requests_total{result="ok",role="admin",verb="ping"}'

    def pings():
        found = re.search(re.escape(line) + " ([0-9.]+)", site.web("/metrics")[1])
        return float(found[1]) if found else 0.0

    before = pings()
    with one_at_each(site, tgt["node"]) as talks:
        for talk in talks:
            for _ in range(3):
                assert isinstance(talk.ask(m.Ping()), m.PingReply)
        with socket.create_connection(("127.0.0.1", site.port)):
            wanted = ("connections=3", "connections_proven=2")
            eventually(
                "three connections",
                lambda: all(one in site.signal(signal.SIGUSR2, "auksd.statistics") for one in wanted),
                within_s=10,
                every_s=0.1,
            )
            assert pings() == before + 6, "three through each"
            text = site.web("/metrics")[1]
            assert "hipercow_slurm_auksd_connections 3.0" in text, text
    assert json.loads(site.web("/health")[1])["checks"]["fronts"]["ok"]
    os.kill(site.fronts()[0], signal.SIGKILL)
    eventually("a front is missing", lambda: site.web("/health")[0] == 503, within_s=10, every_s=0.02)
    site.fronts()
    eventually("both serve", lambda: site.web("/health")[0] == 200, within_s=10, every_s=0.1)


async def test_slurmctld_is_asked_once_for_all(site, tgt):
    """Would have caught: an oracle in each process, and with it twice the questions."""
    asked = site.folder / "asked"
    (site.folder / "squeue").write_text(f"echo -n b >> {asked}; sleep 0.2; cat {site.jobs}; echo -n e >> {asked}\n")
    site.acl(ACL.replace("role = admin", "role = node"))
    site.signal(signal.SIGHUP, "auksd.reloaded")
    began = time.monotonic()
    await asyncio.gather(*(site.client(read_s=30.0).get(GAMES, auth=tgt["node"]) for _ in range(60)))
    took = time.monotonic() - began
    refused = site.lines("auksd.request", verb="get", code="no-job-on-node")
    assert len(refused) == 60, site.log[-2000:]
    text = asked.read_text()
    assert re.fullmatch("(be)*b?", text), f"two at once: {text}"
    assert text.count("b") <= took / 0.2 + 2 and text.count("b") < 30, f"{text} in {took:.1f} s for 60 requests"


def test_a_front_that_hangs_is_replaced(site, tgt):
    """Would have caught: a stopped front that keeps its peers, and every second new one, waiting for ever."""
    with one_at_each(site, tgt["node"]) as (left, right):
        first, second = site.fronts()  # left is through the first: the second was frozen when it came
        silent = len(site.lines("auksd.front_silent"))
        os.kill(first, signal.SIGSTOP)
        try:
            found = partial(site.lines, "auksd.front_silent")
            eventually("it is noticed", lambda: len(found()) > silent, within_s=60.0)
            eventually("it is ended", partial(gone, [first]), within_s=60.0)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(first, signal.SIGCONT)
        with contextlib.suppress(ConnectionError):
            assert left.sock.recv(1) == b"", "its peers are told"
        assert isinstance(right.ask(m.Ping()), m.PingReply), "the other one's are not touched"
        now = site.fronts()
        assert second in now and first not in now, (first, second, now)
        with one_at_each(site, tgt["node"]) as talks:
            assert all(isinstance(talk.ask(m.Ping()), m.PingReply) for talk in talks)


async def test_a_killed_front_takes_only_its_own_connections_with_it(site, tgt):
    """Would have caught: a socket per process, whose waiting connections die with it."""
    first, second = site.fronts()
    await site.client().add(tgt["games"])
    with one_at_each(site, tgt["games"]) as (left, right):
        with frozen(first, second):
            waiting = asyncio.gather(*(site.client(read_s=30.0).get(GAMES, auth=tgt["games"]) for _ in range(8)))
            await asyncio.sleep(0.3)  # they are in the queue, nobody takes them
            os.kill(first, signal.SIGKILL)
        assert all(one is not None and one.der == tgt["games"].der for one in await waiting)
        assert isinstance(right.ask(m.Ping()), m.PingReply), "the other front's connection lives on"
        with contextlib.suppress(ConnectionError):
            assert isinstance(left.ask(m.Ping()), Ended), "the dead one's is closed"
    after = site.fronts()
    assert second in after and first not in after, after
    assert site.lines("auksd.front_died"), site.log


@pytest.mark.parametrize("victim", ["front", "owner"])
async def test_kills_lose_no_acknowledged_credential(folder, tgt, victim):
    with Auksd(folder / f"killed-{victim}", folder, extra=TWO, renew="enabled = false") as auksd:
        turn = 0

        def kill_front():
            nonlocal turn
            turn += 1
            os.kill(auksd.fronts()[turn % 2], signal.SIGKILL)

        if victim == "front":
            await survive_kills(auksd, tgt, 3, kill_front, auksd.fronts)
        else:
            await survive_kills(auksd, tgt, 3, auksd.kill, auksd.start)
        fronts = auksd.fronts()
        assert auksd.stop() == 0, auksd.log
        assert gone(fronts)


async def test_term_answers_what_is_asked_and_leaves_no_process(site, tgt, folder):
    """Would have caught: fronts that are killed with their peers' questions, or that outlive the daemon."""
    going = site.folder / "going"
    (site.folder / "squeue").write_text(f"touch {going}; sleep 1; echo 1 games RUNNING node\n")
    site.acl(ACL.replace("role = admin", "role = node"))
    site.signal(signal.SIGHUP, "auksd.reloaded")
    asking = asyncio.create_task(site.client(read_s=30.0).get(GAMES, auth=tgt["node"]))
    await asyncio.to_thread(eventually, "slurmctld is asked", going.exists, within_s=20, every_s=0.02)
    with one_at_each(site, tgt["games"]):
        fronts = site.fronts()
        assert await asyncio.to_thread(site.stop) == 0, site.log
    assert await asking is None, "a refusal is an answer"
    assert site.lines("auksd.request", verb="get"), site.log
    assert gone(fronts)


def test_no_front_outlives_a_killed_owner(site, tgt):
    """Would have caught: a front that keeps the port, and answers nobody, while the new daemon cannot start."""
    with one_at_each(site, tgt["games"]):
        fronts = site.fronts()
        site.kill()
        eventually("the fronts are gone", lambda: gone(fronts), within_s=10, every_s=0.02)
    site.start()
    with Talk(site, tgt["games"]) as talk:
        assert isinstance(talk.ask(m.Ping()), m.PingReply)


async def test_renewals_go_on_whatever_becomes_of_a_front(realm, folder, tgt):
    """The owner of the store asks the KDC itself."""
    renew = "at = 0.15\njitter = 0.03\nmargin_s = 1.0\nretry_max_s = 1.0"
    with Auksd(folder / "renewals", folder, extra=TWO, renew=renew) as auksd:
        old = {}
        for user in USERS:
            cred = login(folder, user, lifetime_s=40, renew_s=600)
            await auksd.client().add(cred, auth=tgt["node"])
            old[user] = cred.times.endtime
        realm.pause()
        try:
            await asyncio.sleep(9)  # all are due after 7.2 s, and wait for the KDC
            os.kill(auksd.fronts()[0], signal.SIGKILL)
        finally:
            realm.resume()
        for user in USERS:
            await asyncio.to_thread(
                eventually, user, partial(auksd.lines, "renew.done", uid=uid_of(user)), within_s=25, every_s=0.05
            )
            cred = await auksd.client().get(uid_of(user), auth=tgt["node"])
            assert cred.times.endtime > old[user]
        assert not auksd.lines("renew.bug") and "Traceback" not in auksd.log, auksd.log
