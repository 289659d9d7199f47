"""The sandbox itself: complete, closed, several at a time, and gone without a trace whatever ends it.

Only the first of these needs our own programs; the tests beside this one need all of them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import hipercow_slurm
from hipercow_slurm.errors import ConfigError, RequestError, UnavailableError
from hipercow_slurm.testing.sandbox import CommandError, Sandbox, hosts, supervisor
from hipercow_slurm.testing.story import FILES, LoginNode, eventually

pytestmark = pytest.mark.e2e

OURS = {"signer", "auksd", "api", "agent@c1", "agent@c2"}
BARE = {"kdc", "munged", "slurmctld", "slurmd@c1", "slurmd@c2", "slurmrestd", "ganesha", "smbd"}
COMMANDS = {"kdc": "krb5kdc", "ganesha": "ganesha.nfsd"}
GONE_S = 15


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    """A sandbox without our programs that the harmless tests share; tickets live 6 s."""
    with Sandbox(programs=(), ticket_life="6s", renew_life="60s") as made:
        yield made


@dataclass(frozen=True)
class Traces:
    """What could be left of one sandbox: its folder and the members of its pid namespace."""

    folder: Path
    namespace: str
    init: int
    supervisor: int

    @classmethod
    def of(cls, folder: Path) -> Traces:
        init = json.loads((folder / "info.json").read_text())["pid"]
        status = Path(f"/proc/{init}/status").read_text()
        parent = int(status.split("PPid:")[1].split()[0])
        return cls(folder, str(Path(f"/proc/{init}/ns/pid").readlink()), init, parent)

    def left(self) -> list[str]:
        """Everything that is still there, in words."""
        found = [str(self.folder)] if self.folder.exists() else []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if str((process / "ns/pid").readlink()) == self.namespace:
                    found.append(f"{process.name} {(process / 'comm').read_text().strip()}")
            except OSError:
                continue
        found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.folder) in line]
        if Path(f"/proc/{self.supervisor}/cmdline").exists():
            words = Path(f"/proc/{self.supervisor}/cmdline").read_bytes()
            found += [f"supervisor {self.supervisor}"] if b"testing.sandbox" in words else []
        return found


def assert_gone(traces: Traces) -> None:
    deadline = time.monotonic() + GONE_S
    while traces.left() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not traces.left(), f"left after {GONE_S} s: {traces.left()}"


OWNER = """
import sys, time
from hipercow_slurm.testing.sandbox import Sandbox
box = Sandbox(programs=(), name={name!r}).up()
print(box.path, flush=True)
{then}
time.sleep(600)
"""


@contextmanager
def owner(then: str = "", env: dict[str, str] | None = None) -> Iterator[tuple[subprocess.Popen[str], Traces]]:
    """Another process that owns a sandbox."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(name=None, then=then)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )
    assert process.stdout is not None
    try:
        yield process, Traces.of(Path(process.stdout.readline().strip()))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


# --- complete ---------------------------------------------------------------------------------------------


def test_up_in_time_with_every_service_running() -> None:
    started = time.monotonic()
    with Sandbox() as other:
        took = time.monotonic() - started
        rows = {row["name"]: row for row in other.status()}
        assert set(rows) == BARE | OURS
        assert {row["state"] for row in rows.values()} == {"running"}, rows
        for name, row in rows.items():
            comm = other.run("head", ["cat", f"/proc/{row['pid']}/comm"]).stdout.strip()
            expected = "python" if name in OURS else COMMANDS.get(name, name.split("@")[0])
            assert comm == expected, f"{name} should be {expected}, its pid {row['pid']} is {comm}"
        # A job on both nodes as soon as up() is back: "ready" means ready.
        hello = other.run("login", ["srun", "-N2", "hostname"], user="alice").stdout
        assert sorted(hello.split()) == ["c1", "c2"], hello
    assert took < 15, f"up took {took:.1f} s"


