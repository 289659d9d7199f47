"""The story on a kernel SMB mount (sec=krb5, multiuser, encrypted): there cifs.upcall asks for the ticket.

Other than rpc.gssd it takes the ccache from the KRB5CCNAME of the process that touches the mount. But the kernel
renews an expired session in a worker of its own, which has no such variable: then the default ccache counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from kernel_cluster import TICKET_LIFE_S, UID, Cluster, at_session_ends, watching, without_an_error

from hipercow_slurm.testing.story import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("kernel")]

Proof = Callable[[str, object], None]
LONG_S = 3 * TICKET_LIFE_S + 10


@pytest.fixture(scope="module", autouse=True)
def long_job(cluster: Cluster, many_jobs: list[int]) -> int:
    """bob's job on k2 that outlives three tickets; started before the first test, so that it costs no time, and after
    a short one, whose ccache is his default one until it ends."""
    laptop = cluster.bob.laptop
    laptop.login()
    short = laptop.submit("#!/bin/bash\nsleep 10\n", "-w", "k2")
    cluster.operator.job_runs(short, within_s=60)
    return laptop.submit(watching(LONG_S, "/cifs/bob"), "-J", "long-cifs", "-t", "10", "-w", "k2")


def test_two_jobs_at_once_each_with_its_own_krb5ccname(cluster: Cluster, proof: Proof) -> None:
    """The first to end takes its ccache away; the other goes on. Neither reads bob's files."""
    laptop = cluster.alice.laptop
    laptop.login()
    read = (
        "cat /cifs/alice/secret; echo $KRB5CCNAME; cat /cifs/bob/secret 2>&1; echo mine >/cifs/alice/by-$SLURM_JOB_ID"
    )
    jobs = [laptop.submit(f"#!/bin/bash\n{read}\nsleep {wait}\n{read}\n", "-w", "k1") for wait in (15, 3)]
    for job_id in jobs:
        cluster.operator.job_runs(job_id, within_s=60)
    names = {}
    for job_id in reversed(jobs):
        laptop.ended(job_id, within_s=90)
        output = laptop.logs(job_id)
        assert output.count("secret of alice") == 2 and "secret of bob" not in output, output
        assert output.count("ermission denied") == 2, output
        names[job_id] = set(re.findall(r"krb5cc_\S+", output))
        assert names[job_id] == {f"krb5cc_{UID['alice']}_{job_id}"}, output
        cluster.nothing_left("k1", job_id, UID["alice"])
    owners = cluster.sandbox.run("files", ["sh", "-c", "stat -c %u /srv/data/alice/by-*"]).stdout.split()
    assert owners == [str(UID["alice"])] * 2, owners
    proof("SMB: two jobs at once", json.dumps({job: sorted(name) for job, name in names.items()}))


def test_who_has_no_ticket_is_refused(cluster: Cluster, proof: Proof) -> None:
    """root's key is the machine's; carol never logged in; a job that says --auks=no has no ticket."""
    told = {}
    for who in ("root", "carol"):
        done = cluster.on("k1", "cat", "/cifs/alice/secret", user=who)
        assert done.returncode != 0 and "secret" not in done.stdout, done
        told[who] = done.stderr.strip().rpartition(": ")[2]
    proof("SMB: without a ticket", told)


def test_the_default_ccache_is_a_link_to_the_jobs_ticket(cluster: Cluster, long_job: int) -> None:
    """The agent made it for the short job before, and moved it when that ended."""
    link = f"/tmp/krb5cc_{UID['bob']}"

    def moved() -> bool:
        return bool(cluster.on("k2", "readlink", link).stdout.strip() == f"{link}_{long_job}")

    eventually(f"{link} -> {link}_{long_job}", moved, within_s=30)


def test_job_outlives_three_tickets_on_smb(cluster: Cluster, long_job: int, proof: Proof) -> None:
    """By the default ccache. Without that link the first renewal by the kernel fails, and the node hangs in it.

    Eight calls a second seldom meet the moment at which a session ends; a job that does nothing else meets each
    (docs/how-to/node-side.md): the one error that is excused, and counted.
    """
    link = f"/tmp/krb5cc_{UID['bob']}"
    done, changes = cluster.outcome("k2", long_job, within_s=LONG_S + 120)
    met = at_session_ends(done, changes, 2 * LONG_S // TICKET_LIFE_S)
    told = without_an_error({**done, "errors": {}}, changes, LONG_S)
    proof(f"SMB: {LONG_S} s job, tickets of {TICKET_LIFE_S} s", f"{told}; EAGAIN at a session's end: {met or 'never'}")
    cluster.operator.job_ended(long_job, within_s=60)
    cluster.nothing_left("k2", long_job, UID["bob"])
    assert cluster.on("k2", "ls", "-l", link).returncode != 0, "the link of the last job stayed"
