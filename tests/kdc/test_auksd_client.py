"""The client of the cache: failover, deadlines, what an original server looks like to it, and the uploader."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from auksd_box import SERVICE, Auksd, login, uid_of
from mit import Mit

from hipercow_slurm.client.auks import AuksClient, Limits, Server
from hipercow_slurm.client.auks_blocking import BlockingAuksClient
from hipercow_slurm.errors import CredentialError, Error, UnavailableError
from hipercow_slurm.krb5 import creds
from hipercow_slurm.krb5.ccache import file_v4
from hipercow_slurm.values import KrbCred
from hipercow_slurm.wire import messages as m
from hipercow_slurm.wire import records
from hipercow_slurm.wire.frames import frame

PRINCIPAL = f"{SERVICE}@REALM.TEST"
GAMES = uid_of("games")
QUICK = Limits(connect_s=0.5, read_s=0.5, kdc_s=2, total_s=5, rounds=1, delay_s=0.1)


@pytest.fixture(scope="module")
def tgt(folder, realm) -> KrbCred:
    return login(folder, "games")


@pytest.fixture(scope="module")
def auksd(folder, realm):
    with Auksd(folder / "daemon", folder) as daemon:
        yield daemon


@pytest.fixture
def silent():
    """A server that accepts and says nothing: a stopped or saturated auksd."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield Server("127.0.0.1", PRINCIPAL, sock.getsockname()[1])


@pytest.fixture
def refusing():
    """A port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    return Server("127.0.0.1", PRINCIPAL, port)


async def test_failover_in_order(auksd, tgt, silent, refusing):
    """The original hangs for ever on a silent primary."""
    unknown = Server("no.such.host.invalid", PRINCIPAL)
    wrong_service = Server("127.0.0.1", "host/node.test@REALM.TEST", auksd.port)
    for first in (refusing, unknown, silent, wrong_service):
        began = time.monotonic()
        await AuksClient([first, auksd.server], limits=QUICK).ping(auth=tgt)
        assert time.monotonic() - began < 1.5, f"{first} cost too much"


async def test_all_servers_down_is_told_with_each_reason(tgt, silent, refusing):
    began = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        await AuksClient([refusing, silent], limits=QUICK).ping(auth=tgt)
    assert time.monotonic() - began < 2
    assert caught.value.code == "cache-unreachable"
    assert f"{refusing}: " in caught.value.message
    assert f"{silent}: no answer in time" in caught.value.message


async def test_rounds_and_total_deadline(tgt, silent, refusing):
    limits = Limits(connect_s=0.5, read_s=0.4, kdc_s=2, total_s=1.0, rounds=50, delay_s=0.1)
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        await AuksClient([silent, refusing], limits=limits).ping(auth=tgt)
    assert 0.9 < time.monotonic() - began < 4


async def test_a_server_that_comes_back_is_found(auksd, folder, tgt):
    late = Auksd(folder / "late", folder)
    pinging = asyncio.create_task(
        AuksClient([late.server], limits=Limits(rounds=40, delay_s=0.1, total_s=20)).ping(auth=tgt)
    )
    await asyncio.sleep(0.3)
    with late:
        await pinging


async def test_service_tickets_are_asked_for_once(auksd, realm, tgt):
    client = auksd.client()
    await client.ping(auth=tgt)
    realm.stop()
    try:
        for _ in range(3):
            await client.ping(auth=tgt)
    finally:
        realm._start_kdc()


async def test_a_forged_credential_does_not_find_anothers_service_ticket(auksd, folder, tgt):
    """Rule 3 of auks_steps: remembered under the whole TGT, not under the name in it."""
    client = auksd.client()
    await client.ping(auth=tgt)
    other = login(folder, "news")
    forged = KrbCred(other.der, tgt.client, tgt.times)
    assert client._tickets.known(forged, PRINCIPAL) is None
    assert client._tickets.known(tgt, PRINCIPAL) is not None


async def test_an_expired_ticket_fails_at_once_and_says_so(auksd, folder):
    old = login(folder, "news", lifetime_s=1, renew_s=1)
    await asyncio.sleep(2.2)
    began = time.monotonic()
    with pytest.raises(CredentialError) as caught:
        await AuksClient([auksd.server], limits=Limits(rounds=5, delay_s=2)).ping(auth=old)
    assert caught.value.code == "expired"
    assert time.monotonic() - began < 1, "no pause for what cannot get better"


async def test_a_rotated_service_key_is_survived(folder, realm, tmp_path):
    """The remembered ticket is for the old key: the client gets another by itself."""
    realm.add_service("auks/rotated.test")
    keytab = realm.keytab(tmp_path / "auksd.keytab", "auks/rotated.test")
    box = Auksd(tmp_path / "daemon", tmp_path)
    box.config.write_text(box.config.read_text().replace(SERVICE, "auks/rotated.test"))
    server = Server("127.0.0.1", "auks/rotated.test@REALM.TEST", box.port)
    cred = login(folder, "games")
    with box:
        client = AuksClient([server], limits=QUICK)
        await client.ping(auth=cred)
        realm.kadmin("cpw -randkey auks/rotated.test")
        keytab.unlink()
        realm.keytab(keytab, "auks/rotated.test")
        await client.ping(auth=cred)


class Original(threading.Thread):
    """A server on MIT's krb5_recvauth that echoes the client's subkey and answers as CEA's auksd does."""

    def __init__(self, keytab: str, replies: list[m.Reply], *, nat: bool = False) -> None:
        super().__init__(daemon=True)
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.server = Server("127.0.0.1", PRINCIPAL, self.sock.getsockname()[1], nat=nat)
        self.requests: list[m.Request] = []
        self._arguments = (keytab, replies, nat)
        self.start()

    def run(self) -> None:
        keytab, replies, nat = self._arguments
        mit = Mit()
        for reply in replies:
            sock, _ = self.sock.accept()
            with sock, sock.makefile("rb") as stream:
                peer = mit.recvauth(sock, PRINCIPAL, keytab, nat=nat)
                body = stream.read(int.from_bytes(stream.read(4), "big"))
                self.requests.append(m.decode_request(peer.unseal(body)))
                sock.sendall(frame(peer.seal(m.encode(reply))))
                body = stream.read(int.from_bytes(stream.read(4), "big"))
                self.requests.append(m.decode_request(peer.unseal(body)))