def test_batch_job_runs_as_the_user(box: Sandbox) -> None:
    script = "#!/bin/bash\nid -un\nhostname\necho $HOME\npwd\n"
    job_id = LoginNode(box, "bob").sbatch(script, "-o", "out-%j")
    output = eventually(
        "the job's output",
        lambda: (
            box.run("login", ["cat", f"/home/bob/out-{job_id}"], user="bob", check=False).stdout.split()[3:] and "yes"
        ),
        within_s=15,
    )
    assert output == "yes"
    lines = box.run("login", ["cat", f"/home/bob/out-{job_id}"], user="bob").stdout.split()
    assert lines[0] == "bob" and lines[1] in ("c1", "c2") and lines[2:] == ["/home/bob", "/home/bob"], lines


def test_slurm_knows_only_public_keys(box: Sandbox) -> None:
    config = box.run("head", ["scontrol", "show", "config"]).stdout
    assert "jwks=/etc/slurm/jwks.json" in config and "jwt_key" not in config, config
    for key in json.loads(box.read("head", "/etc/slurm/jwks.json"))["keys"]:
        assert set(key) <= {"kty", "alg", "use", "kid", "n", "e"}, f"more than a public key: {sorted(key)}"
    owner_and_mode = box.run("head", ["stat", "-c", "%U %a", "/var/lib/hipercow-slurm/signer/key.pem"]).stdout.split()
    assert owner_and_mode == ["hcs-signer", "600"]


def test_slurmrestd_is_reached_by_the_api_alone(box: Sandbox) -> None:
    """Through the unix socket, with a token signed by the signer's key, checked by slurmctld with the public one."""
    ask = (
        "import time, http.client, socket, sys\n"
        "from joserfc import jwt\n"
        "from pathlib import Path\n"
        "from hipercow_slurm.signer import keys\n"
        "key = keys.load_private(Path('/var/lib/hipercow-slurm/signer/key.pem'))\n"
        "now = int(time.time())\n"
        "print(jwt.encode({'alg': 'RS256', 'kid': key.kid}, {'sun': 'alice', 'iat': now, 'exp': now + 30}, key.key))\n"
    )
    token = box.run("head", ["hipercow-python", "-c", ask], user="hcs-signer").stdout.strip()
    curl = (
        "import http.client, socket, sys\n"
        "c = http.client.HTTPConnection('x'); s = socket.socket(socket.AF_UNIX)\n"
        "s.connect('/run/slurmrestd/rest.sock'); c.sock = s\n"
        "h = {'X-SLURM-USER-NAME': 'alice', 'X-SLURM-USER-TOKEN': sys.stdin.readline().strip()}\n"
        "c.request('GET', '/slurm/v0.0.38/ping', headers=h); print(c.getresponse().status)\n"
    )
    status = box.run("head", ["python3", "-c", curl], user="hcs-api", input=token + "\n").stdout.strip()
    assert status == "200", f"{status}\n{box.service('slurmctld').log()[-2000:]}"
    forged = token[:-8] + ("AAAAAAAA" if not token.endswith("AAAAAAAA") else "BBBBBBBB")
    assert box.run("head", ["python3", "-c", curl], user="hcs-api", input=forged + "\n").stdout.strip() == "500"
    refused = box.run("head", ["python3", "-c", curl], user="bob", input=token + "\n", check=False)
    assert "PermissionError" in refused.stderr, refused


# --- Kerberos and the file servers ------------------------------------------------------------------------


def smb(box: Sandbox, user: str, command: str) -> str:
    argv = ["smbclient", "-N", "--use-kerberos=required", "--client-protection=encrypt", f"//{FILES}/data"]
    return box.run("login", [*argv, "-c", command], user=user, check=False).stdout


def krbcat(box: Sandbox, user: str, path: str) -> subprocess.CompletedProcess[str]:
    return box.run("login", ["krbcat", FILES, path], user=user, check=False)


