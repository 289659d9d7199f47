"""Runs below the systemd of ``systemd_root.sh``: a realm, a cache, Slurm from its own units, our packages for nodes.

First the agent's unit as it is, then with the drop-in of docs/how-to/node-side.md, as it stands there. Every line it
prints that begins with PROOF is one of the report's.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from inside_units import run

from hipercow_slurm.client.auks_blocking import BlockingAuksClient
from hipercow_slurm.client.auks_steps import Server
from hipercow_slurm.krb5 import creds
from hipercow_slurm.testing.realm import Realm

UNIT = "hipercow-slurm-agent.service"
ETC = Path("/etc/hipercow-slurm")
LOG = Path("/run/log-agent")
HOST = "host/localhost@REALM.TEST"
CACHE = "auks/localhost@REALM.TEST"
UIDS = {"alice": 5001, "bob": 5002}
AUKSD = f"""\
[auksd]
listen = "127.0.0.1:12345"
principal = "{CACHE}"
keytab = "/run/auksd/keytab"
store = "/run/auksd/credentials.db"
key_file = "/run/auksd/key"
[[rule]]
principal = '^host/localhost@REALM[.]TEST$'
role = "admin"
[[rule]]
principal = '^[a-z]+@REALM[.]TEST$'
role = "user"
"""
SLURM = """\
ClusterName=unit
SlurmctldHost=localhost(10.205.0.1)
SlurmUser=slurm
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
PlugStackConfig=/etc/slurm/plugstack.conf
PrologFlags=Alloc
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SlurmctldLogFile=/run/log-slurmctld
SlurmdLogFile=/run/log-slurmd
NodeName=localhost NodeAddr=10.205.0.1 CPUs=4 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=localhost Default=YES State=UP
"""
# Slurm 22.05 wants to make cgroup folders though none of its plugins is used.
CGROUP = "CgroupPlugin=cgroup/v1\nCgroupAutomount=no\nCgroupMountpoint=/run/no-cgroup\n"
# Says so when it ever finds no ticket.
LOOKING = "#!/bin/bash\necho $KRB5CCNAME\nwhile :; do klist -s || echo LOST; sleep 0.1; done\n"
HELPER = '#!/bin/sh\necho "$(id -un) $KRB5CCNAME" >/tmp/helped-$SLURM_JOB_ID\n'
# The places of tickets of docs/how-to/node-side.md that need its drop-in.
PLACES = (
    "/run/user/%u/krb5cc_%j",
    "/run/hipercow-slurm/tickets/%u/krb5cc_%j",
    "KEYRING:persistent:%u:%j",
    "KCM:%u:%j",
)


def until(what: str, check: Callable[[], object], within_s: float = 60) -> None:
    ends = time.monotonic() + within_s
    while not check():
        logs = "".join(f"--- {path}\n{path.read_text()[-3000:]}" for path in sorted(Path("/run").glob("log-*")))
        assert time.monotonic() < ends, f"not within {within_s} s: {what}\n{logs}"
        time.sleep(0.1)


def as_user(user: str, *argv: str) -> str:
    return run("setpriv", f"--reuid={UIDS[user]}", f"--regid={UIDS[user]}", "--clear-groups", *argv)


def events(name: str) -> list[str]:
    return re.findall(rf"^.*\bevent={re.escape(name)}\b.*$", LOG.read_text(), re.M)


def told() -> list[dict[str, object]]:
    """The jobs of which the agent says that it has them."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("/run/hipercow-slurm/agent/agent.sock")
        sock.sendall(b"status\n")
        jobs: list[dict[str, object]] = json.loads(sock.makefile().readline())["jobs"]
        return jobs


def main_pid() -> int:
    return int(run("systemctl", "show", "-p", "MainPID", "--value", UNIT))


def configure(lines: str) -> None:
    """agent.toml as the package brings it, with this site's names and ``lines`` in [agent]."""
    text = (ETC / "agent.toml.package").read_text()
    text = text.replace("head.example.org", "localhost").replace("EXAMPLE.ORG", "REALM.TEST")
    (ETC / "agent.toml").write_text(f'{text}principal = "{HOST}"\nsweep_s = 1\npoll_s = 1\n{lines}\n')


