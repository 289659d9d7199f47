"""The signer as a process of its own, under its own uid, against a real KDC: what it signs, and all it refuses.

The accounts exist in a private /etc/passwd of the signer's mount namespace, so getpwnam is the real one.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from hipercow_slurm.errors import AccessError, CredentialError, Error, ProtocolError, UnavailableError
from hipercow_slurm.krb5 import creds
from hipercow_slurm.krb5.auth import Initiator, service_ticket
from hipercow_slurm.signer import messages
from hipercow_slurm.signer.client import SignerClient, Token
from hipercow_slurm.testing.realm import Realm
from hipercow_slurm.values import KrbCred

pytestmark = pytest.mark.kdc

PASSWORD = "a long enough password"
SERVICE = "slurm-signer/head.test"
SIGNER_UID, API_UID, STRANGER_UID = 5202, 5201, 5301

# localname -> uid; the principal of the same name exists, too
ACCOUNTS = {
    "alice": 5001,
    "root": 0,
    "toor": 0,
    "daemon": 1,
    "slurm": 64030,
    "nobody": 65534,
    "hcs-api": API_UID,
    "hcs-signer": SIGNER_UID,
    "mallory": 5009,
    "5001": 5001,
}
NO_ACCOUNT = ("ghost", "0", "alice/admin")

CONFIG = """
[signer]
socket = "{dir}/sock/signer.sock"
keytab = "{dir}/signer.keytab"
service = "slurm-signer/head.test"
key = "{dir}/state/key.pem"
jwks = "{dir}/jwks.json"
deny = ["mallory"]
allow_users = ["hcs-api"]
allow_uids = [0]
deadline_s = 1.0
connections = 40
"""


class Signer:
    """A folder with all a signer needs, and the process."""

    def __init__(self, folder: Path, realm: Realm) -> None:
        self.dir, self.realm = folder, realm
        self.socket = folder / "sock" / "signer.sock"
        self.config = folder / "signer.toml"
        self.log_path = folder / "signer.log"
        self.process: subprocess.Popen[bytes] | None = None
        folder.chmod(0o755)
        self.config.write_text(CONFIG.format(dir=folder))
        shutil.copy(realm.krb5_conf, folder / "krb5.conf")
        rows = [f"{name}:x:{uid}:{uid}::/nonexistent:/bin/sh\n" for name, uid in ACCOUNTS.items()]
        (folder / "passwd").write_text("".join(rows))
        (folder / "sock").mkdir(mode=0o750)
        os.chown(folder / "sock", SIGNER_UID, API_UID)
        (folder / "state").mkdir(mode=0o700)
        os.chown(folder / "state", SIGNER_UID, SIGNER_UID)
        self.keytab(SERVICE)
        done = self.run("--init")
        assert done.returncode == 0, done.stderr

    def keytab(self, *services: str) -> None:
        path = self.dir / "signer.keytab"
        path.unlink(missing_ok=True)
        self.realm.keytab(path, *services)
        os.chown(path, SIGNER_UID, SIGNER_UID)

    def command(self, *options: str, uid: int = SIGNER_UID) -> list[str]:
        inner = 'mount --bind "$0" /etc/passwd && exec setpriv --reuid=$1 --regid=$1 --clear-groups -- "${@:2}"'
        program = [sys.executable, "-m", "hipercow_slurm", "signer", "--config", str(self.config), *options]
        unshare = ["unshare", "--mount", "--propagation", "private", "bash", "-c", inner]
        return [*unshare, str(self.dir / "passwd"), str(uid), *program]

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "KRB5_CONFIG": str(self.dir / "krb5.conf"), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(self, *options: str, uid: int = 0) -> subprocess.CompletedProcess[str]:
        """Run it to its end, as for --init or a configuration that is refused."""
        command = self.command(*options, uid=uid)
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=20, check=False)

    def start(self) -> None:
        with self.log_path.open("ab") as out:
            self.process = subprocess.Popen(self.command(), env=self.env, stdout=out, stderr=out)
        self.wait_for("signer.ready", count=self.log.count("signer.ready") + 1)

    def wait_for(self, text: str, *, count: int = 1) -> None:
        end = time.monotonic() + 10
        while self.log.count(text) < count:
            assert time.monotonic() < end, f"no {text!r} in: {self.log}"
            assert self.process is None or self.process.poll() is None, self.log
            time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(10)

    @property
    def log(self) -> str:
        return self.log_path.read_text() if self.log_path.exists() else ""

    @contextmanager
    def new_lines(self) -> Iterator[list[str]]:
        """The audit lines that the block caused."""
        before = len(self.log)
        lines: list[str] = []
        yield lines
        time.sleep(0.05)
        lines += [line for line in self.log[before:].splitlines() if "signer.signed" in line or "refused" in line]

    def client(self) -> SignerClient:
        return SignerClient(str(self.socket), SERVICE)

    def login(self, user: str, **options: int) -> KrbCred:
        """A TGT with a password."""
        keytab = str(self.dir / "signer.keytab")
        return creds.password_tgt(user, bytearray(PASSWORD.encode()), keytab=keytab, service=None, **options)


@pytest.fixture(scope="module")
def realm() -> Iterator[Realm]:
    folder = Path(tempfile.mkdtemp(prefix="hs-realm-"))
    realm = Realm(folder, "SIGNER.TEST", clockskew_s=1)
    try:
        realm.start()
        realm.kadmin(
            *(f'addprinc -pw "{PASSWORD}" {name}' for name in (*ACCOUNTS, *NO_ACCOUNT)),
            *(f"addprinc -randkey {name}" for name in (SERVICE, "HTTP/head.test")),
        )
        with realm.activated():
            yield realm
    finally:
        realm.destroy()


@pytest.fixture(scope="module")
def signer(realm: Realm) -> Iterator[Signer]:
    folder = Path(tempfile.mkdtemp(prefix="hs-signer-"))
    signer = Signer(folder, realm)
    try:
        signer.start()
        yield signer
        assert signer.stop() == 0, signer.log
        assert not signer.socket.exists()
    finally:
        if signer.process is not None and signer.process.poll() is None:
            signer.process.kill()
        shutil.rmtree(folder)


@pytest.fixture
async def client(signer: Signer) -> AsyncIterator[SignerClient]:
    client = signer.client()
    yield client
    client.close()


async def refused(act: Callable[[], object]) -> Error:
    with pytest.raises(Error) as caught:
        await act()  # type: ignore[misc]
    return caught.value


def claims(signer: Signer, token: Token) -> tuple[dict[str, object], dict[str, object]]:
    """Header and claims, verified with what slurmctld would have: the JWKS file."""
    keys = KeySet.import_key_set(json.loads((signer.dir / "jwks.json").read_text()))
    decoded = jwt.decode(token.token, keys, algorithms=["RS256"])
    return decoded.header, decoded.claims


# -- what it signs -----------------------------------------------------------------------------------------------


async def test_a_ticket_gets_a_token_for_its_owner(signer: Signer, client: SignerClient) -> None:
    now = int(time.time())
    with signer.new_lines() as lines:
        token = await client.token(signer.login("alice"))
    header, claimed = claims(signer, token)
    assert (token.localname, token.uid) == ("alice", 5001)
    assert set(claimed) == {"sun", "iat", "exp"} and claimed["sun"] == "alice", claimed
    assert isinstance(claimed["iat"], int) and isinstance(claimed["exp"], int)
    assert claimed["exp"] - claimed["iat"] == 60 and now <= claimed["iat"] <= now + 5 and token.exp == claimed["exp"]
    assert header["alg"] == "RS256" and header["kid"]
    (line,) = lines
    for part in (
        "event=signer.signed",
        "principal=alice@SIGNER.TEST",
        "sun=alice",
        "uid=5001",
        f"kid={header['kid']}",
        f"exp={token.exp}",
        f"peer_uid={os.getuid()}",
    ):
        assert part in line, f"{part} is missing in the audit line {line}"
    assert token.token.split(".")[2] not in signer.log and "eyJ" not in signer.log, "a token in the log"
    assert token.token not in repr(token)


def test_it_runs_under_its_own_uid_and_its_key_is_its_own(signer: Signer) -> None:
    assert signer.process is not None
    status = Path(f"/proc/{signer.process.pid}/status").read_text()
    assert f"Uid:\t{SIGNER_UID}\t{SIGNER_UID}\t{SIGNER_UID}\t{SIGNER_UID}" in status, status
    key = (signer.dir / "state" / "key.pem").stat()
    assert (key.st_uid, stat.S_IMODE(key.st_mode)) == (SIGNER_UID, 0o600)
    assert (signer.dir / "jwks.json").stat().st_uid == 0


async def test_many_at_once(signer: Signer, client: SignerClient) -> None:
    cred = signer.login("alice")
    await client.token(cred)
    with signer.new_lines() as lines:
        tokens = await asyncio.gather(*(client.token(cred) for _ in range(30)))
    assert {token.localname for token in tokens} == {"alice"}
    assert len(lines) == 30, "one audit line each"


async def test_the_service_ticket_is_fetched_once(signer: Signer, client: SignerClient) -> None:
    cred = signer.login("alice")
    await client.token(cred)
    another = signer.client()
    signer.realm.stop()
    try:
        assert (await client.token(cred)).localname == "alice"
        error = await refused(lambda: another.token(cred))
    finally:
        signer.realm.restart()
        another.close()
    assert isinstance(error, UnavailableError), f"without a kept ticket the KDC is needed: {error!r}"


async def test_a_rotated_keytab_costs_nobody_an_error(signer: Signer, client: SignerClient) -> None:
    cred = signer.login("alice")
    await client.token(cred)
    signer.realm.kadmin(f"cpw -randkey {SERVICE}")
    signer.keytab(SERVICE)
    assert (await client.token(cred)).localname == "alice", "the kept ticket was for the old key"


# -- whom it refuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "code"),
    [
        ("root", "account-denied"),
        ("toor", "account-denied"),
        ("slurm", "account-denied"),
        ("nobody", "account-denied"),
        ("hcs-api", "account-denied"),
        ("hcs-signer", "account-denied"),
        ("mallory", "account-denied"),
        ("5001", "account-denied"),
        ("0", "account-denied"),
        ("daemon", "uid-too-low"),
        ("ghost", "no-such-account"),
        ("alice/admin", "no-localname"),
    ],
)
async def test_a_true_ticket_is_not_enough(signer: Signer, client: SignerClient, user: str, code: str) -> None:
    cred = signer.login(user)
    with signer.new_lines() as lines:
        error = await refused(lambda: client.token(cred))
    assert isinstance(error, AccessError) and error.code == code, error
    (line,) = lines
    assert f"principal={user}@SIGNER.TEST" in line and f"code={code}" in line, line


async def test_a_ticket_for_another_service_is_refused(signer: Signer) -> None:
    """What the API receives in its own name must be of no use here."""
    ticket = service_ticket(signer.login("alice"), "HTTP/head.test")
    error = await refused(lambda: ask(signer, ap_req_of(ticket)))
    assert error.code == "not-for-us", error


async def test_a_ticket_of_a_lying_kdc_is_refused(signer: Signer, tmp_path: Path) -> None:
    """Another KDC of the same realm name knows alice and the service, but not the service's key."""
    liar = Realm(tmp_path / "liar", "SIGNER.TEST", clockskew_s=1)
    with liar:
        liar.kadmin(f'addprinc -pw "{PASSWORD}" alice', f"addprinc -randkey {SERVICE}")
        liar.keytab(tmp_path / "liar.keytab", SERVICE)
        with liar.activated():
            await asyncio.sleep(1.1)  # a thread looks for a changed krb5.conf once a second
            cred = creds.password_tgt(
                "alice", bytearray(PASSWORD.encode()), keytab=str(tmp_path / "liar.keytab"), service=None
            )
            ap_req = ap_req_of(service_ticket(cred, SERVICE))
    await asyncio.sleep(1.1)
    error = await refused(lambda: ask(signer, ap_req))
    assert isinstance(error, CredentialError | ProtocolError), error


