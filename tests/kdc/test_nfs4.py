"""The NFSv4 client against a real nfs-ganesha and a real KDC, as users other than root, with real tickets."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from nfs_box import HOST, SMALL_BYTES, NfsBox

pytestmark = pytest.mark.kdc
Done = subprocess.CompletedProcess[bytes]


@pytest.fixture(scope="module")
def box() -> Iterator[NfsBox]:
    # Not pytest's own folder: other users must be able to enter it.
    folder = Path(tempfile.mkdtemp(prefix="nfsbox"))
    folder.chmod(0o755)
    box = NfsBox(folder)
    yield box
    box.close()
    shutil.rmtree(folder)


def nfs(
    box: NfsBox, user: str, command: str, path: str, *options: str, ccache: str | None = None, **more: bytes
) -> Done:
    """Run the command as ``user`` with their own ticket, or with the box's ccache of the name ``ccache``."""
    residual = box.facts["ccaches"].get(ccache or user, ccache)
    return box.run(
        *("-m", "hipercow_slurm.files.nfs4", command, *options, HOST, path),
        user=user,
        env={"KRB5CCNAME": residual},
        **more,
    )


def python(box: NfsBox, code: str, user: str = "alice") -> object:
    """Run Python code as ``user`` with their ticket; what it prints is JSON."""
    header = "import json, os\nfrom hipercow_slurm.errors import Error\n"
    header += f"from hipercow_slurm.files.nfs4 import Client, Server\nserver = Server({HOST!r})\n"
    done = box.run("-c", header + code, user=user, env={"KRB5CCNAME": box.facts["ccaches"][user]})
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def refused(done: Done, status: int, *words: str) -> None:
    """The command failed with that status, said those words in one line, and printed nothing else."""
    said = done.stderr.decode()
    assert done.returncode == status, (done.returncode, said, done.stdout)
    assert done.stdout == b""
    assert said.startswith("nfs4: ") and said.count("\n") == 1, said
    for word in words:
        assert word in said, said


def test_the_owner_reads_her_file(box: NfsBox) -> None:
    done = nfs(box, "alice", "cat", "/data/alice/secret")
    assert (done.returncode, done.stdout) == (0, b"secret of alice\n"), done.stderr
    part = nfs(box, "alice", "cat", "/data/alice/secret", "--offset", "7", "--limit", "2")
    assert part.stdout == b"of", part


@pytest.mark.parametrize(("security", "share"), [("krb5i", "signed"), ("krb5", "plain")])
def test_the_other_protections(box: NfsBox, security: str, share: str) -> None:
    done = nfs(box, "alice", "cat", f"/{share}/alice/secret", "--security", security)
    assert done.stdout == b"secret of alice\n", done.stderr
    refused(nfs(box, "alice", "cat", "/data/alice/secret", "--security", security), 4, "[wrong-security]", "export")


def test_others_are_denied(box: NfsBox) -> None:
    """By the directory's mode, and where the directory is open, by the file's: reading needs no OPEN here."""
    refused(nfs(box, "bob", "cat", "/data/alice/secret"), 4, "permission denied", "[access-denied]")
    refused(nfs(box, "bob", "cat", "/data/alices"), 4, "permission denied", "[access-denied]")
    refused(nfs(box, "bob", "write", "/data/alices", "--text", "x"), 4, "[access-denied]")
    refused(nfs(box, "bob", "ls", "/data/alice"), 4, "[access-denied]")
    assert (box.dir / "data" / "alices").read_text() == "alice's, in a directory for all\n"


def test_a_ticket_decides_not_the_uid(box: NfsBox) -> None:
    refused(nfs(box, "bob", "cat", "/data/alice/secret", ccache="alice"), 3, "permissions incorrect", "[no-tgt]")
    refused(nfs(box, "alice", "cat", "/data/alice/secret", ccache="FILE:/nowhere"), 3, "/nowhere", "[no-tgt]")
    by_option = nfs(box, "alice", "cat", "/data/alice/secret", "--ccache", box.facts["ccaches"]["alice"])
    assert by_option.returncode == 0, by_option.stderr