def test_files_are_served_to_their_owner_and_nobody_else(box: Sandbox) -> None:
    alice = LoginNode(box, "alice")
    alice.kinit()
    assert krbcat(box, "alice", "/data/alice/secret").stdout == "secret of alice\n"
    denied = krbcat(box, "alice", "/data/bob/secret")
    assert denied.returncode != 0 and "denied" in denied.stderr, denied
    assert "secret of alice" in smb(box, "alice", "get alice/secret -")
    assert "NT_STATUS_ACCESS_DENIED" in smb(box, "alice", "get bob/secret -")
    box.run("login", ["sh", "-c", "echo from home >~/note"], user="alice")
    assert krbcat(box, "alice", "/home/alice/note").stdout == "from home\n"
    alice.do("kdestroy")
    nothing = krbcat(box, "alice", "/data/alice/secret")
    assert nothing.returncode != 0 and nothing.stdout == "", nothing
    assert "secret" not in smb(box, "alice", "get alice/secret -")


def test_an_expired_ticket_is_refused_within_seconds(box: Sandbox) -> None:
    """The life asked for is the life given, and the clock skew hides no more than a few seconds of it."""
    bob = LoginNode(box, "bob")
    bob.kinit()
    started = time.monotonic()
    assert krbcat(box, "bob", "/data/bob/secret").returncode == 0
    eventually("refusal", lambda: krbcat(box, "bob", "/data/bob/secret").returncode != 0, within_s=15)
    took = time.monotonic() - started
    assert 4 < took < 12, f"a ticket of 6 s was refused after {took:.1f} s"


# --- closed -----------------------------------------------------------------------------------------------


def test_laptop_has_nothing_of_the_cluster(box: Sandbox) -> None:
    for path in ("/etc/krb5.conf", "/etc/krb5.keytab", "/etc/slurm", "/etc/munge", "/run/munge", "/run/slurmrestd"):
        assert box.run("laptop", ["test", "-e", path], check=False).returncode == 1, f"the laptop has {path}"
    assert box.run("laptop", ["ls", "/etc/hipercow-slurm"]).stdout.split() == ["ca.pem", "client.toml"]
    who = box.run("laptop", ["sh", "-c", "id -un; pwd; id alice"], user="laptop", check=False)
    assert who.stdout.split() == ["laptop", "/home/laptop"] and "no such user" in who.stderr, who
    version = box.run("laptop", ["hipercow-slurm", "--version"], user="laptop").stdout
    assert hipercow_slurm.__version__ in version


def test_even_root_on_a_node_does_not_see_the_file_servers_disk(box: Sandbox) -> None:
    for host in ("c1", "login", "head", "laptop"):
        found = box.run(host, ["grep", "-rsl", "secret of", "/srv", "/home", "/tmp", "/var/tmp"], check=False)
        assert found.stdout == "", f"{host}: {found.stdout}"
    assert "alice" in box.run("files", ["ls", "/srv/data"]).stdout


def test_hosts_have_their_own_names_folders_and_keys(box: Sandbox) -> None:
    for host in ("head", "c1", "c2", "login"):
        box.run(host, ["touch", f"/tmp/on-{host}"])
        fqdn = box.run(host, ["hipercow-python", "-c", "import socket; print(socket.getfqdn())"]).stdout.strip()
        assert fqdn == f"{host}.sandbox.test"
        keys = box.run(host, ["klist", "-k", "/etc/krb5.keytab"]).stdout
        assert f"host/{host}.sandbox.test@SANDBOX.TEST" in keys
        assert all(name == host or f"host/{name}." not in keys for name in ("head", "c1", "c2", "login")), keys
    assert box.run("c1", ["ls", "/tmp"]).stdout.split() == ["on-c1"]