@contextmanager
def site(realm: Realm) -> Iterator[None]:
    """Accounts, keys and configuration; the cache with alice's ticket in it; Slurm."""
    with open("/etc/passwd", "a") as passwd, open("/etc/group", "a") as group:
        for user, uid in UIDS.items():
            passwd.write(f"{user}:x:{uid}:{uid}::/:/bin/bash\n")
            group.write(f"{user}:x:{uid}:\n")
    Path("/etc/krb5.conf").write_text(realm.krb5_conf.read_text())
    os.environ["KRB5_CONFIG"] = "/etc/krb5.conf"
    Path("/run/auksd").mkdir()
    for service, keytab in ((HOST, "/etc/krb5.keytab"), (CACHE, "/run/auksd/keytab")):
        realm.add_service(service)
        realm.keytab(Path(keytab), service)
    Path("/run/auksd/key").write_text(secrets.token_hex(32) + "\n")
    Path("/run/auksd/key").chmod(0o600)
    Path("/run/auksd/toml").write_text(AUKSD)
    (ETC / "agent.toml").rename(ETC / "agent.toml.package")
    for path, text in {"slurm.conf": SLURM, "cgroup.conf": CGROUP, "plugstack.conf": "include plugstack.conf.d/*.conf\n"}.items():  # fmt: skip  # noqa: E501
        Path("/etc/slurm", path).write_text(text)
    run("sh", "-c", "mkdir -p /var/lib/slurm/slurmctld /var/spool/slurmd; chown slurm: /var/lib/slurm/slurmctld")
    with Path("/run/log-auksd").open("ab") as log:
        command = [sys.executable, "-m", "hipercow_slurm", "auksd", "--config", "/run/auksd/toml"]
        auksd = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until("the cache listens", lambda: "auksd.listening" in Path("/run/log-auksd").read_text())
        run("systemctl", "start", "munge.service", "slurmctld.service")
        yield
    finally:
        auksd.kill()


def login(realm: Realm, user: str) -> None:
    password = secrets.token_hex(12)
    realm.add_user(user, password)
    ticket = creds.password_tgt(user, bytearray(password.encode()), keytab="/run/auksd/keytab", service=CACHE)
    BlockingAuksClient([Server("localhost", CACHE, 12345)]).add(ticket)


def as_it_is() -> None:
    """One job, through everything that can happen to its agent."""
    configure("")
    run("systemctl", "start", UNIT, "slurmd.service")
    until("the node is there", lambda: run("sinfo", "-h", "-o", "%T") == "idle")
    status = Path(f"/proc/{main_pid()}/status").read_text()
    assert "Seccomp:\t2" in status and "CapBnd:\t000000000000000d" in status, status
    shown = run("systemctl", "show", "-p", "MemoryDenyWriteExecute,ProtectSystem,PrivateTmp,NoNewPrivileges", UNIT)
    print("PROOF the agent:", shown.split())
    Path("/tmp/looking").write_text(LOOKING)
    job = int(as_user("alice", "sbatch", "--parsable", "-o", "/tmp/looked", "/tmp/looking"))
    ccache = Path(f"/tmp/krb5cc_5001_{job}")
    looked = Path("/tmp/looked")
    until("the job runs", lambda: looked.exists() and looked.read_text())
    assert looked.read_text().startswith(f"FILE:{ccache}\n"), looked.read_text()
    was = ccache.stat()
    assert (was.st_uid, was.st_mode) == (5001, 0o100600), was
    print("PROOF a job of slurmd's has its ticket:", f"{ccache}, seen in the node's own /tmp")
    first = main_pid()
    run("systemctl", "restart", UNIT)
    assert main_pid() != first
    run("systemctl", "kill", "-s", "KILL", UNIT)
    until("it was started again", lambda: len(events("agent.ready")) == 3)
    run("systemctl", "stop", UNIT)
    assert ccache.stat().st_ino == was.st_ino, "a stop touched the ticket"
    assert list(Path("/var/lib/hipercow-slurm/agent").glob(f"{job}.json")), "the record went with the agent"
    run("systemctl", "start", UNIT)
    until("the next one has the job", lambda: [one["job_id"] for one in told()] == [job])
    time.sleep(12)  # it looks twice within ten seconds for jobs that have gone, in /proc
    assert [one["state"] for one in told()] == ["ok"], told()
    assert not events("agent.job_vanished") and "LOST" not in looked.read_text(), looked.read_text()
    print("PROOF restarted, killed, stopped, started in mid-job:", "the job always had its ticket, and /proc shows it")
    run("scancel", str(job))
    until("its ticket is gone", lambda: not ccache.exists())
    print("PROOF the job ended:", f"{ccache.name} is gone, {len(events('agent.bug'))} bugs logged")
    configure('policy = "require"')
    run("systemctl", "restart", UNIT)
    job = int(as_user("bob", "sbatch", "--parsable", "-o", "/dev/null", "--wrap", "true"))
    reason = lambda: run("squeue", "-h", "-j", str(job), "-o", "%T %r %k")  # noqa: E731
    until("bob's job is held", lambda: "PENDING" in reason() and "hipercow-slurm: no ticket" in reason())
    print("PROOF policy require, by scontrol from within the unit:", reason())
    run("scancel", str(job))


