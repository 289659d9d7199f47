"""A realm and a real nfs-ganesha with a krb5p, a krb5i and a krb5 export, in namespaces of their own.

``NfsBox`` starts this file as a program inside new network, mount and process namespaces, where it sets everything
up, says "ready" and then obeys words on its standard input. When that ends, so does everything it started.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import gssapi

HOST = "files.realm.test"
USERS = {"alice": 5001, "bob": 5002}
ROOT = Path(__file__).parents[2]
UNSHARE = ["unshare", "-n", "-m", "--propagation", "private", "-p", "-f", "--kill-child", "--mount-proc"]
PATHS = ("/var/tmp/src", "/var/tmp/site-packages")  # our code and its libraries, inside the box

GANESHA = """\
NFS_CORE_PARAM {{ Protocols = 4; NFS_Port = 2049; Bind_addr = 127.0.0.1; Enable_NLM = false; Enable_RQUOTA = false;
                  Enable_UDP = false; }}
NFS_KRB5 {{ PrincipalName = nfs; KeytabPath = {dir}/files.keytab; CCacheDir = {dir}/run; Active_krb5 = true; }}
NFSv4 {{ Graceless = true; RecoveryRoot = {dir}/run; IdmapConf = /etc/idmapd.conf; Minor_Versions = 0,1,2; }}
"""
EXPORT = """\
EXPORT {{ Export_Id = {id}; Path = {dir}/{name}; Pseudo = /{name}; Access_Type = RW; Squash = Root_Squash;
          SecType = {security}; Protocols = 4; Transports = TCP; FSAL {{ Name = VFS; }} }}
"""
EXPORTS = {"data": "krb5p", "signed": "krb5i", "plain": "krb5", "small": "krb5p"}
SMALL_BYTES = 1024 * 1024  # of the file system that has nothing but the export "small"


class NfsBox:
    """The box seen from the test: ``run`` executes a command in it, ``tell`` gives it an order."""

    def __init__(self, dir: Path) -> None:
        self.dir = dir
        self._process = subprocess.Popen(
            [*UNSHARE, sys.executable, __file__, str(dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.facts = json.loads(self._answer())
        # unshare's one child is the box's first process: its namespaces are those to enter.
        task = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        self._inside = task.read_text().split()[0]

    def _answer(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the box died: {self._logs()}")
        return line

    def _logs(self) -> str:
        return "\n".join(f"== {p}\n{p.read_text(errors='replace')[-2000:]}" for p in self.dir.glob("*.log"))

    def tell(self, order: str) -> None:
        """Give one of the orders in ``Inside.obey``; returns when it is done."""
        assert self._process.stdin
        print(order, file=self._process.stdin, flush=True)
        answer = self._answer()
        assert answer == "done\n", answer

    def run(
        self, *argv: str, user: str | None, env: dict[str, str] | None = None, input: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ``argv`` in the box as ``user`` (None: root)."""
        command = ["nsenter", "-t", self._inside, "-n", "-m", "-p"]
        if user:
            uid = str(USERS[user])
            command += ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": ":".join(PATHS), **self.facts["env"]}
        return subprocess.run(
            [*command, "/usr/bin/python3", *argv],
            env={**clean, **(env or {})},
            input=input,
            capture_output=True,
            timeout=60,
            cwd="/",
        )

    def close(self) -> None:
        """End the box and all it started."""
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


# ---- inside the box ------------------------------------------------------------------------------------------


