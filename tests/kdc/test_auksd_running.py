"""The daemon in service: signals, role node, retention, audit log, metrics, health, and an NSS that hangs."""

import asyncio
import json
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from auksd_box import ACL, login, uid_of
from auksd_site import Site, Talk

from hipercow_slurm import audit
from hipercow_slurm.errors import Error
from hipercow_slurm.testing.story import eventually
from hipercow_slurm.wire import messages as m
from hipercow_slurm.wire.frames import frame

GAMES, NEWS = uid_of("games"), uid_of("news")
NODES = '[nodes]\nrealm = "REALM.TEST"\ndomains = ["test"]\n'
NODE_ACL = ACL.replace("role = admin", "role = node")
assert NODE_ACL != ACL


@pytest.fixture
def site(folder, tgt, request, tmp_path):
    """One daemon; parameters are further sections."""
    with Site(tmp_path / "site", folder, sections=getattr(request, "param", "")) as made:
        yield made
        assert made.process.poll() is None, made.log
        assert "Traceback" not in made.log and not made.lines("auksd.bug"), made.log


def test_hup_replaces_the_rules_and_no_connection_is_dropped(site, tgt):
    with Talk(site, tgt["games"]) as talk:
        assert isinstance(talk.ask(m.Ping()), m.PingReply)
        site.acl("\n".join(line for line in ACL.splitlines() if "games" not in line))
        assert "rules=2" in site.signal(signal.SIGHUP, "auksd.reloaded")
        assert isinstance(talk.ask(m.Ping()), m.ErrorReply), "the new rules count on the old connection too"
        assert site.lines("auksd.request", verb="ping", code="no-role")
        site.acl(ACL)
        site.signal(signal.SIGHUP, "auksd.reloaded")
        assert isinstance(talk.ask(m.Ping()), m.PingReply), "it is still the same connection"


async def test_20_hups_under_load_lose_no_request(site, tgt):
    client, done = site.client(), []

    async def pings():
        while True:
            await client.ping(auth=tgt["games"])
            done.append(1)

    tasks = [asyncio.create_task(pings()) for _ in range(4)]
    for _ in range(20):
        site.process.send_signal(signal.SIGHUP)
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    failed = [task.exception() for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    assert not failed and len(done) > 20, (failed, site.log[-2000:])


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (
            "auksd.acl",
            ACL + "rule { principal = ^x$ ; host = * ; role = king ; }\n",
            "auksd.acl:5: unknown role 'king'",
        ),
        ("auksd.acl", NODE_ACL, "nothing says which node a principal is"),
        ("auksd.toml", "[auksd\n", "auksd.toml: not valid TOML"),
        ("auksd.toml", None, "auksd.toml:2: Expected"),
    ],
)
def test_a_bad_file_on_hup_keeps_the_old_one_and_says_so(site, tgt, file, text, said):
    path = site.folder / file
    path.write_text(path.read_text().replace('listen = "', 'listen = 1 # "') if text is None else text)
    assert said in site.signal(signal.SIGHUP, "auksd.reload_failed").replace("\\'", "'")
    with Talk(site, tgt["games"]) as talk:
        assert isinstance(talk.ask(m.Ping()), m.PingReply)


def test_hup_tells_what_needs_a_restart(site):
    site.config.write_text(
        site.config.read_text().replace("creds.db", "others.db").replace("[auksd]", "[auksd]\nidle_timeout_s = 7")
    )
    assert "needs_restart=auksd.store" in site.signal(signal.SIGHUP, "auksd.reloaded")


def test_usr2_tells_numbers(site, tgt):
    with Talk(site, tgt["games"]) as talk:
        for _ in range(3):
            talk.ask(m.Ping())
        talk.ask(m.Dump())
        with socket.create_connection(("127.0.0.1", site.port)):
            time.sleep(0.1)
            line = site.signal(signal.SIGUSR2, "auksd.statistics")
    for wanted in ("connections=2", "connections_proven=1", "ping_ok=3", "dump_refused=1", "renewal_late_s=0.0"):
        assert wanted in line, line


