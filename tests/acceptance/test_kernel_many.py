"""1 000 short jobs in a row, two at a time on each of two nodes: each has its ticket, nothing is left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest
from kernel_cluster import MANY_FOLDER, MANY_JOBS, NODES, Cluster

from hipercow_slurm.testing.sandbox.fileservers import CONTEXT_TIMEOUT_S
from hipercow_slurm.testing.story import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("kernel")]

Proof = Callable[[str, object], None]
# Whatever a job leaves on a node would be in one of these lines: each is empty after the last.
LOOK = """
echo files: $(find /tmp /dev/shm /run /var -xdev '(' -user dave -o -name '*krb5cc_5004*' ')' 2>/dev/null)
echo agent: $(grep -l 5004 /var/lib/hipercow-slurm/agent/*.json 2>/dev/null)
echo keys: $(awk '$6 == 5004' /proc/keys)
echo processes: $(ps -u dave -o pid=,args=)
"""


def left_on(cluster: Cluster, node: str) -> dict[str, str]:
    """What is left of dave's jobs on a node, by where."""
    lines = cluster.on(node, "sh", "-c", LOOK, check=True).stdout.splitlines()
    found = {what: rest.strip() for what, _, rest in (line.partition(":") for line in lines)}
    return {what: rest for what, rest in found.items() if rest}


def test_a_thousand_short_jobs_leave_nothing(cluster: Cluster, many_jobs: list[int], proof: Proof) -> None:
    """Each read dave's file and wrote one over krb5p, with a ccache of its own that no later one must find."""
    assert len(many_jobs) == len(NODES)

    def written() -> int:
        return len(cluster.sandbox.run("files", ["ls", MANY_FOLDER]).stdout.split())

    def queued() -> str:
        argv = ["squeue", "-h", "-u", "dave", "-n", "many", "-o", "%F %T %r"]
        return str(cluster.sandbox.run("head", argv).stdout)

    before = written()
    eventually("all of them ended", lambda: not queued(), within_s=1500, every_s=2)
    assert written() == MANY_JOBS, f"{written()} of {MANY_JOBS} wrote their file"
    for node in NODES:
        with contextlib.suppress(AssertionError):
            eventually(f"nothing of a job on {node}", lambda node=node: not left_on(cluster, node), within_s=30)
        left = left_on(cluster, node)
        assert not left, f"{node}: {left}"
    began = time.monotonic()
    for node in NODES:
        gone = f"touch /data/dave/probe-{node} 2>/dev/null && exit 1 || exit 0"
        eventually(
            f"{node}'s kernel forgets dave",
            lambda node=node, gone=gone: cluster.on(node, "sh", "-c", gone, user="dave").returncode == 0,
            within_s=CONTEXT_TIMEOUT_S + 30,
        )
    proof(
        f"{MANY_JOBS} short jobs of one user, two nodes",
        f"{MANY_JOBS} files written over krb5p ({before} before the wait); nothing of dave's in the files, "
        "keyrings and processes of both nodes, nor in the agent's folders; "
        f"their kernels let dave no more {time.monotonic() - began:.0f} s later",
    )
