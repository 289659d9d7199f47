"""The node side where a site has more than plain Slurm: the extern step, ssh into a job through pam_slurm_adopt, other
kinds of ccaches in real jobs (KCM with both daemons of Debian), a /tmp of each job's own. One sandbox with
PrologFlags=Contain."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import FILES, LoginNode, Operator, eventually

ALICE = 5001
AGENT_TOML = "/etc/hipercow-slurm/agent.toml"
KCM_SOCKET = "/run/.heim_org.h5l.kcm-socket"

SSHD = """\
Port 2222
HostKey /run/sshd/key
UsePAM yes
PasswordAuthentication no
AuthorizedKeysFile /run/sshd/%u.pub
StrictModes no
PidFile none
"""
# docs/how-to/node-side.md has these lines for operators
PAM_SSHD = """\
auth required pam_permit.so
account required pam_unix.so
account required pam_slurm_adopt.so action_adopt_failure=deny
session required pam_unix.so
session required pam_env.so conffile=/etc/security/job-ticket.conf
"""
PAM_ENV = "KRB5CCNAME OVERRIDE=${KRB5CCNAME} DEFAULT=FILE:/tmp/krb5cc_${SLURM_JOB_ID}\n"
READ = f"klist -s && krbcat {FILES} /data/alice/secret"


@contextmanager
def on_one_cpu() -> Iterator[None]:
    """Whatever is started here stays on one CPU.

    Slurm's job_container/tmpfs mounts the job's mount namespace in the node's. Linux refuses that (EINVAL) unless the
    mounted one is the newer, which it tells by their numbers, and Linux 6.18 gives those to each CPU in batches.
    """
    may = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(may)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, may)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """With an extern step on every node of a job."""
    with on_one_cpu():
        made = Sandbox(nodes=("c1",)).up()
    try:
        for host in made.options.slurm_hosts:
            text = made.read(host, "/etc/slurm/slurm.conf").replace("PrologFlags=Alloc", "PrologFlags=Alloc,Contain")
            made.run(host, ["tee", "/etc/slurm/slurm.conf"], input=text)
        for service in ("slurmctld", "slurmd@c1"):
            made.service(service).restart()
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def alice(sandbox: Sandbox) -> LoginNode:
    person = LoginNode(sandbox, "alice")
    person.kinit()
    return person


@contextmanager
def tickets_in(sandbox: Sandbox, place: str) -> Iterator[None]:
    """The agent with ``ccache = place``, then as it was."""
    before = sandbox.read("c1", AGENT_TOML)
    sandbox.run("c1", ["tee", AGENT_TOML], input=before.replace("[agent]\n", f'[agent]\nccache = "{place}"\n'))
    sandbox.service("agent@c1").restart()
    try:
        yield
    finally:
        sandbox.run("c1", ["tee", AGENT_TOML], input=before)
        sandbox.service("agent@c1").restart()


@contextmanager
def running(sandbox: Sandbox, host: str, *command: str) -> Iterator[subprocess.Popen[str]]:
    """A daemon of this test's own."""
    process = sandbox.popen(host, list(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def a_long_job(sandbox: Sandbox, alice: LoginNode, operator: Operator) -> Iterator[int]:
    job = alice.sbatch("#!/bin/bash\nsleep 300\n", "-w", "c1", "-o", "/dev/null")
    operator.job_runs(job)
    try:
        yield job
    finally:
        sandbox.run("head", ["scancel", str(job)])
        eventually("the job has ended", lambda: not steps(sandbox), within_s=60)


def steps(sandbox: Sandbox) -> str:
    """The slurmstepds on the node."""
    return sandbox.run("c1", ["pgrep", "-fa", "^slurmstepd"], check=False).stdout


def test_an_allocation_without_steps_keeps_its_ticket(sandbox: Sandbox, alice: LoginNode, operator: Operator) -> None:
    """salloc with nothing running in it: only the extern step tells the agent that the job lives."""
    waiting = sandbox.popen("login", ["salloc", "-Q", "-w", "c1", "sleep", "120"], user="alice")
    try:
        eventually("the extern step", lambda: "extern" in steps(sandbox), within_s=30)
        eventually("its ticket and the default one, a link", lambda: len(operator.leftovers("c1")) == 2, within_s=30)
        ccaches = set(operator.leftovers("c1"))
        sandbox.service("agent@c1").kill()
        sandbox.service("agent@c1").start()  # looks twice within 10 s for jobs that have gone
        log = sandbox.service("agent@c1").log
        eventually("two sweeps", lambda: log().count("agent.took_over"), within_s=30)
        assert ".extern" in steps(sandbox) and "agent.job_vanished" not in log(), log()[-2000:]
        assert set(operator.leftovers("c1")) == ccaches
    finally:
        waiting.kill()
        waiting.communicate()
        sandbox.run("head", ["scancel", "-u", "alice"])
    eventually("nothing left", lambda: not operator.leftovers("c1"), within_s=60)


def test_ssh_into_a_job_has_the_jobs_ticket(sandbox: Sandbox, alice: LoginNode, operator: Operator) -> None:
    """pam_slurm_adopt says which job a session belongs to; pam_env makes KRB5CCNAME of that."""
    script = "mkdir -p /run/sshd /etc/security && ssh-keygen -q -t ed25519 -N '' -f /run/sshd/key"
    sandbox.run("c1", ["bash", "-c", script])
    alice.do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/tmp/alice-key")
    files = {
        "/run/sshd/conf": SSHD,
        "/etc/pam.d/sshd": PAM_SSHD,
        "/etc/security/job-ticket.conf": PAM_ENV,
        "/run/sshd/alice.pub": alice.do("cat", "/tmp/alice-key.pub"),
    }
    for path, text in files.items():
        sandbox.run("c1", ["tee", path], input=text)
    ssh = ["ssh", "-p", "2222", "-i", "/tmp/alice-key", "-o", "StrictHostKeyChecking=no"]
    ssh += ["-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=20", "c1"]
    with (
        tickets_in(sandbox, "/tmp/krb5cc_%j"),
        running(sandbox, "c1", "/usr/sbin/sshd", "-D", "-e", "-f", "/run/sshd/conf"),
    ):

        def refused() -> bool:
            said = sandbox.run("login", [*ssh, "true"], user="alice", check=False)
            return said.returncode != 0 and "no active jobs on this node" in said.stderr

        eventually("sshd keeps out who has no job here", refused, within_s=30)
        with a_long_job(sandbox, alice, operator) as job:
            said = sandbox.run("login", [*ssh, f"echo $SLURM_JOB_ID $KRB5CCNAME; {READ}"], user="alice", check=False)
            lines = said.stdout.splitlines()
            assert lines == [f"{job} FILE:/tmp/krb5cc_{job}", "secret of alice"], said
        assert sandbox.run("login", [*ssh, "true"], user="alice", check=False).returncode != 0


@contextmanager
def kcm(sandbox: Sandbox, program: str) -> Iterator[None]:
    """One of Debian's two KCM daemons on the node; SSSD's wants a configuration and folders of its own."""
    start = f"rm -f {KCM_SOCKET}; "
    if program == "sssd":
        conf = "[sssd]\nservices =\ndomains =\n[kcm]\n"
        sandbox.run("c1", ["bash", "-c", "mkdir -p /etc/sssd; cat > /etc/sssd/sssd.conf; chmod 600 /etc/sssd/sssd.conf"], input=conf)  # fmt: skip # noqa: E501
        folders = " ".join(f"/var/lib/sss/{one}" for one in ("db", "secrets", "mc", "pipes/private"))
        start += f"mkdir -p {folders} && exec /usr/libexec/sssd/sssd_kcm --logger=stderr"
    else:
        start += "MALLOC_PERTURB_=165 exec /usr/sbin/kcm"  # see test_kernel_places.py
    with running(sandbox, "c1", "bash", "-c", start):
        eventually("the KCM daemon", lambda: not sandbox.run("c1", ["test", "-S", KCM_SOCKET], check=False).returncode, within_s=30)  # fmt: skip # noqa: E501
        yield


def gone(sandbox: Sandbox, name: str) -> bool:
    """Whether alice finds no ticket there any more."""
    return sandbox.run("c1", ["klist", "-s", name], user="alice", check=False).returncode != 0


@pytest.mark.parametrize(
    "place",
    [
        "/run/hipercow-slurm/tickets/%u/krb5cc_%j",
        "DIR:/tmp/krb5cc_%u_%j",
        "KEYRING:persistent:%u:%j",
        "KCM:%u:%j sssd",
        "KCM:%u:%j heimdal",
    ],
)
def test_every_kind_of_ccache_in_real_jobs(sandbox: Sandbox, alice: LoginNode, operator: Operator, place: str) -> None:
    """Two jobs of one user overlap, the first ends, the second still reads its file; then nothing is left."""
    place, _, program = place.partition(" ")
    name = place if ":" in place else f"FILE:{place}"
    names = []
    with tickets_in(sandbox, place), kcm(sandbox, program) if program else running(sandbox, "c1", "sleep", "600"):
        with a_long_job(sandbox, alice, operator) as long:
            names.append(name.replace("%u", str(ALICE)).replace("%j", str(long)))
            short = alice.do("srun", "-w", "c1", "bash", "-c", f"echo $KRB5CCNAME; {READ}").splitlines()
            assert short[1:] == ["secret of alice"], (short, sandbox.service("agent@c1").log()[-1500:])
            names.append(short[0])
            assert short[0].rpartition(":")[0] == names[0].rpartition(":")[0] and short[0] != names[0], short
            inside = alice.do("srun", f"--jobid={long}", "--overlap", "bash", "-c", f"echo $KRB5CCNAME; {READ}")
            assert inside.splitlines() == [names[0], "secret of alice"], "the first to end took the other's ticket"
        for one in names:
            eventually(f"{one} is gone", lambda one=one: gone(sandbox, one), within_s=30)


def test_a_job_with_a_tmp_of_its_own(sandbox: Sandbox, alice: LoginNode) -> None:
    """What job_container/tmpfs and pam_namespace do: the job's /tmp is not the node's."""
    script = f"mount -t tmpfs none /tmp && ls -A /tmp && {READ}"
    private = ["srun", "-w", "c1", "unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    with tickets_in(sandbox, "/run/hipercow-slurm/tickets/%u/krb5cc_%j"):
        assert alice.do(*private).splitlines() == ["secret of alice"]
    lost = sandbox.run("login", private, user="alice", check=False)
    assert lost.returncode != 0, f"this test proves nothing: /tmp is not private here: {lost}"


def registered(sandbox: Sandbox, node: str, since: datetime) -> bool:
    """slurmctld has heard from a slurmd that started after ``since``; what it sends before that is lost."""
    told = sandbox.run("head", ["scontrol", "-o", "show", "node", node]).stdout
    fields = dict(pair.partition("=")[::2] for pair in told.split())
    started = fields.get("SlurmdStartTime", "None")
    return fields["State"] == "IDLE" and started != "None" and datetime.fromisoformat(started) >= since


@contextmanager
def slurms_own_private_tmp(sandbox: Sandbox) -> Iterator[None]:
    """JobContainerType=job_container/tmpfs, then as it was."""
    path = "/etc/slurm/slurm.conf"
    hosts, services = sandbox.options.slurm_hosts, ("slurmctld", "slurmd@c1")
    before = {host: sandbox.read(host, path) for host in hosts}
    for host in hosts:
        sandbox.run(host, ["tee", path], input=before[host] + "\nJobContainerType=job_container/tmpfs\n")
        sandbox.run(host, ["tee", "/etc/slurm/job_container.conf"], input="AutoBasePath=true\nBasePath=/run/job-tmp\n")
    since = datetime.now().replace(microsecond=0)
    for service in services:
        sandbox.service(service).restart()
    eventually("c1 is back", lambda: registered(sandbox, "c1", since), within_s=60)
    try:
        yield
    finally:
        for host in hosts:
            sandbox.run(host, ["tee", path], input=before[host])
        for service in services:
            sandbox.service(service).restart()


def test_a_tmp_that_slurm_makes_for_each_job(sandbox: Sandbox, alice: LoginNode, operator: Operator) -> None:
    """job_container/tmpfs: the job's /tmp is empty, and the ticket, which the agent writes in the node's own mounts,
    is found in srun, in a batch script and in its steps; gone afterwards. In the node's /tmp it would not be found."""
    look = "grep -c ' /tmp .*tmpfs' /proc/self/mountinfo; ls -A /tmp | grep -v slurm"
    with slurms_own_private_tmp(sandbox):
        lost = sandbox.run("login", ["srun", "-w", "c1", "sh", "-c", f"{look}; {READ}"], user="alice", check=False)
        assert lost.stdout == "1\n" and lost.returncode != 0, f"/tmp is not private, or the ticket was found: {lost}"
        # Else Slurm's container plugin may still take down that job's mounts, and the next one does not start.
        idle = ["sinfo", "-h", "-n", "c1", "-o", "%t"]
        eventually("c1 has nothing to end", lambda: sandbox.run("head", idle).stdout.strip() == "idle", within_s=60)
        with tickets_in(sandbox, "/run/hipercow-slurm/tickets/%u/krb5cc_%j"):
            done = sandbox.run("login", ["srun", "-w", "c1", "sh", "-c", f"{look}; {READ}"], user="alice", check=False)
            log = sandbox.service("slurmd@c1").log()[-3000:]
            assert done.stdout.splitlines() == ["1", "secret of alice"], f"{done}; {log}"
            script = f"#!/bin/bash\n{look}\n{READ}\nsrun sh -c 'echo own >/tmp/x; {READ}'\ncat /tmp/x\n"
            job = alice.sbatch(script, "-w", "c1", "-o", "/home/alice/private-tmp")
            operator.job_ended(job, within_s=60)
            said = sandbox.read("login", "/home/alice/private-tmp").split("\n")
            assert said == ["1", "secret of alice", "secret of alice", "own", ""], said
            left = ["find", "/run/hipercow-slurm/tickets", "-name", "krb5cc*"]
            eventually("no ticket is left", lambda: not sandbox.run("c1", left).stdout, within_s=30)


def test_an_agent_that_hangs_delays_a_job_no_longer_than_told(sandbox: Sandbox, alice: LoginNode) -> None:
    """The prolog and the step each wait timeout_ms, then the plugin's policy decides; the node stays fine."""
    path, told_s = "/etc/slurm/plugstack.conf", 2.0
    before = sandbox.read("c1", path)
    sandbox.run("c1", ["tee", path], input=before.replace("timeout_ms=5000", f"timeout_ms={told_s * 1000:.0f}"))
    began = time.monotonic()
    alice.do("srun", "-w", "c1", "true")
    usual = time.monotonic() - began
    sandbox.service("agent@c1").pause()
    try:
        began = time.monotonic()
        said = sandbox.run("login", ["srun", "-w", "c1", "echo", "RAN"], user="alice")
        took = time.monotonic() - began
    finally:
        sandbox.service("agent@c1").resume()
        sandbox.run("c1", ["tee", path], input=before)
    assert "RAN" in said.stdout and "agent did not answer" in said.stdout + said.stderr, said
    assert 2 * told_s <= took <= 3 * told_s + 20 * usual + 5, f"{took:.1f} s, usually {usual:.1f} s"
    assert "drain" not in sandbox.run("head", ["sinfo", "-h", "-N", "-o", "%T"]).stdout


def test_the_documentation_has_these_lines() -> None:
    text = (Path(__file__).parents[2] / "docs/how-to/node-side.md").read_text()
    for line in (PAM_ENV, *PAM_SSHD.splitlines()[-1:], "account required pam_slurm_adopt.so"):
        assert line.strip() in text, line