async def test_an_expired_ticket_is_refused(signer: Signer) -> None:
    ticket = service_ticket(signer.login("alice", lifetime_s=1), SERVICE)
    await asyncio.sleep(max(0.0, ticket.endtime + 2.1 - time.time()))  # libkrb5 adds the skew of 1 s
    error = await refused(lambda: ask(signer, ap_req_of(ticket)))
    assert isinstance(error, CredentialError) and error.code == "expired", error


async def test_an_old_authenticator_is_refused(signer: Signer) -> None:
    """A recorded AP-REQ is not even answered once the clock skew (1 s here) is over."""
    ap_req = ap_req_of(service_ticket(signer.login("alice"), SERVICE))
    await asyncio.sleep(2.3)
    error = await refused(lambda: ask(signer, ap_req))
    assert error.code == "clock-skew", error


async def test_a_replayed_ap_req_gains_nothing(signer: Signer) -> None:
    """Who recorded alice's AP-REQ gets an answer that only alice's session key opens, and never the same one."""
    ticket = service_ticket(signer.login("alice"), SERVICE)
    thief = service_ticket(signer.login("mallory"), SERVICE)
    with Initiator(None, SERVICE, local=None, remote=None, service_ticket=ticket) as alice:
        ap_req = alice.ap_req()
        ap_rep, sealed = await ask(signer, ap_req)
        alice.ap_rep(ap_rep)
        signed = messages.read_signed(alice.unseal(sealed))
        replayed_rep, replayed = await ask(signer, ap_req)
        assert replayed != sealed and replayed_rep != ap_rep
        assert signed.token.encode() not in replayed and b"eyJ" not in replayed + replayed_rep
        with pytest.raises(ProtocolError):
            alice.unseal(replayed)  # not even the first exchange's keys: the signer drew a new subkey
    with Initiator(None, SERVICE, local=None, remote=None, service_ticket=thief) as mallory:
        mallory.ap_req()
        with pytest.raises(ProtocolError):
            mallory.ap_rep(replayed_rep)