def test_users_cannot_read_keys(box: Sandbox) -> None:
    secret = [
        ("head", "/var/lib/hipercow-slurm/signer/key.pem"),
        ("head", "/etc/hipercow-slurm/auksd.key"),
        ("head", "/etc/hipercow-slurm/api.key"),
        ("head", "/etc/hipercow-slurm/signer.keytab"),
        ("head", "/etc/munge/munge.key"),
        ("head", "/var/lib/krb5kdc/SANDBOX.TEST.stash"),
        ("c1", "/etc/krb5.keytab"),
    ]
    for host, path in secret:
        box.run(host, ["test", "-s", path])
        for user in ("alice", "hcs-api"):
            if (user, path) == ("hcs-api", "/etc/hipercow-slurm/api.key"):
                continue
            refused = box.run(host, ["head", "-c1", path], user=user, check=False)
            assert "Permission denied" in refused.stderr, f"{user} on {host} may read {path}"


# --- run and services -------------------------------------------------------------------------------------


def test_run_reports_timeouts_and_failures(box: Sandbox) -> None:
    with pytest.raises(CommandError, match="ended with 3\nstdout: out\nstderr: err"):
        box.run("c1", ["sh", "-c", "echo out; echo err >&2; exit 3"], user="alice")
    with pytest.raises(subprocess.TimeoutExpired):
        box.run("c1", ["sh", "-c", "sleep 300.125 & sleep 300.125"], timeout=0.5)
    left = box.run("c1", ["pgrep", "-f", "^sleep 300.125"], check=False).stdout
    assert left == "", "a command that ran out of time goes on"
    assert box.run("login", ["cat"], user="bob", input="typed").stdout == "typed"
    assert box.run("login", ["sh", "-c", "echo $A"], user="bob", env={"A": "b"}).stdout == "b\n"
    with pytest.raises(KeyError, match="no host 'c9'"):
        box.run("c9", ["true"])


