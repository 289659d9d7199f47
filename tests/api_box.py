"""A small real stack for tests of the API: a KDC, our signer, our credential cache and our API as processes.

alice and bob exist only in the processes' own mount namespace. The API runs as an unprivileged user. Only
slurmrestd is a stand-in (``slurm_double.py``): the tests here are about what happens when it misbehaves.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from api_parts import Certificate, make_certificate
from hipercow_slurm.signer import keys
from hipercow_slurm.testing.ports import free_port
from hipercow_slurm.testing.realm import Realm
from slurm_double import SlurmDouble

API_UID, MINIMUM_UID = 5201, 1000
PASSWD = f"""\
alice:x:5001:5001::/home/alice:/bin/bash
bob:x:5002:5002::/home/bob:/bin/bash
carol:x:900:900::/home/carol:/bin/bash
hcs-api:x:{API_UID}:{API_UID}::/nonexistent:/usr/sbin/nologin
"""
API_TOML = """\
[api]
listen = "127.0.0.1:{port}"
certificate = "{dir}/tls.pem"
key = "{dir}/tls.key"
database = "{database}"
realm = "REALM.TEST"
keytab = "{dir}/api.keytab"
service = "HTTP/localhost"
[signer]
socket = "{dir}/signer/signer.sock"
service = "slurm-signer/localhost"
[slurm]
socket = "{dir}/rest.sock"
timeout_s = 2.0
[cache]
servers = [{{ host = "127.0.0.1", port = {cache_port}, principal = "auks/localhost" }}]
[[files]]
prefix = "/home"
server = "files.localhost"
export = "/home"
[metrics]
listen = "127.0.0.1:{metrics_port}"
[audit]
path = "{dir}/audit/{audit}.audit"
[limits]
failed_login_s = 0.3
login_workers = 2
login_queue = 2
failures_per_address = 200
request_body_s = 1.5
request_headers_s = 2.0
answer_s = 2.0
connections_per_address = 200
"""
SIGNER_TOML = """\
[signer]
service = "slurm-signer/localhost"
keytab = "{dir}/signer.keytab"
socket = "{dir}/signer/signer.sock"
key = "{dir}/keys/key.pem"
jwks = "{dir}/keys/jwks.json"
allow_uids = [0, 5201]
"""
AUKSD_TOML = """\
[auksd]
listen = "127.0.0.1:{cache_port}"
principal = "auks/localhost@REALM.TEST"
keytab = "{dir}/auksd.keytab"
acl = "{dir}/auksd.acl"
store = "{dir}/auksd.db"
key_file = "{dir}/auksd.key"
"""
# As the systemd units have it, where the kernel can (6.3): no memory that can be written and then executed.
# PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN.
DENY_WRITE_EXECUTE = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
ACL = 'rule { principal = "^[a-z]+@REALM.TEST$"; host = *; role = user; }\n'


class ApiBox:
    """Everything; ``with ApiBox() as box``. ``box.passwords`` has alice's and bob's.

    Args:
        database: PostgreSQL's URL; None: a file. "api-2" is a second host with the same database, where that is
            PostgreSQL's with two processes.
        realm: of ``Realm``.
    """

    def __init__(self, *, database: str | None = None, **realm: Any) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="hcs-api-"))
        self.dir.chmod(0o755)
        self.postgres = database is not None
        self.database = database or f"{self.dir}/state/api.sqlite"
        self.realm = Realm(self.dir / "kdc", domains=("localhost",), **realm)
        self.slurm = SlurmDouble(self.dir / "rest.sock")
        self.passwords = {name: f"pw-{name}-{secrets.token_hex(8)}" for name in ("alice", "bob", "carol", "dave")}
        self.port, self.cache_port = free_port(), free_port()
        self.metrics_port = free_port(count=4)  # and those of several processes
        self.other_port = free_port()  # of a second process, "api-2"
        self.url = f"https://127.0.0.1:{self.port}"
        self.certificate: Certificate = make_certificate(self.dir)
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> ApiBox:
        try:
            self._set_up()
            for name in ("signer", "auksd", "api"):
                self.start(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._running):
            self.stop(name)
        with contextlib.suppress(Exception):
            self.slurm.__exit__()
        self.realm.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def _set_up(self) -> None:
        self.realm.start()
        for name, password in self.passwords.items():
            self.realm.add_user(name, password)
        for name, service in (("api", "HTTP"), ("signer", "slurm-signer"), ("auksd", "auks")):
            self.realm.add_service(f"{service}/localhost")
            self.realm.keytab(self.dir / f"{name}.keytab", f"{service}/localhost")
        for folder in ("state", "audit", "signer", "keys"):
            (self.dir / folder).mkdir(mode=0o700, exist_ok=True)
        for path in (self.dir / "state", self.dir / "audit", self.dir / "api.keytab", self.certificate.key):
            os.chown(path, API_UID, API_UID)
        os.chown(self.dir / "signer", 0, API_UID)
        (self.dir / "signer").chmod(0o750)
        keys.generate(self.dir / "keys/key.pem", self.dir / "keys/jwks.json")
        (self.dir / "passwd").write_text(Path("/etc/passwd").read_text() + PASSWD)
        (self.dir / "auksd.acl").write_text(ACL)
        (self.dir / "auksd.key").touch(mode=0o600)
        (self.dir / "auksd.key").write_text(secrets.token_hex(32) + "\n")
        values = {"dir": self.dir, "port": self.port, "cache_port": self.cache_port, "metrics_port": self.metrics_port}
        values |= {"audit": "api", "database": self.database}
        for name, text in (("api", API_TOML), ("signer", SIGNER_TOML), ("auksd", AUKSD_TOML)):
            (self.dir / f"{name}.toml").write_text(text.format(**values))
        several = API_TOML.replace("[api]\n", "[api]\nprocesses = 2\n")
        (self.dir / "api-several.toml").write_text(several.format(**{**values, "metrics_port": self.metrics_port + 1}))
        values |= {"port": self.other_port, "metrics_port": free_port(count=3), "audit": "second"}
        (self.dir / "api-2.toml").write_text((several if self.postgres else API_TOML).format(**values))
        self.slurm.__enter__()

    def command(self, name: str) -> list[str]:
        """How a program of ours is run here."""
        script = 'mount --bind "$1" /etc/passwd && shift && exec "$@"'
        argv = ["unshare", "-m", "sh", "-c", script, "sh", str(self.dir / "passwd")]
        program = name.partition("-")[0]
        if program == "api":
            argv += ["setpriv", f"--reuid={API_UID}", f"--regid={API_UID}", "--clear-groups"]
        argv += [sys.executable, "-c", DENY_WRITE_EXECUTE]
        return [*argv, sys.executable, "-m", "hipercow_slurm", program, "--config", str(self.dir / f"{name}.toml")]

    def start(self, name: str) -> None:
        """Start one of our programs and wait until it listens."""
        with (self.dir / f"{name}.log").open("ab") as out:
            process = subprocess.Popen(self.command(name), env={**os.environ, **self.realm.env}, stdout=out, stderr=out)
        self._running[name] = process
        ports = dict.fromkeys(("api", "api-several"), ("127.0.0.1", self.port)) | {
            "api-2": ("127.0.0.1", self.other_port)
        }
        probe = {**ports, "auksd": ("127.0.0.1", self.cache_port)}.get(name)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if process.poll() is not None:
                raise AssertionError(f"{name} ended with {process.returncode}: {self.log(name)}")
            if probe is None and (self.dir / "signer/signer.sock").exists():
                return
            with contextlib.suppress(OSError):
                if probe is not None:
                    socket.create_connection(probe, timeout=1).close()
                    return
            time.sleep(0.02)
        raise AssertionError(f"{name} does not listen: {self.log(name)}")

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> int:
        """End a program; its exit status."""
        process = self._running.pop(name)
        if process.poll() is None:
            process.send_signal(number)
        try:
            return process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"{name} did not end within 10 s of {number.name}: {self.log(name)}") from None

    def restart(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        self.stop(name, number)
        self.start(name)

    def hang_up(self, name: str) -> None:
        """HUP, and wait until it was acted on."""
        told = self.log(name).count("api.certificate-reloaded")
        os.kill(self.pid(name), signal.SIGHUP)
        end = time.monotonic() + 20
        while self.log(name).count("api.certificate-reloaded") == told:
            assert time.monotonic() < end, self.log(name)
            time.sleep(0.02)

    @contextlib.contextmanager
    def without(self, name: str) -> Iterator[None]:
        """A program is down for the length of the block."""
        self.stop(name)
        try:
            yield
        finally:
            self.start(name)

    @contextlib.contextmanager
    def configured(self, **api: str | int) -> Iterator[None]:
        """The API runs with more lines in its table [api], for the length of the block."""
        path = self.dir / "api.toml"
        kept = path.read_text()
        path.write_text(
            kept.replace("[api]\n", "[api]\n" + "".join(f"{key} = {json.dumps(api[key])}\n" for key in api), 1)
        )
        try:
            self.restart("api")
            yield
        finally:
            path.write_text(kept)
            self.restart("api")

    def log(self, name: str = "api") -> str:
        return (self.dir / f"{name}.log").read_text(errors="replace")

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def client(self, token: str | None = None, *, host: str = "api") -> httpx.Client:
        """A client of "api", or of the second host, "api-2"."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        url = self.url if host == "api" else f"https://127.0.0.1:{self.other_port}"
        return httpx.Client(
            base_url=url, verify=self.certificate.client(), headers=headers, timeout=40, trust_env=False
        )

    def login(self, name: str = "alice") -> dict[str, Any]:
        """A new session, as the API answers it."""
        with self.client() as client:
            answer = client.post("/v1/sessions", json={"username": name, "password": self.passwords[name]})
        assert answer.status_code == 201, (answer.text, self.log())
        return dict(answer.json())

    @contextlib.contextmanager
    def as_user(self, name: str = "alice") -> Iterator[httpx.Client]:
        """A client with a session of its own."""
        with self.client(self.login(name)["token"]) as client:
            yield client


@contextlib.contextmanager
def box_on_a_small_disk(folder: str, size: str) -> Iterator[ApiBox]:
    """A box of which one folder, the API's own, is a disk of ``size`` (as mount says it), so that it can be full."""
    box = ApiBox()
    mounted = box.dir / folder
    mounted.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=700,uid={API_UID}", "tmpfs", mounted], check=True)
    try:
        with box:
            yield box
    finally:
        subprocess.run(["umount", "-l", mounted], check=False)