def test_only_allowed_uids_may_ask(signer: Signer) -> None:
    """The kernel says who connects; a stranger who got as far as the socket is told no before a byte is read."""
    assert exchange_as(signer, API_UID, b"\0\0\0\4junk")["code"] == "wire-malformed"
    with signer.new_lines() as lines:
        reply = exchange_as(signer, STRANGER_UID, b"\0\0\0\4junk")
    assert (reply["ok"], reply["code"]) == (False, "peer-denied"), reply
    assert len(lines) == 1 and f"peer_uid={STRANGER_UID}" in lines[0], lines
    outside = exchange_as(signer, STRANGER_UID, b"", group=STRANGER_UID)
    assert "PermissionError" in outside["code"], "the directory alone keeps others out"


# -- what it withstands ------------------------------------------------------------------------------------------


async def test_malformed_requests_are_answered_and_forgotten(signer: Signer, client: SignerClient) -> None:
    cred = signer.login("alice")
    good = ap_req_of(service_ticket(cred, SERVICE))
    announced = {
        b"\0\0\0\0": "wire-malformed",
        b"\0\1\0\1": "wire-too-long",  # 64 KiB and 1, with nothing behind it: refused unread
        b"\xff\xff\xff\xff": "wire-too-long",
        b"GET / HTTP/1.1\r\n\r\n": "wire-too-long",
        b"\0\0": "wire-malformed",
        b"\0\0\0\x08abc": "wire-malformed",
        b"": "wire-malformed",
    }
    bodies = [
        b"\0",
        b"{}",
        b'{"sun":"root"}',
        b"\x30\x80\0\0",
        b"\x6e\x82\xff\xff" + b"A" * 100,
        b"A" * 65536,
        b"\x6f" + good[1:],  # an AP-REP's tag
        good[:-1],
        good + b"\0",
        good[: len(good) // 2],
        good[:200] + bytes([good[200] ^ 1]) + good[201:],
        good[:-5] + bytes([good[-5] ^ 1]) + good[-4:],
    ]
    with signer.new_lines() as lines:
        for raw, code in announced.items():
            assert (await raw_exchange(signer, raw))["code"] == code, raw
        for body in bodies:
            reply = await raw_exchange(signer, messages.frame(body))
            assert reply["ok"] is False and reply["code"] != "bug", (body[:20], reply)
    assert len(lines) == len(announced) + len(bodies), "one audit line for each refusal"
    assert "signer.bug" not in signer.log
    assert (await client.token(cred)).localname == "alice"


async def test_every_truncation_of_an_ap_req_is_refused(signer: Signer) -> None:
    good = ap_req_of(service_ticket(signer.login("alice"), SERVICE))
    for length in range(1, len(good), 37):
        reply = await raw_exchange(signer, messages.frame(good[:length]))
        assert reply["ok"] is False and reply["code"] != "bug", (length, reply)


async def test_silent_connections_hold_up_nobody_and_end(signer: Signer, client: SignerClient) -> None:
    cred = signer.login("alice")
    await client.token(cred)
    silent = [await asyncio.open_unix_connection(signer.socket) for _ in range(30)]
    begin = time.monotonic()
    await client.token(cred)
    assert time.monotonic() - begin < 0.9
    replies = await asyncio.gather(*(reply_of(reader) for reader, _ in silent))
    assert time.monotonic() - begin < 3, "the deadline is 1 s"
    assert {reply["code"] for reply in replies} == {"wire-timeout"}
    for _, writer in silent:
        writer.close()


async def test_too_many_connections_are_told_so(signer: Signer, client: SignerClient) -> None:
    cred = signer.login("alice")
    await client.token(cred)
    silent = [await asyncio.open_unix_connection(signer.socket) for _ in range(40)]
    await asyncio.sleep(0.1)
    error = await refused(lambda: client.token(cred))
    assert isinstance(error, UnavailableError) and error.code == "signer-busy", error
    for _, writer in silent:
        writer.close()
        await writer.wait_closed()
    await asyncio.sleep(0.1)
    assert (await client.token(cred)).localname == "alice"


async def test_a_signer_that_hangs_or_is_gone_is_unavailable(signer: Signer) -> None:
    client = SignerClient(str(signer.socket), SERVICE, timeout_s=0.5)
    cred = signer.login("alice")
    await client.token(cred)
    assert signer.process is not None
    signer.process.send_signal(signal.SIGSTOP)
    try:
        error = await refused(lambda: client.token(cred))
    finally:
        signer.process.send_signal(signal.SIGCONT)
    assert isinstance(error, UnavailableError) and error.code == "signer-unreachable", error
    client.close()
    nowhere = SignerClient(str(signer.dir / "nowhere.sock"), SERVICE)
    error = await refused(lambda: nowhere.token(cred))
    assert error.code == "signer-unreachable" and "No such file" in error.message, error


async def test_an_impostor_signer_is_found_out(signer: Signer, tmp_path: Path) -> None:
    """Something else on the socket that answers with an AP-REP of its own making, or an earlier one."""
    cred = signer.login("alice")
    earlier = await ask(signer, ap_req_of(service_ticket(cred, SERVICE)))

    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(messages.granted(*earlier))
        writer.close()

    async with await asyncio.start_unix_server(pretend, tmp_path / "impostor.sock"):
        client = SignerClient(str(tmp_path / "impostor.sock"), SERVICE)
        error = await refused(lambda: client.token(cred))
    assert isinstance(error, ProtocolError), error


def test_killed_and_started_again(signer: Signer) -> None:
    """A socket file that a killed signer left is no hindrance; a second signer beside a living one is refused."""
    second = signer.run(uid=SIGNER_UID)
    assert second.returncode == 78 and "another signer" in second.stderr, second.stderr
    assert signer.socket.exists()
    signer.stop(signal.SIGKILL)
    assert signer.socket.exists()
    signer.start()
    assert stat.S_ISSOCK(signer.socket.stat().st_mode)


# -- what keeps it from starting ---------------------------------------------------------------------------------


def open_key(signer: Signer) -> None:
    (signer.dir / "state" / "key.pem").chmod(0o644)


def roots_key(signer: Signer) -> None:
    os.chown(signer.dir / "state" / "key.pem", 0, -1)


def long_life(signer: Signer) -> None:
    signer.config.write_text(signer.config.read_text() + "lifetime_s = 121\n")


def unknown_user(signer: Signer) -> None:
    signer.config.write_text(signer.config.read_text().replace('"hcs-api"', '"hcs-apo"'))


def unknown_slurm_user(signer: Signer) -> None:
    signer.config.write_text(signer.config.read_text() + 'slurm_user = "slurmm"\n')


def open_directory(signer: Signer) -> None:
    signer.socket.parent.chmod(0o755)


def other_keytab(signer: Signer) -> None:
    signer.keytab("HTTP/head.test")


def no_keytab(signer: Signer) -> None:
    (signer.dir / "signer.keytab").unlink()


@pytest.mark.parametrize(
    ("spoil", "evidence"),
    [
        (open_key, "key-unsafe"),
        (roots_key, "key-unreadable"),
        (long_life, "lifetime_s is 121"),
        (unknown_user, "hcs-apo"),
        (unknown_slurm_user, "slurmm"),
        (open_directory, "socket-unsafe"),
        (other_keytab, "has no key of slurm-signer"),
        (no_keytab, "keytab"),
    ],
)
def test_does_not_start(realm: Realm, spoil: Callable[[Signer], None], evidence: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="hs-signer-"))
    try:
        signer = Signer(folder, realm)
        spoil(signer)
        done = signer.run(uid=SIGNER_UID)
        assert done.returncode == 78, (done.returncode, done.stderr)
        assert evidence in done.stderr, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
    finally:
        shutil.rmtree(folder)


