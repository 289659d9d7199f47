"""The kinds of ccache a site may choose, each through the life of a job: a real KDC, the real auksd, the agent."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_box import Agent, Site, make_site, until
from auksd_box import PASSWORD, SERVICE, uid_of

from hipercow_slurm.agent.place import Places

pytestmark = pytest.mark.kdc

GAMES, NEWS = uid_of("games"), uid_of("news")
# No slurmstepd on this machine has such jobs. A user's persistent keyring is the kernel's: tests that run beside these,
# with a KDC of their own, have other jobs.
FIRST = 4_000_000_000 + 2 * os.getpid()
SECOND = FIRST + 1
REPLACED_S = 3.0
KINDS = {
    "folder of the user": "FILE:{folder}/tickets/%u/krb5cc_%j",
    "directory": "DIR:{folder}/tmp/krb5cc_%u_%j",
    "keyring": "KEYRING:persistent:%u:%j",
    "user's keyring": "KEYRING:user:hipercow-{pid}:%j",
}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    yield from make_site()


def run(name: str, *command: str, uid: int = GAMES, given: str = "") -> subprocess.CompletedProcess[str]:
    """A program of a job whose KRB5CCNAME is ``name``; ``given`` is its standard input."""
    environment = {"PATH": "/usr/bin:/bin", "KRB5CCNAME": name, "KRB5_CONFIG": os.environ["KRB5_CONFIG"]}
    return subprocess.run(
        command, user=uid, group=uid, extra_groups=[], env=environment, input=given, capture_output=True, text=True,
        timeout=20,
    )  # fmt: skip


def use(name: str) -> None:
    """A job gets a ticket for a service out of it."""
    done = run(name, "kvno", SERVICE)
    assert done.returncode == 0, (done, run(name, "klist"))


@pytest.fixture(params=KINDS)
def agent(request: pytest.FixtureRequest, site: Site) -> Iterator[Agent]:
    """An agent whose tickets are of one kind; what a failed test leaves in the kernel is removed."""
    site.login("games")
    folder = site.folder / f"node-{sum(1 for _ in site.folder.glob('node-*'))}"
    pattern = KINDS[request.param].format(folder=folder, pid=os.getpid())
    with site.agent(folder.name, ccache=pattern, poll_s=1.0, sweep_s=600.0) as made:
        yield made
    for job in (FIRST, SECOND):
        run(pattern.replace("%u", str(GAMES)).replace("%j", str(job)), "kdestroy", "-q")


def start(agent: Agent, job: int) -> str:
    reply = agent.ask(f"start {job} {GAMES} {GAMES}")
    assert reply.startswith("ok "), (reply, agent.log)
    return reply[3:]


def test_two_jobs_of_one_user_and_the_first_ends(agent: Agent) -> None:
    one, two = start(agent, FIRST), start(agent, SECOND)
    for name in (one, two):
        use(name)
        assert run(name, "klist", uid=NEWS).returncode != 0, f"another user read {name}"
    assert agent.ask(f"end {FIRST}") == "ok"
    use(two)
    assert agent.ask(f"end {SECOND}") == "ok"
    assert agent.names() == [] and not list(agent.folder.glob("tickets/*")), "something is left behind"
    for name in (one, two):
        assert run(name, "klist", "-s").returncode != 0, f"{name} is still there"
    assert len(agent.lines("agent.ticket_removed")) == 2, agent.log


def test_a_fresh_login_reaches_the_job_and_so_does_an_agent_that_was_killed(site: Site, agent: Agent) -> None:
    name = start(agent, FIRST)
    time.sleep(1.1)  # times of tickets are whole seconds
    site.login("games")
    until("the new ticket is there", lambda: agent.lines("agent.ticket_replaced"), 10)
    use(name)
    agent.kill()
    use(name)  # the ticket did not go with the agent
    agent.config.write_text(agent.config.read_text().replace("sweep_s = 600.0", "sweep_s = 0.5"))
    agent.start()
    until("the job that ended meanwhile is swept", lambda: agent.lines("agent.job_vanished"), 20)
    until("its ticket is gone", lambda: run(name, "klist", "-s").returncode != 0, 10)


# As rpc.gssd and every job look: again and again, with libkrb5 itself. Ends when its input does; says what it saw.
LOOK = """
import select, sys
from hipercow_slurm.errors import CredentialError
from hipercow_slurm.krb5 import ccache
looks, missed = 0, []
print("looking", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    looks += 1
    try:
        ccache.read_tgt(sys.argv[1])
    except CredentialError as error:
        missed.append(error.message)
print(looks, len(missed), missed[:1])
"""


def test_there_is_no_moment_without_a_ticket_while_it_is_replaced(site: Site, agent: Agent) -> None:
    name = start(agent, FIRST)
    content = Places().read(name, uid=GAMES, gid=GAMES)
    assert content is not None
    environment = {"KRB5_CONFIG": os.environ["KRB5_CONFIG"]}
    with subprocess.Popen(
        [sys.executable, "-P", "-c", LOOK, name], user=GAMES, group=GAMES, extra_groups=[], env=environment, cwd="/",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as looking:  # fmt: skip
        assert looking.stdout is not None
        assert looking.stdout.readline() == "looking\n"
        ends = time.monotonic() + REPLACED_S
        while time.monotonic() < ends:
            Places().write(name, content, uid=GAMES, gid=GAMES)
        said, _ = looking.communicate("", timeout=20)
    looks, missed, what = said.split(maxsplit=2)
    assert int(missed) == 0, f"{missed} of {looks} looks found no ticket: {what}"
    assert int(looks) > 100, said


def test_doctor_finds_it(agent: Agent) -> None:
    name = start(agent, FIRST)
    command = [sys.executable, "-m", "hipercow_slurm", "doctor", str(FIRST), "--config", str(agent.config)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    path = name.removeprefix("FILE:").removeprefix("DIR:")
    assert f"good     file: {path}" in said and "good until" in said, said
    if not name.startswith("KEYRING:"):
        return  # the agent puts a lost file back within a second
    run(name, "kdestroy", "-q")
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout
    assert f"BAD      file: {path}" in said, said


def test_the_directories_are_the_users_alone(site: Site) -> None:
    """KRB5CCNAME names a place that others can neither list nor enter; the configured part stays root's."""
    site.login("games")
    folder = site.folder / "closed"
    with site.agent("closed", ccache=f"DIR:{folder}/tickets/%u/krb5cc_%j") as agent:
        name = start(agent, FIRST)
        path = Path(name.removeprefix("DIR:"))
        modes = {str(one.relative_to(folder)): (one.stat().st_uid, stat.S_IMODE(one.stat().st_mode))
                 for one in (path.parent.parent, path.parent, path, path / "tkt", path / "primary")}  # fmt: skip
        assert modes == {
            "tickets": (0, 0o755),
            f"tickets/{GAMES}": (GAMES, 0o700),
            f"tickets/{GAMES}/krb5cc_{FIRST}": (GAMES, 0o700),
            f"tickets/{GAMES}/krb5cc_{FIRST}/tkt": (GAMES, 0o600),
            f"tickets/{GAMES}/krb5cc_{FIRST}/primary": (GAMES, 0o600),
        }
        assert run(name, "sh", "-c", f"kinit -V 2>/dev/null; echo mine > {path}/note").returncode == 0
        agent.ask(f"end {FIRST}")
        assert [one.name for one in path.iterdir()] == ["note"], "a ticket is left, or the user's own file was taken"


def test_kinit_and_kdestroy_at_the_default_ccache(site: Site) -> None:
    """The link that SMB needs must be in nobody's way: a user's own kinit makes a file of its place and leaves the
    job's alone, kdestroy through it costs the job nothing for long, and the agent takes neither's file away."""
    site.login("games")
    with site.agent("linked", default_ccache=f"{site.folder}/linked/tmp/krb5cc_%u", poll_s=0.5) as agent:
        name, link = start(agent, FIRST), agent.tmp / f"krb5cc_{GAMES}"
        job = Path(name.removeprefix("FILE:"))
        assert link.readlink() == job
        use(f"FILE:{link}")
        run(f"FILE:{link}", "kdestroy", "-q")
        until("the job's ticket is back", lambda: run(name, "kvno", SERVICE).returncode == 0, 10)
        until("and the link", link.is_symlink, 10)
        before = job.stat().st_ino
        done = run(f"FILE:{link}", "kinit", "games", given=f"{PASSWORD}\n")
        assert done.returncode == 0, done.stderr
        own = link.lstat()
        assert stat.S_ISREG(own.st_mode) and own.st_uid == GAMES and job.stat().st_ino == before
        until("the agent has looked again", lambda: agent.lines("agent.no_default_link"), 10)
        assert agent.ask(f"end {FIRST}") == "ok"
        left = link.lstat()
        assert (left.st_ino, left.st_mtime_ns) == (own.st_ino, own.st_mtime_ns) and agent.names() == [link.name]