def drop_in() -> str:
    """The one of the page."""
    page = Path("/srv/in/node-side.md").read_text()
    found = re.search(r"^    \[Service\]\n(?:    .*\n)+", page, re.M)
    assert found, page
    return re.sub(r"^    ", "", found[0], flags=re.M)


def with_the_drop_in() -> None:
    """Every other place of a ticket, and the site's program, in a job each."""
    folder = Path(f"/etc/systemd/system/{UNIT}.d")
    (folder / "places.conf").write_text(drop_in())
    helper = Path("/usr/local/sbin/tokens")
    helper.write_text(HELPER)
    helper.chmod(0o755)
    run("systemctl", "daemon-reload")
    Path("/run/user/5001").mkdir(parents=True)
    kcm = subprocess.Popen(["/usr/sbin/kcm"], env={**os.environ, "MALLOC_PERTURB_": "165"})
    script = "echo $KRB5CCNAME; cat /tmp/helped-$SLURM_JOB_ID; klist -s && kvno auks/localhost >/dev/null && echo good"
    try:
        for place in PLACES:
            configure(f'ccache = "{place}"\nhelper = "{helper}"')
            run("systemctl", "restart", UNIT)
            if "/run/user" in place:  # as logind does, long after the agent started
                run("mount", "-t", "tmpfs", "-o", "uid=5001,gid=5001,mode=0700", "tmpfs", "/run/user/5001")
            said = as_user("alice", "srun", "-Q", "bash", "-c", script).split()
            assert said[1:] == ["alice", said[0], "good"], (place, said, LOG.read_text()[-3000:])
            # The agent forgets a job before its ticket goes, and a child removes this one.
            gone = ("bash", "-c", "klist -s -c $0 && echo THERE || true", said[0])
            until(f"{said[0]} is gone", lambda gone=gone: not told() and as_user("alice", *gone) == "")
            print(f"PROOF with the page's drop-in, {place}:", f"{said[0]}, and the helper ran as {said[1]}")
    finally:
        kcm.kill()
    failed = [name for name in ("install_failed", "remove_failed", "helper_failed", "bug") if events(f"agent.{name}")]
    assert not failed, LOG.read_text()[-4000:]
    run("systemctl", "stop", UNIT, "slurmd.service")
    result = run("systemctl", "show", "-p", "Result", "--value", UNIT)
    assert result == "success", result


def main() -> None:
    run("mount", "--make-rshared", "/")  # as systemd has it where it is not in a container
    run("ip", "address", "add", "10.205.0.1/32", "dev", "lo")  # Slurm resolves nothing where there is loopback alone
    with Realm(Path("/run/kdc"), domains=("localhost",)) as realm, site(realm):
        login(realm, "alice")
        as_it_is()
        with_the_drop_in()


if __name__ == "__main__":
    main()