def test_init_and_rotate_from_the_command_line(realm: Realm) -> None:
    folder = Path(tempfile.mkdtemp(prefix="hs-signer-"))
    try:
        signer = Signer(folder, realm)  # has run --init
        first, second = (key["kid"] for key in json.loads((folder / "jwks.json").read_text())["keys"])
        again = signer.run("--init")
        assert again.returncode == 78 and "--rotate" in again.stderr, again.stderr
        rotated = signer.run("--rotate")
        assert rotated.returncode == 0 and second in rotated.stdout and first not in rotated.stdout, rotated
        kids = [key["kid"] for key in json.loads((folder / "jwks.json").read_text())["keys"]]
        assert kids[0] == second and len(kids) == 2
        assert {path.stat().st_uid for path in (folder / "state").iterdir()} == {SIGNER_UID}
    finally:
        shutil.rmtree(folder)


# -- helpers -----------------------------------------------------------------------------------------------------


def ap_req_of(ticket: object) -> bytes:
    with Initiator(None, SERVICE, local=None, remote=None, service_ticket=ticket) as initiator:  # type: ignore[arg-type]
        return initiator.ap_req()


async def ask(signer: Signer, ap_req: bytes) -> tuple[bytes, bytes]:
    """ap_rep and sealed, or the refusal as an error."""
    reader, writer = await asyncio.open_unix_connection(signer.socket)
    try:
        writer.write(messages.frame(ap_req))
        header = await reader.readexactly(4)
        return messages.read_reply(await reader.readexactly(messages.length_of(header, messages.REPLY_LIMIT)))
    finally:
        writer.close()