def test_signals_reach_the_command_itself(box: Sandbox) -> None:
    process = box.popen("c2", ["sh", "-c", "trap 'echo got it; exit 7' USR1; echo set; while :; do sleep 0.1; done"],
                        stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "set\n"
    process.send_signal(signal.SIGUSR1)
    assert process.communicate(timeout=10)[0] == "got it\n"
    assert process.returncode == 7


def test_services_stop_die_and_come_back(box: Sandbox) -> None:
    kdc = box.service("kdc")
    password = box.passwords["alice"] + "\n"

    def login() -> int:
        return box.run("login", ["kinit", "alice"], user="alice", input=password, check=False, timeout=40).returncode

    first = kdc.pid
    assert login() == 0
    kdc.stop()
    assert not kdc.alive and login() != 0
    kdc.start()
    assert kdc.alive and kdc.pid != first and login() == 0
    kdc.kill()
    row = next(row for row in box.status() if row["name"] == "kdc")
    assert (row["state"], row["exit_code"], row["pid"]) == ("dead", -9, None), row
    kdc.restart()
    assert login() == 0
    assert kdc.log().count("commencing operation") == 3
    kdc.pause()
    assert next(row for row in box.status() if row["name"] == "kdc")["state"] == "paused"
    with pytest.raises(subprocess.TimeoutExpired):
        box.run("login", ["kinit", "alice"], user="alice", input=password, timeout=1.5)
    kdc.resume()
    assert login() == 0
    node = box.service("slurmd@c1")
    node.kill()
    node.start()
    assert box.run("login", ["srun", "-w", "c1", "hostname"], user="alice").stdout == "c1\n"
    with pytest.raises(KeyError, match="no service 'nope'; there are kdc"):
        box.service("nope")


# --- several ----------------------------------------------------------------------------------------------


def test_two_side_by_side_know_nothing_of_each_other(box: Sandbox) -> None:
    with Sandbox(programs=(), nodes=("c1",)) as other:
        assert other.passwords["alice"] != box.passwords["alice"]
        wrong = other.run("login", ["kinit", "alice"], user="alice", input=box.passwords["alice"] + "\n", check=False)
        assert wrong.returncode != 0, "a password of one sandbox works in the other"
        assert other.run("login", ["sinfo", "-h", "-o", "%D %t"]).stdout.split() == ["1", "idle"]
        seen = box.run("login", ["ps", "-e", "-o", "comm="]).stdout.split()
        assert seen.count("slurmctld") == 1, "one sandbox sees the other's processes"
    assert box.run("login", ["srun", "-N2", "true"], user="alice").returncode == 0


# --- without a trace --------------------------------------------------------------------------------------


def machine() -> dict[str, object]:
    """What of this machine a sandbox could change, apart from its own folder and processes."""
    files = {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for folder in ("/etc", "/run", "/var/lib/munge", "/var/lib/krb5kdc", "/var/lib/samba", "/var/log", "/root")
        for path in [Path(folder), *Path(folder).glob("*")]
        if path.exists() and "agetty" not in path.name
    }
    return {
        "files": files,
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "devices": Path("/proc/self/net/dev").read_text().count(":"),
        "cgroups": {str(path) for path in Path("/sys/fs/cgroup").glob("*/slurm*")},
        "shm": set(Path("/dev/shm").iterdir()),
        "hostname": os.uname().nodename,
    }


def test_no_trace_after_down() -> None:
    before = machine()
    with Sandbox(programs=()) as other:
        traces = Traces.of(other.path)
        assert len(traces.left()) > 8, "the test does not see the sandbox's processes"
        # Something of everything that could outlive its parent.
        other.run("login", ["sbatch", "-N2", "--wrap", "setsid sleep 1000 & sleep 1000"], user="alice")
        other.run("c1", ["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & touch /root/x /var/log/x /dev/shm/x"])
        held = other.popen("laptop", ["sleep", "1000"], user="laptop")
        started = time.monotonic()
    assert time.monotonic() - started < 5
    assert traces.left() == []
    assert held.wait(5) == -signal.SIGKILL
    assert machine() == before
    other.down()  # a second time is harmless


@pytest.mark.parametrize("victim", ["owner", "supervisor", "init"])
def test_no_trace_after_kill_9(victim: str) -> None:
    with owner() as (process, traces):
        pids = {"owner": process.pid, "supervisor": traces.supervisor, "init": traces.init}
        os.kill(pids[victim], signal.SIGKILL)
        assert_gone(traces)


@pytest.mark.parametrize("delay", [0.4, 1.2])
def test_no_trace_after_kill_9_while_it_comes_up(delay: float) -> None:
    name = f"test-{os.getpid()}-{int(delay * 10)}"
    process = subprocess.Popen([sys.executable, "-c", OWNER.format(name=name, then="")], stdout=subprocess.DEVNULL)
    eventually("its folder", supervisor.folder(name).exists, within_s=20, every_s=0.01)
    time.sleep(delay)
    process.kill()
    process.wait()
    eventually("no folder", lambda: not supervisor.folder(name).exists(), within_s=GONE_S)


def test_killed_altogether_leaves_a_folder_that_the_next_one_sweeps(box: Sandbox) -> None:
    with owner() as (_, traces):
        os.kill(traces.supervisor, signal.SIGSTOP)  # so that it cannot clean up between the two kills
        os.kill(traces.init, signal.SIGKILL)
        os.kill(traces.supervisor, signal.SIGKILL)
        # Any sandbox that starts meanwhile, one of another test say, may be the next one.
        eventually("no process left", lambda: traces.left() in ([str(traces.folder)], []), within_s=GONE_S)
    removed = supervisor.sweep()
    assert not traces.folder.exists()
    assert box.path not in removed and box.status(), "the sweep hurt a living sandbox"


def test_a_part_that_cannot_start_is_named_with_its_log() -> None:
    # kadmin refuses this duration, so that the realm cannot be made.
    broken = Sandbox(programs=(), ticket_life="nonsense", name=f"test-{os.getpid()}-broken")
    with pytest.raises(UnavailableError, match=r"(?s)preparing realm failed.*Invalid date specification"):
        broken.up()
    eventually("no folder", lambda: not supervisor.folder(str(broken.name)).exists(), within_s=GONE_S)


# --- where it cannot run ----------------------------------------------------------------------------------


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found: Callable[..., str | None] = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, **k: None if name in ("smbd", "munged") else found(name, **k))
    with pytest.raises(ConfigError, match="needs the Debian packages munge samba"):
        Sandbox().up()