@pytest.mark.parametrize(
    ("command", "path", "code"),
    [
        ("cat", "/data/alice/nothing", "no-such-file"),
        ("cat", "/data/alice/secret/below", "not-a-directory"),
        ("cat", "/data/alice", "is-a-directory"),
        ("cat", "/data/alice/link", "is-a-symlink"),
        ("cat", "/data/way/secret", "is-a-symlink"),
        ("write", "/data/alice/link", "is-a-symlink"),
        ("write", "/data/way/new", "is-a-symlink"),
        ("ls", "/data/way", "is-a-symlink"),
        ("ls", "/data/alice/secret", "not-a-directory"),
        ("cat", "/data/bob/../alice/secret", "bad-path"),
        ("cat", "data/alice/secret", "bad-path"),
        ("cat", "/data/" + "x" * 256, "bad-path"),
        ("write", "/", "is-a-directory"),
    ],
)
def test_what_cannot_be_read(box: NfsBox, command: str, path: str, code: str) -> None:
    refused(nfs(box, "alice", command, path), 2, f"[{code}]")
    assert (box.dir / "data" / "alice" / "secret").read_text() == "secret of alice\n"


def test_a_listing(box: NfsBox) -> None:
    """Many pages, each name once; a name cannot move the terminal's cursor."""
    listed = nfs(box, "alice", "ls", "/data/alice/many").stdout.decode().splitlines()
    assert listed == [*(f"file-{number:04}" for number in range(1500)), "tab\\there"]
    rows = [json.loads(line) for line in nfs(box, "alice", "ls", "/data/alice", "--json").stdout.splitlines()]
    kinds = {row["name"]: (row["type"], row["owner"]) for row in rows}
    assert kinds.get("secret") == ("file", "alice@realm.test"), kinds
    assert kinds["link"][0] == "symlink" and kinds["many"][0] == "directory", kinds
    about = json.loads(nfs(box, "alice", "stat", "/data/alice/secret", "--json").stdout)
    assert (about["size"], about["mode"], abs(about["mtime"] - time.time()) < 600) == (16, 0o644, True), about


def test_writing(box: NfsBox) -> None:
    path, real = "/data/alice/new", box.dir / "data" / "alice" / "new"
    assert nfs(box, "alice", "write", path, input=b"one, longer").returncode == 0
    assert (real.read_bytes(), real.stat().st_uid, real.stat().st_mode & 0o777) == (b"one, longer", 5001, 0o600)
    assert nfs(box, "alice", "write", path, "--mode", "0644", "--text", "two").returncode == 0
    assert nfs(box, "alice", "write", path, "--append", input=b" three").returncode == 0
    assert (real.read_bytes(), real.stat().st_mode & 0o777) == (b"two three", 0o600), "content or mode"
    assert nfs(box, "alice", "write", path).returncode == 0
    assert real.read_bytes() == b""