async def raw_exchange(signer: Signer, raw: bytes) -> dict[str, object]:
    reader, writer = await asyncio.open_unix_connection(signer.socket)
    try:
        writer.write(raw)
        writer.write_eof()
        return await reply_of(reader)
    finally:
        writer.close()


async def reply_of(reader: asyncio.StreamReader) -> dict[str, object]:
    async with asyncio.timeout(5):
        header = await reader.readexactly(4)
        reply: dict[str, object] = json.loads(await reader.readexactly(int.from_bytes(header, "big")))
    return reply


def exchange_as(signer: Signer, uid: int, raw: bytes, *, group: int = API_UID) -> dict[str, str]:
    """Connect as another uid, in a process of its own; a failure to connect is told as a code."""
    read, write = socket.socketpair()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(group)
            os.setuid(uid)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(5)
                sock.connect(str(signer.socket))
                sock.sendall(raw)
                answer = b""
                while part := sock.recv(4096):
                    answer += part
            write.sendall(answer[4:])
        except OSError as error:
            write.sendall(json.dumps({"code": repr(error)}).encode())
        finally:
            os._exit(0)
    write.close()
    os.waitpid(child, 0)
    with read:
        answer = json.loads(read.recv(65536))
    assert isinstance(answer, dict)
    return answer