def test_not_root_is_said() -> None:
    code = "from hipercow_slurm.testing.sandbox import Sandbox; Sandbox().up()"
    python = [sys.executable, "-c", "import os, sys; os.setuid(65534); exec(sys.argv[1])", code]
    done = subprocess.run(python, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and "ConfigError: the sandbox needs root" in done.stderr, done.stderr


def test_unknown_program_is_said() -> None:
    with pytest.raises(RequestError, match="no program 'apy'; there are signer"):
        Sandbox(programs=("apy",))


def test_runs_from_a_folder_that_users_cannot_enter(tmp_path: Path) -> None:
    """As from a clone below /root: users in the sandbox run the program all the same."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    shutil.copytree(Path(hipercow_slurm.__file__).parent, closed / "src" / "hipercow_slurm")
    with owner(
        then="print(box.run('laptop', ['hipercow-python', '-c', 'import hipercow_slurm.cli.main as m; "
        "print(m.__file__)'], user='laptop').stdout, flush=True)",
        env={"PYTHONPATH": str(closed / "src")},
    ) as (process, _):
        assert process.stdout is not None
        assert process.stdout.readline() == "/run/program-source/hipercow_slurm/cli/main.py\n"


def test_a_python_that_users_cannot_run_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    shutil.copy("/usr/bin/python3", closed / "python3")
    monkeypatch.setattr(sys, "executable", str(closed / "python3"))
    with pytest.raises(ConfigError, match="is closed to them"):
        hosts.find_program()


# --- the command line -------------------------------------------------------------------------------------


def test_command_line() -> None:
    name = f"test-{os.getpid()}"

    def call(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "hipercow_slurm", "sandbox", args[0], "--name", name, *args[1:]]
        return subprocess.run(argv, capture_output=True, text=True, timeout=90, **options)  # type: ignore[call-overload,no-any-return]

    assert call("status").returncode == 75
    up = call("up", "--programs", "")
    try:
        assert up.returncode == 0, up.stderr
        for word in ("alice@laptop", "alice@login", "root@c1", "alice's password:"):
            assert word in up.stdout, up.stdout
        again = call("up", "--programs", "")
        assert again.returncode == 75 and f"there is a sandbox '{name}' already" in again.stderr, again
        table = call("status")
        assert table.returncode == 0 and all(f"{service} " in table.stdout for service in BARE), table.stdout
        rows = json.loads(call("status", "--json").stdout)
        assert {row["name"] for row in rows} == BARE
        shown = [call("shell", *where, "--", "sh", "-c", "id -un; hostname; pwd").stdout.split()
                 for where in (["alice@laptop"], ["alice@login"], ["root@c1"])]  # fmt: skip
        assert shown == [
            ["laptop", "laptop", "/home/laptop/alice"],
            ["alice", "login", "/home/alice"],
            ["root", "c1", "/root"],
        ], shown
        assert call("shell", "alice@login", "--", "sh", "-c", "exit 9").returncode == 9
        assert call("shell", "alice@nowhere").returncode == 2
        Sandbox.attach(name).service("smbd").kill()
        broken = call("status")
        assert broken.returncode == 1 and "dead (exit -9)" in broken.stdout, broken.stdout
        traces = Traces.of(supervisor.folder(name))
    finally:
        down = call("down")
    assert down.returncode == 0 and "is down" in down.stdout, down
    assert traces.left() == []
    assert call("down").returncode == 0
