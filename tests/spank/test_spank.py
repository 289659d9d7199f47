"""The plugin without Slurm: one text file per case in ``scripts/``, run by a fake host under the sanitizers.

A script has sections: ``[plugstack]`` the arguments of the plugin's line; ``[host]`` what the fake host is told before
the hooks are called (commands of fakehost.c); ``[agent]`` ``REQUEST -> REPLY`` for each connection in turn, where
REPLY is text or one of ``(silent)`` ``(close)`` ``(drip)`` ``(endless)`` ``(empty)``, or the word ``foreign`` alone:
an agent of another user; ``[uploader]`` the shell script to use as uploader; ``[calls]`` the hooks; ``[expect]``
everything the host prints, in order; ``[limits]`` ``at_least_ms`` and ``at_most_ms``. ``@SOCKET@``, ``@UPLOADER@``
and ``@DIR@`` are replaced.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import der_parts as der
from fix_sandbox import SLURM
from hipercow_slurm.krb5 import krbcred
from hipercow_slurm.krb5.ccache import file_v4
from hipercow_slurm.krb5.principal import Principal
from hipercow_slurm.testing import slurm_tree
from hipercow_slurm.values import KrbCred

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "spank"
SCRIPTS = sorted((HERE / "scripts").glob("*.txt"))


@dataclass
class Built:
    host: Path
    plugin: Path


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder other users can enter (not so pytest's own): some scripts go on as one."""
    with tempfile.TemporaryDirectory(prefix="hipercow-slurm-spank-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Plugin and host under address and undefined-behaviour sanitizers."""
    out = tmp_path_factory.mktemp("spank")
    sanitize = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"
    if SLURM:  # that release's headers
        sanitize += f" -I{slurm_tree.find(SLURM).headers}"
    run = ["make", "-s", "-C", str(SOURCE), f"OUT={out}", f"CFLAGS={sanitize}"]
    made = subprocess.run(run, capture_output=True, text=True)
    assert made.returncode == 0 and made.stdout + made.stderr == "", f"{made.stdout}{made.stderr}"
    host = ["gcc", *sanitize.split(), "-Wall", "-Wextra", "-rdynamic", str(HERE / "fakehost.c")]
    made = subprocess.run([*host, "-o", str(out / "fakehost")], capture_output=True, text=True)
    assert made.returncode == 0 and made.stderr == "", made.stderr
    return Built(out / "fakehost", out / "hipercow_slurm.so")


def sections(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if line.startswith("[") and line.endswith("]"):
            lines = found.setdefault(line[1:-1], [])
        elif line.strip():
            lines.append(line)
    return found


@dataclass
class FakeAgent:
    """Listens at ``path`` and plays one line of the script per connection."""

    path: Path
    script: list[str]
    problems: list[str] = field(default_factory=list)

    def start(self) -> None:
        foreign = self.script[:1] == ["foreign"]
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        self.path.chmod(0o666)
        if foreign:  # SO_PEERCRED of a client shows who called listen
            os.seteuid(65534)
        try:
            listener.listen()
        finally:
            os.seteuid(0)
        script = self.script[foreign:]
        threading.Thread(target=self._play, args=(listener, script), daemon=True).start()

    def _play(self, listener: socket.socket, script: list[str]) -> None:
        for line in script:
            request, reply = line.split(" -> ")
            connection, _ = listener.accept()
            with connection:
                got = connection.makefile("rb").readline().decode()
                if got != request + "\n" and self.script[0] != "foreign":
                    self.problems.append(f"asked {got!r}, not {request!r}")
                try:
                    self._answer(connection, reply)
                except OSError:
                    pass  # the plugin's deadline was over

    @staticmethod
    def _answer(connection: socket.socket, reply: str) -> None:
        if reply == "(silent)":
            time.sleep(1.5)
        elif reply in ("(drip)", "(endless)"):
            for _ in range(2000):
                connection.sendall(b"x" if reply == "(drip)" else b"x" * 100)
                time.sleep(0.001)
        elif reply != "(close)":
            reply = reply.replace("(empty)", "")
            for byte in reply.encode().decode("unicode_escape").encode() + b"\n":
                connection.sendall(bytes([byte]))  # the plugin must put pieces together


@pytest.mark.parametrize("script", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_script(script: Path, built: Built, folder: Path) -> None:
    places = {"@SOCKET@": folder / "agent.sock", "@UPLOADER@": folder / "uploader", "@DIR@": folder}
    text = script.read_text()
    for name, place in places.items():
        text = text.replace(name, str(place))
    case = sections(text)
    places["@UPLOADER@"].write_text("#!/bin/sh\n" + "\n".join(case.get("uploader", [])) + "\n")
    places["@UPLOADER@"].chmod(0o755)
    agent = FakeAgent(places["@SOCKET@"], case.get("agent", []))
    if "agent" in case:
        agent.start()
    commands = [f"arg {word}" for line in case.get("plugstack", []) for word in line.split()]
    commands += case.get("host", []) + [line if " " in line else f"call {line}" for line in case["calls"]]
    started = time.monotonic()
    done = subprocess.run(
        [str(built.host), str(built.plugin)],
        input="\n".join(commands) + "\n",
        capture_output=True,
        text=True,
        timeout=20,
        env={"PATH": "/usr/bin:/bin", "ASAN_OPTIONS": "detect_leaks=1"},
    )
    took_ms = (time.monotonic() - started) * 1000
    evidence = f"\n--- stdout\n{done.stdout}--- stderr\n{done.stderr}"
    assert done.stdout.splitlines() == case["expect"], f"{script.name}: not what was expected{evidence}"
    assert done.returncode == 0, f"{script.name}: a sanitizer complained{evidence}"
    assert not agent.problems, f"{script.name}: {agent.problems}{evidence}"
    limits = dict(line.split("=") for line in case.get("limits", []))
    assert took_ms <= float(limits.get("at_most_ms", 5000)), f"took {took_ms:.0f} ms, {limits}"
    assert took_ms >= float(limits.get("at_least_ms", 0)), f"took {took_ms:.0f} ms, {limits}"


def test_every_hook_exported_and_nothing_else(built: Built) -> None:
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", str(SOURCE / "hipercow_slurm.so")], capture_output=True, text=True, check=True
    ).stdout
    names = {line.split()[-1] for line in listed.splitlines()}
    wanted = {"plugin_name", "plugin_type", "plugin_version", "spank_plugin_version"}
    hooks = ("init", "init_post_opt", "job_prolog", "job_epilog", "task_init_privileged", "task_exit", "exit")
    assert names == wanted | {f"slurm_spank_{hook}" for hook in hooks}, f"exported: {sorted(names)}"


def test_make_is_silent_and_does_nothing_when_up_to_date() -> None:
    first = subprocess.run(["make", "-s", "-C", str(SOURCE)], capture_output=True, text=True)
    stamp = (SOURCE / "hipercow_slurm.so").stat()
    again = subprocess.run(["make", "-s", "-C", str(SOURCE)], capture_output=True, text=True)
    assert (first.returncode, first.stdout + first.stderr) == (0, ""), first
    assert (again.returncode, again.stdout + again.stderr) == (0, ""), again
    assert (SOURCE / "hipercow_slurm.so").stat().st_ino == stamp.st_ino, "it was built again"


def test_valgrind_finds_nothing(tmp_path: Path) -> None:
    """The library as it is shipped, not the sanitizers' build: one whole life of a job on a node."""
    subprocess.run(["make", "-C", str(SOURCE)], check=True)
    assert shutil.which("valgrind"), "valgrind is one of the packages the set-up installs"
    host = tmp_path / "fakehost"
    subprocess.run(["gcc", "-g", "-rdynamic", str(HERE / "fakehost.c"), "-o", str(host)], check=True)
    agent = FakeAgent(
        tmp_path / "agent.sock",
        [
            "start 42 5001 5001 -> ok FILE:/tmp/x",
            "ccache 42 5001 5001 -> none warn FILE:/tmp/x no",
            "end 42 5001 -> ok",
        ],
    )
    agent.start()
    commands = [f"arg socket={tmp_path}/agent.sock", "context remote"]
    commands += ["item job 42", "item uid 5001", "item gid 5001", "item step 0xfffffffb", "item task 0"]
    commands += [f"call {hook}" for hook in ("job_prolog", "init_post_opt", "task_init_privileged", "job_epilog")]
    done = subprocess.run(
        ["valgrind", "-q", "--leak-check=full", "--error-exitcode=9", "--track-fds=yes", str(host),
         str(SOURCE / "hipercow_slurm.so")],
        input="\n".join(commands) + "\n", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "setenv KRB5CCNAME=FILE:/tmp/x" in done.stdout and not agent.problems, f"{done.stdout}{agent.problems}"


HAND_OVER = """
import os
from hipercow_slurm.client import stamp
from hipercow_slurm.krb5 import ccache, ccread
os.environ["KRB5CCNAME"] = name
os.setgid(UID); os.setuid(UID)
seen = stamp.look()
assert seen, "not looked at"
assert stamp.leave(seen, ccache.read_tgt(None), 60), "no note left"
print(stamp.place())
"""


def credential() -> KrbCred:
    """A TGT nobody could use."""
    now = int(time.time())
    tgs = Principal(("krbtgt", "REALM.TEST"), "REALM.TEST")
    encrypted = der.sequence(der.integer(18), None, der.octets(b"nothing!"))
    ticket = der.value(
        der.application(1), der.sequence(der.integer(5), der.text("REALM.TEST"), der.principal(tgs), encrypted)
    )
    return krbcred.build(
        [krbcred.Ticket("alice@REALM.TEST", str(tgs), 18, os.urandom(32), 0x40800000, now, now, now + 900, 0, ticket)]
    )


class Stamped:
    """A user with a ccache and an uploader that must (exit 3) or must not (exit 0) be run."""

    uid = 61234 + os.getpid() % 4000  # two runs beside each other have each its own notes

    def __init__(self, folder: Path, built: Built) -> None:
        self.built = built
        self.ccache = folder / "cc"
        self.ran = folder / "ran"
        self.uploader = folder / "uploader"
        self.uploader.write_text(f"#!/bin/sh\ntouch {self.ran}\nexit 3\n")
        self.uploader.chmod(0o755)
        folder.chmod(0o777)
        self.kinit()

    def kinit(self) -> None:
        self.ccache.write_bytes(file_v4(credential()))
        self.ccache.chmod(0o600)
        os.chown(self.ccache, self.uid, self.uid)

    def upload(self) -> Path:
        """As the uploader does after it handed the ticket over; the note's place."""
        program = f"UID = {self.uid}; name = {str(self.ccache)!r}\n" + HAND_OVER
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.strip())

    def submit(self, ccache: str | None = None) -> bool:
        """Whether the plugin ran the uploader."""
        self.ran.unlink(missing_ok=True)
        commands = [f"arg uploader={self.uploader}", "arg minimum_uid=1", "context local"]
        commands += [f"environ KRB5CCNAME={ccache or self.ccache}", f"become {self.uid}", "call init_post_opt"]
        done = subprocess.run(
            [str(self.built.host), str(self.built.plugin)],
            input="\n".join(commands) + "\n", capture_output=True, text=True, timeout=20,
        )  # fmt: skip
        assert done.returncode == 0 and "init_post_opt = 0" in done.stdout, done
        return self.ran.exists()


@pytest.fixture
def stamped(folder: Path, built: Built) -> Iterator[Stamped]:
    found = Stamped(folder, built)
    note = Path(f"/tmp/.hipercow-slurm.uploaded.{found.uid}")
    note.unlink(missing_ok=True)
    yield found
    note.unlink(missing_ok=True)


def test_what_was_handed_over_is_not_handed_over_again(stamped: Stamped) -> None:
    """The note of the real uploader's code, read by the plugin; a new ticket is noticed at once."""
    assert stamped.submit(), "without a note the uploader runs"
    note = stamped.upload()
    assert not stamped.submit(), f"handed over again: {note.read_text()}"
    assert stamped.submit(f"{stamped.ccache}.other"), "another ccache was taken for this one"
    stamped.kinit()
    assert stamped.submit(), "a new ticket was not noticed"


def test_notes_that_mean_nothing(stamped: Stamped) -> None:
    """Too old, from the future, of another user, a link, not a note: each time the uploader runs."""
    note = stamped.upload()
    good = note.read_text().split(" ")
    for until in (str(int(time.time()) - 1), str(int(time.time()) + 4000), "x"):
        note.write_text(" ".join([good[0], until, *good[2:]]))
        assert stamped.submit(), until
    for text in ("", "\n", "1", "2 " + " ".join(good[1:]), "1 " * 600, " ".join(good).rstrip("\n")):
        note.write_text(text)
        assert stamped.submit(), text[:40]
    note.write_text(" ".join(good))
    assert not stamped.submit()
    os.chown(note, 0, 0)
    assert stamped.submit(), "root's file was taken for the user's own"
    kept = note.with_name(note.name + ".kept")
    note.rename(kept)
    os.chown(kept, stamped.uid, stamped.uid)
    note.symlink_to(kept)
    try:
        assert stamped.submit(), "a symlink was followed"
    finally:
        kept.unlink()
