"""Interoperation with AUKS' own programs, both ways. Run by ``make acceptance PEER_AUKS=/prefix`` where they are.

``/prefix`` holds bin/auks, sbin/auksd and sbin/auksdrenewer; without PEER_AUKS this file is not collected.

Their client looks its user up before it asks anybody, and an NSS service that is not there (``sss`` without an sssd)
is another exit code of it than an account that is not. So it runs where accounts are those of /etc/passwd.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from auksd_box import SERVICE, Auksd, login, make_realm, uid_of

from hipercow_slurm.client.auks import AuksClient, Limits, Server
from hipercow_slurm.errors import AccessError
from hipercow_slurm.krb5 import ccache, creds
from hipercow_slurm.krb5.ccache import file_v4

PREFIX = Path(os.environ["PEER_AUKS"])
GAMES, NEWS = uid_of("games"), uid_of("news")
DONE = b"Auks API request succeed\n"
OURS = (sys.executable, "-m", "hipercow_slurm", "auks")
THEIRS = (str(PREFIX / "bin/auks"),)
IN_FILES = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/nsswitch.conf && exec "$@"')
PRINCIPAL = f"{SERVICE}@REALM.TEST"
THEIR_ACL = r"""
rule { principal = ^host/.*@REALM\.TEST$ ; host = * ; role = admin ; }
rule { principal = ^(games|news)@REALM\.TEST$ ; host = * ; role = user ; }
"""


class Box:
    """A realm, ccaches, and ``auks.conf`` files for a port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tgt = {user: login(folder, user) for user in ("games", "news", "stranger")}
        self.tgt["node"] = creds.keytab_tgt("host/node.test", str(folder / "node.keytab"))
        for user, cred in self.tgt.items():
            (folder / f"cc_{user}").write_bytes(file_v4(cred))
        (folder / "cache").mkdir(mode=0o700, exist_ok=True)
        (folder / "peer.acl").write_text(THEIR_ACL)
        (folder / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")

    def conf(self, port: int, *, nat: bool) -> Path:
        path = self.folder / f"auks-{port}-{nat}.conf"
        here, word = self.folder, "yes" if nat else "no"
        path.write_text(
            f"""common {{ PrimaryHost = localhost ; PrimaryAddress = 127.0.0.1 ; PrimaryPort = {port} ;
 PrimaryPrincipal = "{PRINCIPAL}" ; NAT = {word} ; Retries = 1 ; Timeout = 2 ; Delay = 1 ; }}
api {{ LogFile = {here}/api.log ; LogLevel = 0 ; DebugFile = {here}/api.log ; DebugLevel = 0 ; }}
auksd {{ PrimaryKeytab = {here}/auksd.keytab ; CacheDir = {here}/cache ; ACLFile = {here}/peer.acl ;
 LogFile = {here}/auksd.log ; DebugFile = {here}/auksd.log ; ReplayCache = no ; }}
renewer {{ LogFile = {here}/renewer.log ; LogLevel = 3 ; DebugFile = {here}/renewer.log ; Delay = 1 ;
 MinLifeTime = 35998 ; }}
"""
        )
        return path

    def run(self, program, conf, user, *words, input=b""):
        inside = (*IN_FILES, str(self.folder / "nsswitch.conf")) if program is THEIRS else ()
        command = [*inside, *program, "-f", str(conf), *words]
        done = subprocess.run(command, capture_output=True, env=self.env(user), timeout=60, input=input)
        return done.returncode, done.stdout, done.stderr

    def env(self, user):
        return {**os.environ, "KRB5CCNAME": f"FILE:{self.folder}/cc_{user}", "LD_LIBRARY_PATH": str(PREFIX / "lib")}


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    folder = tmp_path_factory.mktemp("peer")
    with make_realm(folder):
        yield Box(folder)


@pytest.fixture(scope="module")
def ours(box):
    with Auksd(box.folder / "ours", box.folder, renew="enabled = false") as auksd:
        yield auksd
        assert not auksd.lines("auksd.bug"), auksd.log


@contextlib.contextmanager
def theirs(box, *, nat):
    """Their auksd; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with (box.folder / "theirs.out").open("ab") as out:
        command = [str(PREFIX / "sbin/auksd"), "-F", "-f", str(box.conf(port, nat=nat))]
        process = subprocess.Popen(command, env=box.env("node"), stdout=out, stderr=out)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                break
            assert process.poll() is None, (box.folder / "theirs.out").read_text()
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def all_verbs(box, program, conf, tmp_path):
    """Every verb of a client, and what must come back of each."""
    for user, words, status, out in (
        ("games", ["-p"], 0, DONE),
        ("games", ["-a"], 0, DONE),
        ("news", ["-a", "-C", f"FILE:{box.folder}/cc_news"], 0, DONE),
        ("games", ["-g", "-u", str(GAMES), "-C", f"FILE:{tmp_path}/own"], 0, DONE),
        ("node", ["-g", "-u", str(GAMES), "-C", f"FILE:{tmp_path}/node"], 0, DONE),
        ("games", ["-g", "-u", str(NEWS), "-C", f"FILE:{tmp_path}/others"], 146, b""),
        ("games", ["-D"], 147, b""),
        ("games", ["-r", "-u", str(NEWS)], 147, b""),
        ("stranger", ["-p"], 90, b""),
        ("stranger", ["-a"], 145, b""),
        ("games", ["-R", "once", "-u", str(GAMES), "-C", f"FILE:{tmp_path}/own"], 0, DONE),
    ):
        if words[0] == "-R":
            time.sleep(max(0, box.tgt["games"].times.starttime + 3 - time.time()))  # due: 35 998 s left
        assert box.run(program, conf, user, *words)[:2] == (status, out), (user, words)
    for name in ("own", "node"):
        assert ccache.read_tgt(f"{tmp_path}/{name}").client == "games@REALM.TEST"
    status, out, _ = box.run(program, conf, "node", "-D")
    lines = out.decode().splitlines()
    assert (status, len(lines), lines[0].split()[0]) == (0, 4, "UID"), out
    assert {line.split()[1] for line in lines[1:3]} == {"games@REALM.TEST", "news@REALM.TEST"}
    for user in ("games", "news"):
        assert box.run(program, conf, user, "-r", "-u", str(uid_of(user)))[:2] == (0, DONE)
        assert box.run(program, conf, user, "-r", "-u", str(uid_of(user)))[0] == 147
    return lines[0]


@pytest.mark.parametrize("nat", [False, True])
def test_their_client_against_our_daemon(box, ours, nat, tmp_path):
    all_verbs(box, THEIRS, box.conf(ours.port, nat=nat), tmp_path)


@pytest.mark.parametrize("nat", [False, True])
def test_our_command_against_their_daemon(box, nat, tmp_path):
    with theirs(box, nat=nat) as port:
        conf = box.conf(port, nat=nat)
        (tmp_path / "ours").mkdir()
        (tmp_path / "theirs").mkdir()
        assert all_verbs(box, OURS, conf, tmp_path / "ours") == all_verbs(box, THEIRS, conf, tmp_path / "theirs")


@pytest.mark.parametrize("nat", [False, True])
async def test_our_library_against_their_daemon(box, nat):
    tgt = box.tgt
    with theirs(box, nat=nat) as port:
        client = AuksClient([Server("127.0.0.1", PRINCIPAL, port, nat=nat)], limits=Limits(rounds=1))
        await client.ping(auth=tgt["games"])
        await client.add(tgt["games"])
        await client.add(tgt["news"], auth=tgt["node"])
        assert (await client.get(GAMES, auth=tgt["games"])).times == tgt["games"].times
        assert await client.get(GAMES, auth=tgt["news"]) is None
        records = await client.dump(auth=tgt["node"])
        assert {record.uid for record in records} == {GAMES, NEWS}
        assert {record.max_length for record in records} == {32768}
        with pytest.raises(AccessError) as caught:
            await client.ping(auth=tgt["stranger"])
        assert caught.value.code == "no-role"
        for uid in (GAMES, NEWS):
            assert await client.remove(uid, auth=tgt["node"])
            assert not await client.remove(uid, auth=tgt["node"])


def test_send_and_receive_between_the_two(box, ours, tmp_path):
    conf = box.conf(ours.port, nat=False)
    assert box.run(THEIRS, conf, "games", "-a")[0] == 0
    for sender, receiver, name in ((THEIRS, OURS, "a"), (OURS, THEIRS, "b")):
        status, stream, _ = box.run(sender, conf, "node", "--send", "-u", str(GAMES))
        assert status == 0
        target = f"FILE:{tmp_path}/{name}"
        assert box.run(receiver, conf, "node", "--receive", "-C", target, input=stream)[:2] == (0, DONE)
        assert ccache.read_tgt(target).times == box.tgt["games"].times


async def test_their_renewer_renews_what_our_daemon_holds(box, ours):
    """It dumps, renews and adds each one back: the dumped field must be large enough for the renewed ticket."""
    before = {}
    client = ours.client()
    for user in ("games", "news"):
        await client.add(box.tgt[user])
        before[uid_of(user)] = box.tgt[user].times.endtime
    with (box.folder / "renewer.out").open("wb") as out:
        command = [str(PREFIX / "sbin/auksdrenewer"), "-F", "-f", str(box.conf(ours.port, nat=False))]
        renewer = subprocess.Popen(command, env=box.env("node"), stdout=out, stderr=out)  # noqa: ASYNC220
    try:
        end = time.monotonic() + 20
        while any(record.times.endtime <= before[record.uid] for record in await client.dump(auth=box.tgt["node"])):
            assert renewer.poll() is None and time.monotonic() < end, (box.folder / "renewer.out").read_text()
            await asyncio.sleep(0.2)
    finally:
        renewer.terminate()
        renewer.wait(10)


async def test_their_cache_directory_moves_into_our_daemon(box, tmp_path, monkeypatch):
    with theirs(box, nat=False) as port:
        conf = box.conf(port, nat=False)
        for user in ("games", "news"):
            assert box.run(THEIRS, conf, user, "-a")[0] == 0
    files = sorted(path.name for path in (box.folder / "cache").iterdir())
    assert files == sorted(f"aukscc_{uid}" for uid in (GAMES, NEWS))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    mine = Auksd(tmp_path / "mine", box.folder)
    mine.config, mine.port = conf, port
    with mine:
        for user in ("games", "news"):
            got = await mine.client().get(uid_of(user), auth=box.tgt["node"])
            assert got.times == box.tgt[user].times
            assert box.run(THEIRS, conf, user, "-r", "-u", str(uid_of(user)))[:2] == (0, DONE)
    assert sorted(path.name for path in (box.folder / "cache").iterdir()) == files
    for name in files:
        (box.folder / "cache" / name).unlink()
