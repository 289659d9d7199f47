"""The agent with tickets that live a few seconds: refreshing, outages, real expiry."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
from agent_box import Agent, Site, endtime, make_site, until
from auksd_box import uid_of

pytestmark = pytest.mark.kdc

GAMES, NEWS = uid_of("games"), uid_of("news")
LIFE_S = 8


@pytest.fixture(scope="module")
def quick() -> Iterator[Site]:
    yield from make_site(max_life=f"{LIFE_S}s", max_renew="10m")


def watch(agent: Agent, uid: int, job_id: int, stop: threading.Event, bad: list[str]) -> None:
    """What a job does that reads a Kerberized file all the time: the ccache must be whole and good at every instant."""
    path = agent.path(uid, job_id)
    while not stop.is_set():
        try:
            left = endtime(path) - time.time()
            if left <= 0:
                bad.append(f"expired {-left:.1f} s ago")
        except Exception as error:
            bad.append(f"{type(error).__name__}: {error}")
        time.sleep(0.05)


def test_never_expires_also_when_killed_and_restarted(quick: Site) -> None:
    """Longer than two lives of a ticket, the agent killed -9 in the middle and away for a while."""
    quick.login("games")
    stop, bad = threading.Event(), list[str]()
    with quick.agent("killed") as agent:
        stepd = subprocess.Popen(["slurmstepd: [42.batch]", "60"], executable="/usr/bin/sleep")
        try:
            assert agent.ask(f"start 42 {GAMES} {GAMES}").startswith("ok "), agent.log
            watcher = threading.Thread(target=watch, args=(agent, GAMES, 42, stop, bad))
            watcher.start()
            time.sleep(LIFE_S * 0.9)
            agent.kill()
            time.sleep(1.0)
            agent.start()
            time.sleep(LIFE_S * 1.2)
            stop.set()
            watcher.join()
            assert bad == [], f"{bad[:3]}\n{agent.log}"
            assert len(agent.lines("agent.ticket_replaced")) >= 2, agent.log
            assert len(agent.lines("agent.took_over")) == 1
            agent.ask("end 42")
            assert agent.names() == []
        finally:
            stop.set()
            stepd.kill()
            stepd.wait()


def test_cache_away_for_a_while(quick: Site) -> None:
    quick.login("news")
    stop, bad = threading.Event(), list[str]()
    with quick.agent("cache-away") as agent:
        assert agent.ask(f"start 42 {NEWS} {NEWS}").startswith("ok "), agent.log
        watcher = threading.Thread(target=watch, args=(agent, NEWS, 42, stop, bad))
        watcher.start()
        first = endtime(agent.path(NEWS, 42))
        quick.auksd.stop()
        time.sleep(2.5)
        job = agent.status()["jobs"][0]
        assert job["state"] in ("ok", "expiring") and job["problem"]["code"] == "cache-unreachable", job
        quick.auksd.start()
        until("a newer ticket", lambda: endtime(agent.path(NEWS, 42)) > first, LIFE_S)
        stop.set()
        watcher.join()
        assert bad == [], f"{bad[:3]}\n{agent.log}"
        until("no more trouble", lambda: agent.status()["jobs"][0]["problem"] is None, 5)


def test_cache_away_for_good_the_kdc_is_asked(quick: Site) -> None:
    """Longer than the ticket lives, twice; the agent forgets everything it had in memory in between."""
    quick.login("news")
    stop, bad = threading.Event(), list[str]()
    with quick.agent("kdc-direct") as agent:
        stepd = subprocess.Popen(["slurmstepd: [42.batch]", "60"], executable="/usr/bin/sleep")
        watcher = threading.Thread(target=watch, args=(agent, NEWS, 42, stop, bad))
        try:
            assert agent.ask(f"start 42 {NEWS} {NEWS}").startswith("ok "), agent.log
            watcher.start()
            quick.auksd.stop()
            until("renewed at the KDC", lambda: agent.lines("agent.renewed_at_kdc"), LIFE_S)
            agent.kill()
            agent.start()
            until("and again", lambda: len(agent.lines("agent.renewed_at_kdc")) >= 2, LIFE_S)
        finally:
            quick.auksd.start()
            stop.set()
            watcher.join()
            stepd.kill()
            stepd.wait()
        assert bad == [], f"{bad[:3]}\n{agent.log}"
        assert agent.status()["jobs"][0]["principal"] == "news@REALM.TEST"


def test_no_ticket_of_somebody_else_is_renewed(quick: Site) -> None:
    """While the cache is away the user puts another's ccache, or a link to one, in place of the job's own."""
    quick.login("games")
    quick.login("news")
    with quick.agent("swapped", poll_s=1.0) as agent:
        agent.ask(f"start 1 {GAMES} {GAMES}")
        agent.ask(f"start 2 {NEWS} {NEWS}")
        quick.auksd.stop()
        try:
            mine, theirs = agent.path(NEWS, 2), agent.path(GAMES, 1)
            mine.unlink()
            mine.symlink_to(theirs)
            until("games' own is renewed", lambda: agent.lines("agent.renewed_at_kdc"), LIFE_S)
            time.sleep(1.5)
            assert mine.is_symlink(), "something was written for a ticket that is not the user's"
            assert all(f"uid={GAMES}" in line for line in agent.lines("agent.renewed_at_kdc")), agent.log
        finally:
            quick.auksd.start()


def test_expiry_is_said_and_mended_by_the_next_login(quick: Site) -> None:
    quick.login("games")
    with quick.agent("expired", poll_s=1.0) as agent:
        agent.ask(f"start 42 {GAMES} {GAMES}")
        quick.auksd.stop()
        quick.realm.stop()  # else the agent has the KDC renew it
        try:
            until("it expires", lambda: agent.status()["jobs"][0]["state"] == "expired", LIFE_S + 3)
            reply = agent.ask(f"ccache 42 {GAMES}")
            assert reply.startswith("none warn FILE:") and "expired at" in reply, reply
        finally:
            quick.realm.start()
            quick.auksd.start()
        quick.login("games")
        until("good again", lambda: agent.status()["jobs"][0]["state"] == "ok", 5)
        assert agent.ask(f"ccache 42 {GAMES}").startswith("ok ")


def test_host_ticket_outlives_its_own_life(quick: Site) -> None:
    """The agent's own TGT lives as short as all others: it must get new ones by itself."""
    quick.login("games")
    with quick.agent("host", poll_s=1.0) as agent:
        agent.ask(f"start 42 {GAMES} {GAMES}")
        first = agent.status()["host_ticket_until"]
        until("a new host ticket", lambda: agent.status()["host_ticket_until"] > first, LIFE_S)
        assert agent.status()["principal"] == "host/node.test@REALM.TEST"