@pytest.mark.parametrize("site", [NODES], indirect=True)
async def test_role_node(site, tgt):
    """Here with an squeue of ours; tests/e2e/test_node_role.py asks a real slurmctld."""
    client, node = site.client(), tgt["node"]
    await client.add(tgt["games"])
    await client.add(tgt["news"])
    with Talk(site, node) as talk:
        assert isinstance(talk.ask(m.Get(GAMES)), m.GetReply), "still an admin"
        site.acl(NODE_ACL)
        site.signal(signal.SIGHUP, "auksd.reloaded")
        assert isinstance(talk.ask(m.Get(GAMES)), m.ErrorReply), "no job, no ticket, from the next request on"
        assert site.lines("auksd.request", verb="get", uid=GAMES, role="node", code="no-job-on-node")
        site.jobs.write_text(f"{GAMES}|RUNNING|7|node,other\n{NEWS}|RUNNING|8|other\n")
        assert isinstance(talk.ask(m.Get(GAMES)), m.GetReply)
        for refused in (m.Get(NEWS), m.Get(0), m.Dump(), m.Remove(GAMES), m.Add(tgt["games"].der), m.Add(node.der)):
            assert isinstance(talk.ask(refused), m.ErrorReply), refused
        assert isinstance(talk.ask(m.Ping()), m.PingReply)
        site.jobs.write_text("")
        assert isinstance(talk.ask(m.Get(GAMES)), m.ErrorReply), "the job has ended"
    assert (await client.get(GAMES, auth=tgt["games"])).der == tgt["games"].der


@pytest.mark.parametrize("site", [NODES.replace('["test"]', '["elsewhere"]')], indirect=True)
def test_a_host_nobody_has_mapped_is_no_node(site, tgt):
    site.acl(NODE_ACL)
    site.signal(signal.SIGHUP, "auksd.reloaded")
    site.jobs.write_text(f"{GAMES}|RUNNING|7|node,node.test\n")
    with Talk(site, tgt["node"]) as talk:
        assert isinstance(talk.ask(m.Get(GAMES)), m.ErrorReply)
    assert site.lines("auksd.request", verb="get", code="not-a-node")


async def test_retention(site, tgt):
    """slurmctld silent: nobody goes. It answers: who has no job goes, and is asked for no renewal."""
    client = site.client()
    await client.add(tgt["games"])
    await client.add(tgt["news"])
    site.jobs.unlink()
    site.config.write_text(site.config.read_text() + "[retention]\ngrace_s = 0.5\n")
    site.signal(signal.SIGHUP, "auksd.reloaded")
    await asyncio.to_thread(eventually, "a pause", lambda: site.lines("retention.paused"), within_s=65)
    assert await client.get(GAMES, auth=tgt["games"])
    site.jobs.write_text(f"{NEWS}|PENDING|8|\n")
    await asyncio.to_thread(eventually, "games gone", lambda: site.lines("retention.forgotten"), within_s=8)
    assert await client.get(GAMES, auth=tgt["games"]) is None
    assert await client.get(NEWS, auth=tgt["news"]) is not None, "a pending job keeps its owner"
    assert site.lines("auksd.request", verb="forget", uid=GAMES)