def test_a_full_file_system_keeps_what_is_there(box: NfsBox) -> None:
    """Would have caught: the file is emptied first, and then there is no room for what should take its place."""
    small = box.dir / "small"
    inside = ["-c", "import pathlib, sys; print(pathlib.Path(sys.argv[1]).read_text())"]
    for path, more in (("/small/alice/secret", ()), ("/small/alice/secret", ("--append",)), ("/small/alice/new", ())):
        done = nfs(box, "alice", "write", path, *more, input=bytes(SMALL_BYTES))
        refused(done, 75, "no space left", "nothing was changed", "[no-space]")
        assert box.run(*inside, str(small / "alice/secret"), user=None).stdout == b"secret of alice\n\n", path
    names = nfs(box, "alice", "ls", "/small/alice").stdout
    assert b"new" not in names, names
    # What the old content leaves counts as room: most of the file system is this file.
    for _ in range(2):
        done = nfs(box, "alice", "write", "/small/alice/most", input=bytes(SMALL_BYTES * 2 // 3))
        assert done.returncode == 0, done


def test_a_large_file_in_both_directions(box: NfsBox) -> None:
    """More than one READ and WRITE; the size is told with the bytes; nothing comes from beyond the end."""
    code = """
with Client(server) as client:
    big, size = client.read("/data/alice/big")
    written = client.write("/data/alice/copy", big + b"end")
    tail = client.read("/data/alice/copy", offset=len(big) - 1, limit=100)
    beyond = client.read("/data/alice/copy", offset=10 ** 12, limit=100)
    streamed = b"".join(client.stream("/data/alice/copy", offset=5))
print(json.dumps([size, written, tail[0].hex(), beyond[0].hex(), beyond[1], streamed == (big + b"end")[5:]]))
"""
    n = 2 * 1024 * 1024
    assert python(box, code) == [n, n + 3, b"\xffend".hex(), "", n + 3, True]
    assert (box.dir / "data" / "alice" / "copy").read_bytes() == bytes(range(256)) * 8192 + b"end"


def test_a_file_that_grows_behind_the_server_s_back(box: NfsBox) -> None:
    """As job output does where nodes write to the share's disk directly: ganesha remembers sizes for a minute."""
    real = box.dir / "data" / "alice" / "growing"
    real.write_bytes(b"one ")
    assert read_at(box, "growing", 0, 4, 9) == [["one ", 4], ["", 4], ["", 4]]
    with real.open("ab") as file:
        file.write(b"two")
    assert read_at(box, "growing", 4, 7, 0) == [["two", 7], ["", 7], ["one two", 7]]
    real.write_bytes(b"x")
    assert read_at(box, "growing", 7)[0][1] < 7, "the file has become shorter, and that must show"


def read_at(box: NfsBox, name: str, *offsets: int) -> object:
    """What is read at each offset, and the size that is told with it."""
    return python(
        box,
        f"""
with Client(server) as client:
    found = [client.read("/data/alice/{name}", offset=at, limit=100) for at in {offsets!r}]
print(json.dumps([[data.decode(), size] for data, size in found]))
""",
    )


def test_every_changed_byte_of_a_reply_is_noticed(box: NfsBox) -> None:
    """A man in the middle flips one bit of the server's last answer, at every position in turn: krb5p, krb5i."""
    code = """
import socket, threading
def relay(listener, position):
    # Counts the server's records; in the one that carries the file's bytes it flips a bit.
    near, _ = listener.accept()
    far = socket.create_connection((server.host, 2049))
    def record(sock):
        data = b""
        while len(data) < 4 or len(data) < 4 + (int.from_bytes(data[:4], "big") & 0x7fffffff):
            piece = sock.recv(65536)
            if not piece: return None
            data += piece
        return data
    count = 0
    while (request := record(near)):
        far.sendall(request)
        reply = bytearray(record(far) or b"")
        count += 1
        if count == 3 and position is not None:
            if position + 4 >= len(reply): near.close(); return
            reply[4 + position] ^= 1 << position % 8
        near.sendall(reply)
results = {}
for security, share in ("krb5p", "data"), ("krb5i", "signed"):
    good, outcomes, position = None, {}, None
    while True:
        listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=relay, args=(listener, position), daemon=True).start()
        via = Server(server.host, listener.getsockname()[1], security, "127.0.0.1")
        try:
            with Client(via, timeout_s=5) as client:
                outcome = client.read(f"/{share}/alice/secret")[0].decode()
        except Error as error:
            outcome = "past the end" if "closed" in error.message else type(error).__name__
        listener.close()
        if outcome == "past the end": break
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        position = 0 if position is None else position + 1
    results[security] = outcomes
print(json.dumps(results))
"""
    results = python(box, code)
    for security, outcomes in results.items():
        # One run is without a flip: that one reads the file, and no other does.
        assert outcomes.pop("secret of alice\n") == 1, (security, outcomes)
        assert sum(outcomes.values()) > 100, (security, outcomes)
        assert set(outcomes) <= {"AccessError", "ProtocolError", "UnavailableError"}, (security, outcomes)


def test_reading_with_a_ticket_in_memory(box: NfsBox) -> None:
    """As the API does: the ticket is nowhere on disk, and no descriptor stays open."""
    code = """
from hipercow_slurm.files.as_user import read_file
from hipercow_slurm.krb5.ccache import read_tgt
cred = read_tgt(None)
os.environ["KRB5CCNAME"] = "FILE:/nowhere"
before = sorted(os.listdir("/proc/self/fd"))
data, size = read_file(server, "/data/alice/secret", cred, 10, 3)
try: read_file(server, "/data/bob/secret", cred, 0, 10); denied = None
except Error as error: denied = error.code
print(json.dumps([data.decode(), size, denied, sorted(os.listdir("/proc/self/fd")) == before]))
"""
    assert python(box, code) == ["ali", 16, "access-denied", True]


def test_an_expired_ticket(box: NfsBox) -> None:
    """Before the connection is made, and while it stands: both say "expired", and whose turn it is."""
    box.tell("brief-ticket")
    brief = f"FILE:{box.dir}/brief_alice"
    code = f"""
import time
results, end = [], time.time() + 20
with Client(server, ccache={box.facts["ccaches"]["alice"]!r}) as other, \\
     Client(server, ccache={brief!r}) as client:
    while time.time() < end and len(results) < 2:
        try: outcome = client.read("/data/alice/secret")[0].decode()
        except Error as error: outcome = error.code
        if results[-1:] != [outcome]: results.append(outcome)
        time.sleep(0.1)
    print(json.dumps([*results, other.read("/data/alice/secret")[0].decode()]))
"""
    assert python(box, code) == ["secret of alice\n", "expired", "secret of alice\n"]
    end = time.monotonic() + 10
    while (done := nfs(box, "alice", "cat", "/data/alice/secret", ccache=brief)).returncode == 0:
        assert time.monotonic() < end, "the server's tolerance for clocks is 1 s, and it still takes the ticket"
    refused(done, 3, "expired", "[expired]")


def test_the_server_hangs_or_is_gone(box: NfsBox) -> None:
    box.tell("pause-nfs")
    try:
        started = time.monotonic()
        refused(nfs(box, "alice", "cat", "/data/alice/secret", "--timeout", "0.5"), 75, "[file-server-timeout]")
        assert time.monotonic() - started < 3
        # Who may write for long still learns soon of a server that says nothing at all.
        started = time.monotonic()
        refused(nfs(box, "alice", "cat", "/data/alice/secret", "--timeout", "60"), 75, "[file-server-timeout]")
        assert time.monotonic() - started < 20
    finally:
        box.tell("resume-nfs")
    box.tell("stop-nfs")
    try:
        refused(nfs(box, "alice", "cat", "/data/alice/secret"), 75, "refused", "[file-server-unreachable]")
    finally:
        box.tell("start-nfs")
    assert nfs(box, "alice", "cat", "/data/alice/secret").stdout == b"secret of alice\n"


def test_the_kdc_hangs_or_is_gone(box: NfsBox) -> None:
    """A ticket for the server that is in the cache already needs no KDC; a fresh TGT does, within the deadline."""
    assert nfs(box, "alice", "cat", "/data/alice/secret").returncode == 0
    for down, up, code in (("stop-kdc", "start-kdc", "kdc-unreachable"), ("pause-kdc", "resume-kdc", "timeout")):
        box.tell(down)
        try:
            started = time.monotonic()
            fresh = nfs(box, "alice", "cat", "/data/alice/secret", "--timeout", "0.5", ccache="fresh")
            refused(fresh, 75, f"[{code}]")
            assert time.monotonic() - started < 3, code
            assert nfs(box, "alice", "cat", "/data/alice/secret").stdout == b"secret of alice\n"
        finally:
            box.tell(up)


def test_a_server_the_realm_does_not_know(box: NfsBox) -> None:
    done = box.run(
        *("-m", "hipercow_slurm.files.nfs4", "cat", "--address", "127.0.0.1", "other.realm.test", "/data/alice/secret"),
        user="alice",
        env={"KRB5CCNAME": box.facts["ccaches"]["alice"]},
    )
    refused(done, 4, "nfs/other.realm.test", "[unknown-service]")


def test_the_start_is_quick_and_light(box: NfsBox) -> None:
    """Jobs run it every second: of the foreign libraries only gssapi (and what it brings) is loaded."""
    done = box.run("-X", "importtime", "-c", "import hipercow_slurm.files.nfs4", user="alice")
    loaded = {line.rpartition(b"|")[2].strip().split(b".")[0].decode() for line in done.stderr.splitlines()}
    assert "gssapi" in loaded
    heavy = {"asyncio", "click", "httpx", "msgspec", "cryptography", "cffi", "structlog", "ssl", "rich"}
    assert not loaded & heavy, loaded & heavy