@pytest.mark.parametrize("nat", [False, True])
async def test_every_verb_against_an_original_server(folder, tgt, nat):
    record = records.Record.of(GAMES, tgt, records.MAX_CRED)
    replies = [m.PingReply(), m.AddReply(), m.GetReply(record), m.DumpReply((record,) * 9), m.RemoveReply()]
    original = Original(str(folder / "auksd.keytab"), [*replies, m.ErrorReply()], nat=nat)
    client = AuksClient([original.server], limits=QUICK)
    await client.ping(auth=tgt)
    await client.add(tgt)
    assert (await client.get(GAMES, auth=tgt)).der == tgt.der
    assert await client.dump(auth=tgt) == (record,) * 9
    assert await client.remove(GAMES, auth=tgt)
    assert await client.get(GAMES, auth=tgt) is None
    original.join(5)
    wanted = [m.Ping(), m.Add(tgt.der), m.Get(GAMES), m.Dump(), m.Remove(GAMES), m.Get(GAMES)]
    assert original.requests == [each for request in wanted for each in (request, m.Close())]


async def test_a_record_about_somebody_else_is_refused(folder, tgt):
    wrong = records.Record.of(GAMES + 1, tgt, records.MAX_CRED)
    other = records.Record(GAMES, "news@REALM.TEST", tgt.times, tgt.der)
    rubbish = records.Record(GAMES, tgt.client, tgt.times, b"\x76\x00")
    original = Original(str(folder / "auksd.keytab"), [m.GetReply(one) for one in (wrong, other, rubbish)])
    client = AuksClient([original.server], limits=QUICK)
    for _ in range(3):
        with pytest.raises(Error) as caught:
            await client.get(GAMES, auth=tgt)
        assert caught.value.EXIT == 6, caught.value


