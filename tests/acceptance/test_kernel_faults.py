"""Something goes away during a running job, one after the other: what the job saw, on kernel NFS mounts.

Each fault hits a job that works on its files every half second and outlives two tickets. The run writes
build/faults.md, from which docs/reference/faults.md is made.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kernel_cluster import TICKET_LIFE_S, UID, Cluster, watching

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("kernel")]

Proof = Callable[[str, object], None]
OUTAGE_S = 15
# Shorter than half a ticket's life, so the agent always gets a fresh one in time once the fault is over.
JOB_S = 80
TABLE = Path(__file__).parents[2] / "build" / "faults.md"


@dataclass(frozen=True)
class Fault:
    """One fault: how it is made and healed.

    Attributes:
        may_wait: the file server itself was away: a hard mount waits for it, and then goes on.
    """

    name: str
    make: Callable[[Cluster], None]
    heal: Callable[[Cluster], None]
    outage_s: int = OUTAGE_S
    may_wait: bool = False


def _service(name: str, title: str, **more: object) -> Fault:
    return Fault(
        title,
        lambda cluster: cluster.sandbox.service(name).kill(),
        lambda cluster: cluster.sandbox.service(name).start(),
        **more,  # type: ignore[arg-type]
    )


def _unplug(cluster: Cluster) -> None:
    """The node's packets to the cache go to a machine that is not there: no answer, no error."""
    route = [
        "ip",
        "neighbour",
        "replace",
        "10.203.0.3",
        "lladdr",
        "02:00:00:00:00:99",
        "dev",
        "vec0",
        "nud",
        "permanent",
    ]
    cluster.on("k1", *route, check=True)


def _plug(cluster: Cluster) -> None:
    cluster.on("k1", "ip", "neighbour", "delete", "10.203.0.3", "dev", "vec0", check=True)


FAULTS = [
    _service("kdc", "KDC killed"),
    _service("auksd", "cache killed"),
    Fault("agent killed", lambda c: c.agent("k1", "kill"), lambda c: c.agent("k1", "start")),
    _service("slurmctld", "slurmctld killed"),
    _service("ganesha", "NFS server killed", may_wait=True),
    Fault("network between node and cache cut", _unplug, _plug, outage_s=30),
]


@pytest.fixture(scope="module")
def table() -> Iterator[list[str]]:
    """Rows of the table in the documentation."""
    rows: list[str] = []
    yield rows
    TABLE.parent.mkdir(exist_ok=True)
    head = "| fault | for | errors the job saw | slowest call | next fresh ticket |\n|---|---|---|---|---|\n"
    TABLE.write_text(head + "".join(f"{row}\n" for row in rows))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_running_job_does_not_notice(cluster: Cluster, table: list[str], fault: Fault, proof: Proof) -> None:
    alice, operator = cluster.alice.laptop, cluster.operator
    alice.login()
    job_id = alice.submit(watching(JOB_S, "/data/alice"), "-w", "k1", "-t", "10")
    operator.job_runs(job_id, within_s=60)
    endtime = operator.installed("k1", UID["alice"], job_id)["endtime"]
    # Right after a replacement, when the most of a ticket's life is left; the kernel may not have used it yet: the file
    # server's ticket in it is one that the agent carried over or got.
    endtime = operator.fresher("k1", UID["alice"], job_id, endtime, within_s=TICKET_LIFE_S)
    fault.make(cluster)
    try:
        time.sleep(fault.outage_s)
    finally:
        fault.heal(cluster)
    healed = time.monotonic()
    operator.fresher("k1", UID["alice"], job_id, endtime, within_s=2 * TICKET_LIFE_S)
    fresh = time.monotonic() - healed
    done, changes = cluster.outcome("k1", job_id, within_s=JOB_S + 120)
    slowest = max(done["slowest_s"].values())
    errors = done["errors"] or "none"
    table.append(f"| {fault.name} | {fault.outage_s} s | {errors} | {slowest} s | {fresh:.0f} s after it was over |")
    assert not done["errors"], f"{done['errors']}: {changes}"
    assert fault.may_wait or slowest < 10, f"a call took {slowest} s: {done}"
    proof(
        f"fault: {fault.name} for {fault.outage_s} s",
        f"errors {errors}, slowest call {slowest} s, fresh ticket {fresh:.0f} s later",
    )
    with contextlib.suppress(AssertionError):
        operator.job_ended(job_id, within_s=30)
    cluster.nothing_left("k1", job_id, UID["alice"], within_s=60)
