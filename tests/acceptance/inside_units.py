"""Runs below the systemd of ``systemd_root.sh``: a realm, the configuration, our units, and a person who logs in.

Every line it prints that begins with PROOF is one of the report's.
"""

from __future__ import annotations

import os
import pwd
import re
import secrets
import subprocess
from pathlib import Path

import httpx

from api_parts import make_certificate
from hipercow_slurm.testing.realm import Realm
from slurm_double import SlurmDouble

ETC = Path("/etc/hipercow-slurm")
OURS = ("signer", "auksd", "api")
ACCOUNTS = """\
hcs-api:x:5201:5201::/nonexistent:/usr/sbin/nologin
hcs-signer:x:5202:5202::/nonexistent:/usr/sbin/nologin
hcs-auksd:x:5203:5203::/nonexistent:/usr/sbin/nologin
alice:x:5001:5001::/home/alice:/bin/bash
"""
API = """\
[api]
listen = "127.0.0.1:8443"
certificate = "/etc/hipercow-slurm/tls.pem"
key = "/etc/hipercow-slurm/tls.key"
realm = "REALM.TEST"
service = "HTTP/localhost"
[signer]
service = "slurm-signer/localhost"
[slurm]
socket = "/run/slurmrestd/rest.sock"
[cache]
servers = [{ host = "127.0.0.1", port = 12345, principal = "auks/localhost" }]
[audit]
path = "/var/log/hipercow-slurm/api/audit.log"
"""
SIGNER = """\
[signer]
service = "slurm-signer/localhost@REALM.TEST"
jwks = "/etc/hipercow-slurm/jwks.json"
"""
AUKSD = """\
[auksd]
listen = "127.0.0.1:12345"
principal = "auks/localhost@REALM.TEST"
keytab = "/etc/hipercow-slurm/auksd.keytab"
store = "/var/lib/hipercow-slurm/auksd/credentials.db"
key_file = "/etc/hipercow-slurm/auksd.key"
[[rule]]
principal = '^[a-z]+@REALM[.]TEST$'
role = "user"
"""

AGAIN = """\
for i in $(seq 300); do
    new=$(systemctl show -p MainPID --value hipercow-slurm-api)
    [ "$new" != "$1" ] && systemctl -q is-active hipercow-slurm-api && echo "$new" && exit
    sleep 0.1
done
exit 1
"""


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=90)
    logs = "".join(path.read_text() for path in sorted(Path("/run").glob("log-*")))
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}\n{logs[-6000:]}"
    return done.stdout.strip()


def add_accounts() -> None:
    """Where the package's postinst has them made by adduser."""
    with open("/etc/passwd", "a") as passwd:
        passwd.write(ACCOUNTS)
    with open("/etc/group", "a") as group:
        for line in ACCOUNTS.splitlines():
            name, _, uid, *_ = line.split(":")
            group.write(f"{name}:x:{uid}:\n")


def configure(realm: Realm) -> None:
    ETC.mkdir(exist_ok=True)
    Path("/etc/krb5.conf").write_text(realm.krb5_conf.read_text())
    for name, text in (("api", API), ("signer", SIGNER), ("auksd", AUKSD)):
        (ETC / f"{name}.toml").write_text(text)
        (ETC / f"{name}.toml").chmod(0o644)
    made = make_certificate(ETC)
    (ETC / "auksd.key").write_text(secrets.token_hex(32) + "\n")
    services = {"api": "HTTP/localhost", "signer": "slurm-signer/localhost", "auksd": "auks/localhost"}
    for name, service in services.items():
        realm.add_service(service)
        realm.keytab(ETC / f"{name}.keytab", service)
    owners = {made.key: "api", ETC / "auksd.key": "auksd", **{ETC / f"{name}.keytab": name for name in services}}
    for path, name in owners.items():
        os.chown(path, pwd.getpwnam(f"hcs-{name}").pw_uid, 0)
        path.chmod(0o600)
    state = Path("/var/lib/hipercow-slurm/signer")
    state.mkdir(parents=True)
    os.chown(state, 5202, 5202)
    state.chmod(0o700)
    run("hipercow-slurm", "signer", "--init")