def test_mit_clients_are_served(auksd, folder, tgt):
    """The stock client is MIT's krb5_sendauth: it sends its frames one by one and takes our subkey."""
    (folder / "cc_mit").write_bytes(file_v4(tgt))
    mit = Mit()
    for nat in (False, True):
        with socket.create_connection(("127.0.0.1", auksd.port), timeout=5) as sock, sock.makefile("rb") as stream:
            sock.settimeout(None)  # MIT reads and writes the descriptor itself
            peer = mit.sendauth(sock, PRINCIPAL, f"FILE:{folder / 'cc_mit'}", nat=nat)

            def ask(request, peer=peer, sock=sock, stream=stream):
                sock.sendall(frame(peer.seal(m.encode(request))))
                return m.decode_reply(peer.unseal(stream.read(int.from_bytes(stream.read(4), "big"))))

            blob = mit.mk_ncred(f"FILE:{folder / 'cc_mit'}")
            assert ask(m.Ping()) == m.PingReply()
            assert ask(m.Add(blob)) == m.AddReply()
            assert ask(m.Get(GAMES)).record.data == blob
            assert ask(m.Remove(GAMES)) == m.RemoveReply()
            sock.sendall(frame(peer.seal(m.encode(m.Close()))))
            assert stream.read() == b"", "CLOSE has no reply"


def test_the_blocking_client(auksd, tgt, silent):
    client = BlockingAuksClient([silent, auksd.server], limits=QUICK)
    client.ping(auth=tgt)
    client.add(tgt)
    with pytest.raises(UnavailableError):
        BlockingAuksClient([silent], limits=QUICK).ping(auth=tgt)


# hipercow-slurm upload


def upload(config, *options, **env):
    command = [sys.executable, "-m", "hipercow_slurm", "upload", "--config", str(config), *options]
    environment = {**os.environ, **{key: str(value) for key, value in env.items()}}
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)


@pytest.fixture
def config(tmp_path, auksd):
    path = tmp_path / "agent.toml"
    path.write_text(
        f"""[agent]
socket = "/run/x"
[cache]
servers = [{{ host = "127.0.0.1", port = {auksd.port}, principal = "{PRINCIPAL}" }}]
"""
    )
    return path


async def test_upload_of_the_default_ccache(auksd, realm, folder, config, tmp_path, tgt):
    ccache = tmp_path / "cc"
    realm.kinit("games", "pass word 1", str(ccache), "-r", "2d")
    node = creds.keytab_tgt("host/node.test", str(folder / "node.keytab"))
    await auksd.client().remove(GAMES, auth=node)
    done = upload(config, KRB5CCNAME=f"FILE:{ccache}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "games@REALM.TEST, renewable until 20" in done.stdout
    assert await auksd.client().get(GAMES, auth=node) is not None
    quiet = upload(config, "--quiet", "--ccache", f"FILE:{ccache}", KRB5CCNAME="FILE:/nonexistent")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_upload_says_whose_turn_it_is(realm, config, tmp_path, auksd):
    ccache = tmp_path / "cc"
    realm.kinit("stranger", "pass word 1", str(ccache))
    assert upload(config, KRB5CCNAME="FILE:/nonexistent").returncode == 3
    assert upload(tmp_path / "none.toml", KRB5CCNAME=f"FILE:{ccache}").returncode == 78
    refused = upload(config, KRB5CCNAME=f"FILE:{ccache}")
    assert refused.returncode == 4, refused.stderr
    assert "[no-role]" in refused.stderr
    config.write_text(config.read_text().replace(str(auksd.port), "1"))
    down = upload(config, KRB5CCNAME=f"FILE:{ccache}")
    assert down.returncode == 75, down.stderr
    assert "Traceback" not in refused.stderr + down.stderr


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[cache]\n",
        "[cache\n",
        "[cache]\nservers = []",
        "[cache]\nservers = [1]",
        '[cache]\nservers = [{ host = "h" }]',
        '[cache]\nservers = [{ host = "h", principal = "p", colour = 1 }]',
        '[cache]\nservers = [{ host = "h", principal = "p", port = "1" }]',
    ],
)
def test_upload_with_a_bad_configuration(tmp_path, text):
    path = tmp_path / "agent.toml"
    path.write_text(text)
    done = upload(path)
    assert done.returncode == 78, done.stderr
    assert str(path) in done.stderr


def test_upload_starts_fast():
    """It runs in every srun: neither an event loop nor a web framework is imported for it."""
    program = "import sys, hipercow_slurm.cli.main, hipercow_slurm.client.upload; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"asyncio", "aiohttp", "starlette", "httpx", "structlog", "sqlite3"}
    heavy |= {"cryptography.x509", "cryptography.hazmat.primitives.asymmetric"}  # of it, only what reads ASN.1
    heavy &= set(loaded)
    assert not heavy, heavy
