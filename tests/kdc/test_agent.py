"""The agent as a process: a real KDC, the real auksd, the socket the plugin uses."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_box import Site, as_user, endtime, make_site, until
from auksd_box import SERVICE, uid_of

pytestmark = pytest.mark.kdc

GAMES, NEWS = uid_of("games"), uid_of("news")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    yield from make_site()


def test_a_job_gets_a_ticket_that_works_and_loses_it(site: Site) -> None:
    site.login("games")
    with site.agent("one") as agent:
        assert agent.ask(f"start 42 {GAMES} {GAMES}") == f"ok FILE:{agent.path(GAMES, 42)}", agent.log
        found = agent.path(GAMES, 42).lstat()
        assert (found.st_uid, stat.S_IMODE(found.st_mode), stat.S_ISREG(found.st_mode)) == (GAMES, 0o600, True)
        listed = as_user(GAMES, "klist", ccache=agent.path(GAMES, 42))
        assert "Default principal: games@REALM.TEST" in listed.stdout, listed
        got = as_user(GAMES, "kvno", SERVICE, ccache=agent.path(GAMES, 42))
        assert got.returncode == 0, f"no service ticket with the delivered TGT: {got.stderr}"
        assert as_user(NEWS, "klist", ccache=agent.path(GAMES, 42)).returncode != 0, "another user read it"
        assert agent.ask(f"ccache 42 {GAMES} {GAMES}") == f"ok FILE:{agent.path(GAMES, 42)}"
        assert agent.ask("end 42") == "ok"
        assert agent.names() == []


def test_overlapping_jobs_of_one_user_each_have_their_own(site: Site) -> None:
    site.login("games")
    with site.agent("overlap") as agent:
        agent.ask(f"start 1 {GAMES} {GAMES}")
        agent.ask(f"start 2 {GAMES} {GAMES}")
        agent.ask("end 1")
        assert agent.names() == [f"krb5cc_{GAMES}_2"]
        assert as_user(GAMES, "kvno", SERVICE, ccache=agent.path(GAMES, 2)).returncode == 0


def test_no_ticket_says_policy_and_what_to_do(site: Site) -> None:
    with site.agent("none", policy="require") as agent:
        reply = agent.ask(f"start 7 {NEWS} {NEWS}")
        assert reply.startswith(f"none require FILE:{agent.path(NEWS, 7)} ") and "log in" in reply, reply
        assert agent.names() == []
        assert agent.ask("start 8 1 1") == "none allow - uid 1 is below minimum_uid 2: no ticket is kept for it"


def test_fresh_login_reaches_a_running_job(site: Site) -> None:
    site.login("games")
    with site.agent("fresh", poll_s=1.0) as agent:
        agent.ask(f"start 42 {GAMES} {GAMES}")
        before = endtime(agent.path(GAMES, 42))
        time.sleep(1.1)  # times of tickets are whole seconds
        site.login("games")
        until("the new ticket is there", lambda: endtime(agent.path(GAMES, 42)) > before, 3)
        assert "old_endtime=" in agent.lines("agent.ticket_replaced")[-1]


def test_cache_down_at_job_start_then_back(site: Site) -> None:
    site.login("games")
    with site.agent("down", answer_s=3.0) as agent:
        site.auksd.stop()
        try:
            started = time.monotonic()
            reply = agent.ask(f"start 42 {GAMES} {GAMES}")
            took = time.monotonic() - started
            assert reply.startswith(f"none warn FILE:{agent.path(GAMES, 42)} no credential cache answered"), reply
            assert took < 5.0, f"the job waited {took:.1f} s"
        finally:
            site.auksd.start()
        until("the ticket comes late", agent.path(GAMES, 42).exists, 5)


def test_kdc_that_hangs_delays_nobody_beyond_the_answer_time(site: Site) -> None:
    site.login("games")
    with site.agent("kdc-hangs", answer_s=1.0) as agent:
        site.realm.pause()
        try:
            started = time.monotonic()
            reply = agent.ask(f"start 42 {GAMES} {GAMES}")
            assert reply.startswith("none warn ") and time.monotonic() - started < 2.0, reply
            assert agent.ask("end 42", timeout_s=2.0) == "ok", "the end had to wait for the KDC"
            agent.ask(f"start 43 {GAMES} {GAMES}")
        finally:
            site.realm.resume()
        until("the ticket comes late", agent.path(GAMES, 43).exists, 30)


def test_job_ended_while_the_agent_was_away(site: Site) -> None:
    site.login("games")
    with site.agent("away", sweep_s=0.5) as agent:
        agent.ask(f"start 4000000001 {GAMES} {GAMES}")
        agent.kill()
        assert agent.names() == [f"krb5cc_{GAMES}_4000000001"]
        agent.start()
        until("swept", lambda: agent.names() == [], 5)
        assert agent.lines("agent.job_vanished")


def test_stopping_leaves_running_jobs_their_tickets(site: Site) -> None:
    site.login("games")
    with site.agent("stopped") as agent:
        agent.ask(f"start 42 {GAMES} {GAMES}")
        assert agent.stop() == 0, agent.log
        assert agent.names() == [f"krb5cc_{GAMES}_42"]


def test_only_root_may_ask_for_tickets(site: Site) -> None:
    site.login("games")
    with site.agent("peers") as agent:
        for request in (f"start 42 {GAMES} {GAMES}", f"ccache 42 {GAMES}", "end 42"):
            assert agent.ask_as(GAMES, request).startswith("error not-allowed "), request
        assert agent.names() == []
        agent.ask(f"start 42 {GAMES} {GAMES}")
        agent.ask(f"start 43 {NEWS} {NEWS}")
        mine = json.loads(agent.ask_as(GAMES, "status"))
        assert [job["job_id"] for job in mine["jobs"]] == [42] and "host_ticket_until" not in mine, mine
        assert [job["job_id"] for job in agent.status()["jobs"]] == [42, 43]
        assert mine["jobs"][0]["state"] == "ok" and mine["jobs"][0]["principal"] == "games@REALM.TEST"
        agent.ask_as(GAMES, "end 42")
        assert agent.path(GAMES, 42).exists(), "a user ended a job's ticket"


@pytest.mark.parametrize("sent", [b"x" * 100_000, b"start 1 2\n", b"\xff\n", b"start 1 2 3", b"\n" * 1000])
def test_bad_requests_end_the_connection(site: Site, sent: bytes) -> None:
    with site.agent(f"bad-{len(sent)}-{sent[0]}") as agent:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(agent.socket))
            try:
                sock.sendall(sent)
                sock.shutdown(socket.SHUT_WR)
                reply = sock.makefile("rb").read()
            except (BrokenPipeError, ConnectionResetError):
                reply = b"error "  # it hung up while we were still talking
        assert reply.startswith(b"error ") and reply.count(b"\n") <= 1, reply[:200]
        assert agent.ask("end 1") == "ok"


def test_silent_and_many_clients_cost_nothing(site: Site) -> None:
    site.login("games")
    crowd = "import socket,sys,time\nheld=[]\n" + (
        "for _ in range(300):\n s=socket.socket(socket.AF_UNIX)\n s.connect(sys.argv[1])\n held.append(s)\n"
    )
    with site.agent("crowd") as agent:
        before = agent.proc("status", "VmRSS")
        holder = subprocess.Popen(
            ["python3", "-I", "-c", crowd + "print('held',flush=True)\ntime.sleep(30)", str(agent.socket)],
            user=NEWS, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert holder.stdout is not None and holder.stdout.readline() == "held\n"
            started = time.monotonic()
            assert agent.ask(f"start 42 {GAMES} {GAMES}").startswith("ok ")
            assert time.monotonic() - started < 5.0, "root waited behind a user's idle connections"
            open_files = len(list(Path(f"/proc/{agent.pid}/fd").iterdir()))
            assert open_files < 120, f"{open_files} descriptors"
            assert agent.proc("status", "VmRSS") - before < 5000, "kB of memory for clients that say nothing"
        finally:
            holder.kill()
            holder.wait()


def test_small_and_asleep(site: Site) -> None:
    """A hundred jobs fit in 35 MB; with none of them due, nothing wakes up."""
    site.login("games")
    site.login("news")
    with site.agent("small", poll_s=600.0, sweep_s=600.0) as agent:
        until("it has its own ticket", lambda: agent.lines("agent.host_ticket"), 15)
        time.sleep(1.0)
        idle = agent.proc("status", "voluntary_ctxt_switches")
        time.sleep(1.5)
        assert agent.proc("status", "voluntary_ctxt_switches") - idle <= 1, "it wakes up with nothing to do"
        for number in range(100):
            uid = (GAMES, NEWS)[number % 2]
            assert agent.ask(f"start {number + 1} {uid} {uid}").startswith("ok ")
        rss_kb = agent.proc("status", "VmRSS")
        print(f"agent with 100 jobs: {rss_kb} kB resident")
        assert rss_kb <= 35 * 1024, f"{rss_kb} kB"
        times = []
        for _ in range(100):
            started = time.monotonic()
            agent.ask(f"ccache 1 {GAMES}")
            times.append(time.monotonic() - started)
        median_ms = sorted(times)[50] * 1000
        print(f"one step's question: {median_ms:.2f} ms")
        assert median_ms < 10, f"a step waits {median_ms:.1f} ms"

        def sleeps() -> bool:
            before = agent.proc("status", "voluntary_ctxt_switches")
            time.sleep(1.5)
            return agent.proc("status", "voluntary_ctxt_switches") - before <= 1

        until("it sleeps with 100 jobs", sleeps, 30)


def test_nothing_secret_in_log_state_or_status(site: Site) -> None:
    """The session key of a delivered ticket appears nowhere else."""
    agents = [path for path in site.folder.iterdir() if (path / "agent.log").exists()]
    assert agents, "no agent ran before this test"
    with site.agent("secrets") as agent:
        agent.ask(f"start 42 {GAMES} {GAMES}")
        content = agent.path(GAMES, 42).read_bytes()
        key = content[content.index(b"\x00\x12\x00\x00\x00\x20") + 6 :][:32]  # keytype 18, 32 octets
        told = agent.ask("status").encode() + agent.log.encode() + (agent.folder / "state" / "42.json").read_bytes()
        assert key not in told and key.hex().encode() not in told


def test_mistakes_are_said_at_start(site: Site) -> None:
    with site.agent("first") as first:
        second = site.agent("second", state_dir=str(first.folder / "state"))
        assert second.launch().wait(20) == 78 and "another agent" in second.log, second.log
    keyless = site.agent("keyless", keytab="/nonexistent/keytab")
    assert keyless.launch().wait(20) == 78 and "/nonexistent/keytab" in keyless.log, keyless.log
    typo = site.agent("typo", wibble=1)
    assert typo.launch().wait(20) == 78 and "wibble" in typo.log, typo.log


def test_new_agent_takes_the_socket_of_a_killed_one(site: Site) -> None:
    with site.agent("socket") as agent:
        agent.kill()
        assert agent.socket.is_socket()
        agent.start()
        assert agent.ask("end 1") == "ok"
        assert agent.stop(signal.SIGINT) == 0