def unswapped(name: str) -> str:
    """A running unit writes no core file and is not swapped out: what systemd took, and the kernel where it tells."""
    pid = run("systemctl", "show", "-p", "MainPID", "--value", f"hipercow-slurm-{name}")
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE), limits
    asked = run("systemctl", "show", "-p", "MemorySwapMax", "--value", f"hipercow-slurm-{name}")
    assert asked == "0", (name, asked)
    cgroup = Path(f"/sys/fs/cgroup{Path(f'/proc/{pid}/cgroup').read_text().strip().removeprefix('0::')}")
    limit = cgroup / "memory.swap.max"
    # Where there is no memory controller for us, or the kernel has no swap, systemd has nothing to write to.
    if limit.exists():
        assert limit.read_text() == "0\n", (name, limit.read_text())
    return f"{name} (asked)" if not limit.exists() else f"{name} (the kernel says so)"


def main() -> None:
    add_accounts()
    password = secrets.token_hex(12)
    with Realm(Path("/run/kdc"), domains=("localhost",)) as realm:
        configure(realm)
        realm.add_user("alice", password)
        Path("/run/slurmrestd").mkdir()
        slurm = SlurmDouble(Path("/run/slurmrestd/rest.sock"))
        slurm.__enter__()
        Path("/run/slurmrestd/rest.sock").chmod(0o666)
        for name in OURS:
            run("systemctl", "start", f"hipercow-slurm-{name}.service")
        print("PROOF started:", run("systemctl", "is-active", *(f"hipercow-slurm-{name}" for name in OURS)).split())
        shown = run(
            "systemctl", "show", "-p", "User,MainPID,NoNewPrivileges,MemoryDenyWriteExecute", "hipercow-slurm-api"
        )
        print("PROOF of the API:", shown.split())
        pid = run("systemctl", "show", "-p", "MainPID", "--value", "hipercow-slurm-api")
        status = Path(f"/proc/{pid}/status").read_text()
        assert "Seccomp:\t2" in status and "CapBnd:\t0000000000000000" in status, status
        print("PROOF no core file and no swap:", *(unswapped(name) for name in OURS))
        with httpx.Client(base_url="https://localhost:8443", verify=str(ETC / "tls.pem"), timeout=60) as client:
            wrong = client.post("/v1/sessions", json={"username": "alice", "password": "wrong"})
            assert (wrong.status_code, wrong.json()["code"]) == (401, "login-failed"), wrong.text
            made = client.post("/v1/sessions", json={"username": "alice", "password": password})
            logs = "".join(path.read_text() for path in sorted(Path("/run").glob("log-*")))
            assert made.status_code == 201, (made.text, logs[-6000:])
            client.headers["Authorization"] = f"Bearer {made.json()['token']}"
            ticket = client.get("/v1/ticket").json()
            assert ticket["cache"] == ticket["session"], ticket
            print("PROOF a password login, and the ticket in the cache:", ticket["principal"])
            jobs = client.get("/v1/jobs")
            assert jobs.status_code == 200 and slurm.tokens, (jobs.text, logs[-6000:])
            print("PROOF the signer's token reached slurmrestd's stand-in:", len(slurm.tokens))
            run("systemctl", "reload", "hipercow-slurm-api.service")
            assert client.get("/v1/ticket").status_code == 200
            assert pid == run("systemctl", "show", "-p", "MainPID", "--value", "hipercow-slurm-api")
            run("systemctl", "kill", "-s", "KILL", "hipercow-slurm-api.service")
            new = run("sh", "-c", AGAIN, "sh", pid)
            with httpx.Client(base_url="https://localhost:8443", verify=str(ETC / "tls.pem"), timeout=60) as again:
                again.headers["Authorization"] = client.headers["Authorization"]
                assert again.get("/v1/ticket").status_code == 200, "the session did not survive the kill"
            print("PROOF killed, started again, the session goes on:", f"process {pid}, then {new}")
        for name in OURS:
            run("systemctl", "stop", f"hipercow-slurm-{name}.service")
        left = run("systemctl", "show", "-p", "Result", "--value", *(f"hipercow-slurm-{name}" for name in OURS)).split()
        assert left == ["success"] * 3, left
        print("PROOF stopped in time:", left)


if __name__ == "__main__":
    main()
