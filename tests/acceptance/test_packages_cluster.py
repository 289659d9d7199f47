"""The whole chain from installed packages: no program of ours runs from the source tree, each starts from its unit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import FILES, Laptop, LoginNode, Operator, eventually, reader

TICKET_LIFE_S = 60
PROGRAMS = ("signer", "auksd", "api", "agent@c1", "agent@c2")


@pytest.fixture(scope="module")
def sandbox(debs: Path) -> Iterator[Sandbox]:
    """A cluster whose hosts each installed their packages."""
    with Sandbox(ticket_life=f"{TICKET_LIFE_S}s", renew_life="30m", packages=debs) as made:
        yield made
        print(made.tail_logs())


@pytest.fixture(scope="module")
def alice(sandbox: Sandbox) -> Laptop:
    """alice, logged in on the laptop."""
    person = Laptop(sandbox, "alice")
    person.login()
    return person


def test_every_program_is_the_installed_one(sandbox: Sandbox) -> None:
    """A sandbox that quietly ran the source tree would prove nothing."""
    pids = {row["name"]: row["pid"] for row in sandbox.status()}
    for name in PROGRAMS:
        words = sandbox.run("head", ["cat", f"/proc/{pids[name]}/cmdline"]).stdout.split("\0")
        assert words[:3] == ["/usr/lib/hipercow-slurm/bin/python3", "-I", "/usr/bin/hipercow-slurm"], (name, words)
    for host in ("login", "laptop"):
        assert sandbox.run(host, ["sh", "-c", "command -v hipercow-slurm"]).stdout == "/usr/bin/hipercow-slurm\n"
    assert "/etc/slurm/plugstack.conf.d/*.conf" in sandbox.read("c1", "/etc/slurm/plugstack.conf")


def test_a_node_has_no_server_library(sandbox: Sandbox) -> None:
    """What is not there cannot be abused, and makes no memory."""
    site = "/usr/lib/hipercow-slurm/lib/python3.11/site-packages"
    there = sandbox.run("c1", ["ls", site]).stdout.split()
    assert "msgspec" in there and not {"joserfc", "aiohttp", "uvicorn", "asyncpg"} & set(there), there


def test_units_close_what_they_say(sandbox: Sandbox) -> None:
    """The folders of others, and capabilities, are out of reach of a program that was taken over."""
    pids = {row["name"]: row["pid"] for row in sandbox.status()}

    def inside(name: str, script: str) -> str:
        entering = ["nsenter", f"--target={pids[name]}", "--mount", "--net", "sh", "-c", script]
        return sandbox.run("head", entering, check=False).stdout

    for name in PROGRAMS:
        status = sandbox.run("head", ["cat", f"/proc/{pids[name]}/status"]).stdout
        bounding = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapBnd"))
        assert bounding == ((1 << 0 | 1 << 2 | 1 << 3) if "agent" in name else 0), (name, hex(bounding))
        assert "NoNewPrivs:\t1" in status
        said = inside(name, "touch /usr/x /etc/x /home/x /var/lib/hipercow-slurm/x 2>/dev/null; ls /usr/x /etc/x")
        assert said == "", (name, said)
    assert inside("signer", "ip -o link | grep -c UP") == "0\n", "the signer has a network"


def test_a_long_job_from_the_laptop_reads_its_files_to_the_end(alice: Laptop, sandbox: Sandbox) -> None:
    """Longer than a ticket lives: renewal, the agent's replacement and the output's way back, all installed."""
    job_id = alice.submit(reader(TICKET_LIFE_S + 15), "-t", "5")
    job = alice.ended(job_id, within_s=TICKET_LIFE_S + 90)
    assert (job["state"], "failed=0" in alice.logs(job_id)) == ("COMPLETED", True), alice.logs(job_id)
    operator = Operator(sandbox)
    eventually(
        "the job's ccache gone",
        lambda: f"/tmp/krb5cc_5001_{job_id}" not in operator.leftovers("c1") + operator.leftovers("c2"),
        within_s=15,
    )


def test_sbatch_on_the_login_node(sandbox: Sandbox) -> None:
    """The packaged plugin runs the packaged uploader, and on the node asks the packaged agent."""
    node = LoginNode(sandbox, "bob")
    node.kinit()
    job_id = node.sbatch(f"#!/bin/bash\nkrbcat {FILES} /data/bob/secret\n", "-t", "2", "-o", "out-%j")
    job = Operator(sandbox).job_ended(job_id, within_s=40)
    assert (job["JobState"], node.do("cat", f"out-{job_id}")) == ("COMPLETED", "secret of bob\n"), job


def test_the_audit_log_is_where_the_package_says(sandbox: Sandbox) -> None:
    """Its folder is the unit's; the store's key was made by the package and opened the store."""
    assert '"verb":"add"' in sandbox.read("head", "/var/log/hipercow-slurm/auksd/audit.log").replace(" ", "")
