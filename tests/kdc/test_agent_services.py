"""Service tickets in a job's ccache when its TGT is replaced: a real KDC, there and away."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_box import Agent, Site, make_site, until
from auksd_box import PASSWORD, login, uid_of
from test_agent_places import run

from hipercow_slurm.agent.place import Places
from hipercow_slurm.krb5 import ccache, ccfile
from hipercow_slurm.krb5.krbcred import Ticket

pytestmark = pytest.mark.kdc

GAMES, NEWS = uid_of("games"), uid_of("news")
SERVICE = "nfs/files.test"
KINDS = {"file": "FILE:{tmp}/krb5cc_%u_%j", "keyring": "KEYRING:user:hipercow-services-{pid}:%j"}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    for made in make_site():
        made.realm.add_service(SERVICE)
        yield made


@pytest.fixture(params=KINDS)
def agent(request: pytest.FixtureRequest, site: Site) -> Iterator[Agent]:
    site.login("games")
    pattern = KINDS[request.param].format(tmp=site.folder / f"{request.node.name}/tmp", pid=os.getpid())
    with site.agent(request.node.name, ccache=pattern, poll_s=1.0, sweep_s=600.0) as made:
        yield made
        for job_id in (42, 43):
            made.ask(f"end {job_id} {GAMES}")


def start(agent: Agent, job_id: int, uid: int = GAMES) -> str:
    reply = agent.ask(f"start {job_id} {uid} {uid}")
    assert reply.startswith("ok "), (reply, agent.log)
    return reply[3:]


def tickets(name: str, uid: int = GAMES) -> dict[str, Ticket]:
    """By server; of two for one server the first, which is the one libkrb5 takes."""
    content = Places().read(name, uid=uid, gid=uid)
    assert content is not None, f"{name} is not there"
    return {one.server.partition("@")[0]: one for one in reversed(ccfile.parse(content)[1])}


def use(name: str, uid: int = GAMES) -> None:
    """What rpc.gssd does for an access: take the ticket of the ccache, or get one and put it there."""
    done = run(name, "kvno", SERVICE, uid=uid)
    assert done.returncode == 0, done.stderr


def got_with_the_tgt(name: str, uid: int = GAMES) -> bool:
    found = tickets(name, uid)
    tgt = found["krbtgt/REALM.TEST"]
    return SERVICE in found and found[SERVICE].starttime >= tgt.starttime and found[SERVICE].endtime == tgt.endtime


def test_a_newer_tgt_brings_newer_service_tickets(site: Site, agent: Agent) -> None:
    """Otherwise a kernel context made after the refresh would end with the old ticket, or ask the KDC just then."""
    name = start(agent, 42)
    use(name)
    old = tickets(name)
    time.sleep(1.1)  # times of tickets are whole seconds
    site.login("games")
    until("replaced", lambda: agent.lines("agent.ticket_replaced"), 10)
    assert SERVICE in tickets(name), f"there was a moment without the service ticket: {agent.log}"
    until("the service ticket is a new one too", lambda: got_with_the_tgt(name), 10)
    assert tickets(name)[SERVICE].starttime > old[SERVICE].starttime
    use(name)


def test_the_kdc_is_away_when_the_tgt_is_replaced(site: Site, agent: Agent) -> None:
    """The job goes on with the service ticket it had (EACCES on a kernel mount otherwise), a new job of the same user
    has it too, and both get newer ones once the KDC is back."""
    name = start(agent, 42)
    use(name)
    old = tickets(name)
    os.kill(agent.pid, signal.SIGSTOP)
    time.sleep(1.1)
    site.login("games")
    site.realm.stop()
    try:
        os.kill(agent.pid, signal.SIGCONT)
        until("replaced", lambda: agent.lines("agent.ticket_replaced"), 10)
        other = start(agent, 43)
        for one in (name, other):
            use(one)
            there = tickets(one)
            assert there["krbtgt/REALM.TEST"].starttime > old["krbtgt/REALM.TEST"].starttime, "that is the old TGT"
            assert there[SERVICE].ticket_der == old[SERVICE].ticket_der
        until("and that is said", lambda: agent.lines("agent.services_kept"), 10)
    finally:
        site.realm.start()
    for one in (name, other):
        until("a newer service ticket", lambda: got_with_the_tgt(one), 20)  # noqa: B023


def test_every_user_gets_newer_ones_when_the_kdc_is_back(site: Site) -> None:
    """Who only stood behind the user for whom the KDC was found away is not forgotten."""
    users = {"games": GAMES, "news": NEWS}
    with site.agent("several", poll_s=1.0) as agent:
        names = {}
        for user, uid in users.items():
            site.login(user)
            names[uid] = start(agent, uid, uid)
            use(names[uid], uid)
        os.kill(agent.pid, signal.SIGSTOP)
        time.sleep(1.1)
        for user in users:
            site.login(user)
        site.realm.stop()
        try:
            os.kill(agent.pid, signal.SIGCONT)
            until("replaced", lambda: len(agent.lines("agent.ticket_replaced")) == 2, 20)
            until("asked", lambda: agent.lines("agent.services_kept"), 20)
        finally:
            site.realm.start()
        for uid in names:
            until(f"newer ones for {uid}", lambda uid=uid: got_with_the_tgt(names[uid], uid), 30)
        assert len(agent.lines("agent.services_kept")) == 1, "an outage is said once"


def test_nothing_of_another_principal_is_carried_over(site: Site) -> None:
    """The user has put somebody else's ccache in the job's place: its tickets are not mixed with the user's."""
    site.login("games")
    with site.agent("mixed", poll_s=1.0) as agent:
        name = start(agent, 42)
        path = Path(name.removeprefix("FILE:"))
        foreign = site.folder / "foreign"
        foreign.write_bytes(ccache.file_v4(login(site.folder, "news")))
        os.chown(foreign, GAMES, GAMES)
        use(f"FILE:{foreign}")
        assert SERVICE in {one.server.partition("@")[0] for one in ccfile.parse(foreign.read_bytes())[1]}
        foreign.replace(path)
        time.sleep(1.1)
        site.login("games")
        until("replaced", lambda: agent.lines("agent.ticket_replaced"), 10)
        assert list(tickets(name)) == ["krbtgt/REALM.TEST"] and PASSWORD not in agent.log