def audited(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_one_audit_line_per_decision_before_the_reply(folder, tgt, tmp_path):
    site = Site(tmp_path / "site", folder)
    path, key = site.folder / "audit.log", site.folder / "audit.key"
    key.write_text("ab" * 32)
    key.chmod(0o600)
    site.config.write_text(site.config.read_text() + f'[audit]\npath = "{path}"\nkey = "{key}"\nsync = "each"\n')
    with site:
        with Talk(site, tgt["games"]) as talk:
            for request, verb, result, uid in (
                (m.Add(tgt["games"].der), "add", "stored", GAMES),
                (m.Get(GAMES), "get", "ok", GAMES),
                (m.Get(NEWS), "get", "refused", NEWS),
                (m.Dump(), "dump", "refused", None),
                (m.Remove(GAMES), "remove", "ok", GAMES),
            ):
                talk.ask(request)
                last = audited(path)[-1]  # it is there when the reply is
                told = {name: last.get(name) for name in ("who", "from", "verb", "uid", "result")}
                wanted = {"who": "games@REALM.TEST", "from": "127.0.0.1", "verb": verb, "uid": uid, "result": result}
                assert told == wanted
                assert site.lines("auksd.request", verb=verb, request_id=last["request_id"])
            assert "role-denied" in next(line for line in audited(path) if line["verb"] == "dump")["why"]
            path.rename(site.folder / "audit.log.1")
            site.signal(signal.SIGHUP, "auksd.reloaded")
            talk.ask(m.Ping())
        with pytest.raises(Error):
            stranger = login(folder, "stranger")
            await site.client().ping(auth=stranger)
        assert audited(path)[-1]["verb"] == "connect" and "no-role" in audited(path)[-1]["why"]
        numbers = [line["request_id"] for line in audited(path) if "request_id" in line]
        assert len(numbers) == len(set(numbers)) >= 2, numbers
    site.stop()
    report = audit.verify([path, site.folder / "audit.log.1"], audit.read_key(key))
    assert report.ok and not report.lost, report


def test_what_cannot_be_audited_is_not_answered(folder, tgt, tmp_path):
    site = Site(tmp_path / "site", folder)
    path = site.folder / "audit.log"
    site.config.write_text(site.config.read_text() + f'[audit]\npath = "{path}"\n')
    with site, Talk(site, tgt["games"]) as talk:
        for _ in range(100):
            assert isinstance(talk.ask(m.Ping()), m.PingReply)
        assert path.stat().st_size > len(site.log) + 4000, "the limit must meet the audit log first"
        _, hard = resource.prlimit(site.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(site.process.pid, resource.RLIMIT_FSIZE, (path.stat().st_size, hard))
        assert isinstance(talk.ask(m.Ping()), m.ErrorReply), "it was answered without a trace"
        assert site.lines("auksd.audit_failed", code="audit-unwritable")
        resource.prlimit(site.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert isinstance(talk.ask(m.Ping()), m.PingReply), "and it goes on when there is room again"


@pytest.mark.parametrize("site", ['[metrics]\nlisten = "127.0.0.1:0"\n'], indirect=True)
async def test_metrics_and_health(site, folder, realm):
    client, short = site.client(), login(folder, "games", lifetime_s=4, renew_s=60)
    await client.add(short)
    await client.get(GAMES, auth=short)
    await client.get(NEWS, auth=short)
    name = "hipercow_slurm_auksd"

    def shown() -> str:
        status, text = site.web("/metrics")
        assert status == 200
        return text

    text = await asyncio.to_thread(shown)
    for line in (
        f'{name}_requests_total{{result="stored",role="user",verb="add"}} 1.0',
        f'{name}_requests_total{{result="ok",role="user",verb="get"}} 1.0',
        f'{name}_requests_total{{result="refused",role="user",verb="get"}}',
        f'{name}_ticket_left_seconds_bucket{{le="60"}} 1.0',
        f'{name}_ticket_left_seconds_bucket{{le="0"}} 0.0',
        f"{name}_oldest_due_seconds 0.0",
    ):
        assert line in text or line.replace("refused", "not-found") in text, (line, text)

    def renewed() -> bool:
        return f'{name}_renewals_total{{result="renewed"}} 0.0' not in shown()

    await asyncio.to_thread(eventually, "a renewal counted", renewed, within_s=5)
    assert f'{name}_kdc_seconds_count{{result="ok"}}' in await asyncio.to_thread(shown)
    status, text = await asyncio.to_thread(site.web, "/health")
    assert status == 200 and json.loads(text)["status"] == "ok", text
    realm.stop()
    try:

        def degraded() -> bool:
            status, text = site.web("/health")
            told = json.loads(text)
            return status == 503 and not told["checks"]["kdc"]["ok"] and "KDC" in told["checks"]["kdc"]["why"]

        await asyncio.to_thread(eventually, "health says the KDC is gone", degraded, within_s=10)
    finally:
        realm._start_kdc()


def test_a_hanging_nss_stops_only_those_who_need_it(folder, tgt, tmp_path, monkeypatch):
    """Five users whose directory server is gone; everybody else, dumps too, is answered at once."""
    library = tmp_path / "hang_nss.so"
    source = Path(__file__).with_name("hang_nss.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True)
    site = Site(tmp_path / "site", folder, extra="drain_timeout_s = 0.3")
    monkeypatch.setenv("LD_PRELOAD", str(library))
    site.start()
    monkeypatch.delenv("LD_PRELOAD")
    with site_ends(site):
        stuck = [Talk(site, tgt["backup"]) for _ in range(5)]
        for talk in stuck:
            talk.sock.sendall(frame(talk.initiator.seal(m.encode(m.Add(tgt["backup"].der)))))
        time.sleep(0.2)
        began = time.monotonic()
        with Talk(site, tgt["games"]) as talk, Talk(site, tgt["node"]) as admin:
            assert isinstance(talk.ask(m.Add(tgt["games"].der)), m.AddReply)
            for _ in range(20):
                assert isinstance(talk.ask(m.Get(GAMES)), m.GetReply)
            assert isinstance(admin.ask(m.Dump()), m.DumpReply)
        assert time.monotonic() - began < 2, "the event loop or the dump waited for NSS"
        assert not site.lines("auksd.request", verb="add", principal="backup@REALM.TEST"), "it hangs as it should"
        began = time.monotonic()
        assert site.stop() == 0, site.log
        assert time.monotonic() - began < 3, "the stop waited for NSS"
        for talk in stuck:
            talk.sock.close()


class site_ends:
    """Whatever happens, the daemon is not left behind."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.site.process.poll() is None:
            self.site.kill()