class Inside:
    """What runs in the namespaces."""

    def __init__(self, dir: Path) -> None:
        self.dir = dir
        self.nfs: subprocess.Popen[bytes] | None = None

    def set_up(self) -> dict[str, object]:
        from hipercow_slurm.testing.realm import Realm

        self.network()
        self.files()
        self.realm = Realm(self.dir / "realm", port=88, domains=(".realm.test",), clockskew_s=1)
        self.realm.start()
        for user in USERS:
            self.realm.add_user(user, f"pw-{user}")
        self.realm.add_service(f"nfs/{HOST}")
        self.realm.keytab(self.dir / "files.keytab", f"nfs/{HOST}")
        os.environ.update(self.realm.env)
        conf = GANESHA.format(dir=self.dir)
        for number, (name, security) in enumerate(EXPORTS.items(), start=1):
            conf += EXPORT.format(dir=self.dir, id=number, name=name, security=security)
            self.share(self.dir / name)
        (self.dir / "ganesha.conf").write_text(conf)
        self.start_nfs()
        ccaches = {
            "alice": self.ticket("alice", 5001, "cc"),
            "bob": self.ticket("bob", 5002, "cc"),
            "fresh": self.ticket("alice", 5001, "fresh"),
        }
        return {"env": self.realm.env, "ccaches": ccaches}

    def network(self) -> None:
        # ganesha resolves its bind address with AI_ADDRCONFIG: there must be an address that is not loopback.
        for command in (
            "link set lo up",
            "tuntap add dev t0 mode tap",
            "addr add 10.203.0.1/24 dev t0",
            "link set t0 up",
        ):
            subprocess.run(["ip", *command.split()], check=True)

    def files(self) -> None:
        """Private copies of what lies in /etc, bound over the originals for this mount namespace only."""
        accounts = "".join(f"{user}:x:{uid}:{uid}::/:/bin/sh\n" for user, uid in USERS.items())
        groups = "".join(f"{user}:x:{uid}:\n" for user, uid in USERS.items())
        hosts_only = "".join(
            f"{line}\n" for line in Path("/etc/nsswitch.conf").read_text().splitlines() if "hosts:" not in line
        )
        contents = {
            "passwd": Path("/etc/passwd").read_text() + accounts,
            "group": Path("/etc/group").read_text() + groups,
            "hosts": f"127.0.0.1 localhost {HOST}\n",
            "nsswitch.conf": f"{hosts_only}hosts: files\n",
            "idmapd.conf": "[General]\nDomain = realm.test\nLocal-Realms = REALM.TEST\n",
        }
        etc = self.dir / "etc"
        etc.mkdir()
        for name, text in contents.items():
            (etc / name).write_text(text)
            Path("/etc", name).touch()
            subprocess.run(["mount", "--bind", etc / name, f"/etc/{name}"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/var/tmp"], check=True)
        (self.dir / "run").mkdir()
        # Other uids must be able to import our code even where the repository lies in a closed folder.
        libraries = Path(gssapi.__file__).parents[1]
        for source, target in zip((ROOT / "src", libraries), PATHS, strict=True):
            Path(target).mkdir()
            subprocess.run(["mount", "--bind", source, target], check=True)

    def share(self, root: Path) -> None:
        root.mkdir()
        if root.name == "small":
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_BYTES}", "small", root], check=True)
        root.chmod(0o755)
        for user, uid in USERS.items():
            (root / user).mkdir()
            (root / user / "secret").write_text(f"secret of {user}\n")
            (root / user / "link").symlink_to("secret")
            for path in (root / user, root / user / "secret"):
                os.chown(path, uid, uid)
            (root / user).chmod(0o700)
        # Denied by its own mode, not by its directory's.
        (root / "alices").write_text("alice's, in a directory for all\n")
        os.chown(root / "alices", 5001, 5001)
        (root / "alices").chmod(0o600)
        (root / "way").symlink_to("alice")
        if root.name != "data":
            return
        (root / "alice" / "big").write_bytes(bytes(range(256)) * 8192)
        many = root / "alice" / "many"
        many.mkdir()
        for number in range(1500):
            (many / f"file-{number:04}").touch()
        (many / "tab\there").touch()
        os.chown(root / "alice" / "big", 5001, 5001)
        os.chown(many, 5001, 5001)

    def ticket(self, user: str, uid: int, name: str, *options: str) -> str:
        path = self.dir / f"{name}_{user}"
        self.realm.kinit(user, f"pw-{user}", f"FILE:{path}", *options)
        os.chown(path, uid, uid)
        return f"FILE:{path}"

    def start_nfs(self) -> None:
        with (self.dir / "ganesha.out.log").open("ab") as out:
            self.nfs = subprocess.Popen(
                ["ganesha.nfsd", "-F", "-f", "ganesha.conf", "-L", "ganesha.log", "-p", "ganesha.pid"],
                cwd=self.dir,
                stdout=out,
                stderr=out,
            )
        for _ in range(400):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 2049), timeout=1):
                return
            time.sleep(0.025)
        raise RuntimeError("ganesha does not listen")

    def stop_nfs(self) -> None:
        assert self.nfs
        self.nfs.kill()
        self.nfs.wait()

    def obey(self, order: str) -> None:
        assert self.nfs
        {
            "stop-nfs": self.stop_nfs,
            "start-nfs": self.start_nfs,
            "pause-nfs": lambda: self.nfs.send_signal(signal.SIGSTOP),
            "resume-nfs": lambda: self.nfs.send_signal(signal.SIGCONT),
            "stop-kdc": self.realm.stop,
            "start-kdc": self.realm.restart,
            "pause-kdc": self.realm.pause,
            "resume-kdc": self.realm.resume,
            "brief-ticket": lambda: self.ticket("alice", 5001, "brief", "-l", "2s"),
        }[order]()


def main() -> None:
    """Set up, say so, obey until standard input ends."""
    inside = Inside(Path(sys.argv[1]))
    facts = inside.set_up()
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        inside.obey(line.strip())
        print("done", flush=True)


if __name__ == "__main__":
    main()
