"""A node loses power in mid-job: its kernel is killed, and started again on the same disk."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from kernel_cluster import UID, Cluster

from hipercow_slurm.testing.story import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("kernel")]

Proof = Callable[[str, object], None]
BOOT_ID = "/proc/sys/kernel/random/boot_id"
RECORDS = "/var/lib/hipercow-slurm/agent"


def test_a_power_cut_leaves_nothing(cluster: Cluster, proof: Proof) -> None:
    """The ticket and the agent's record are on the disk that is booted again; gone when the agent is ready. The next
    job there has its ticket and its files."""
    laptop, uid = cluster.alice.laptop, UID["alice"]
    laptop.login()
    job_id = laptop.submit("#!/bin/bash\nsleep 600\n", "-w", "k1", "-o", "/dev/null", "-t", "15")
    cluster.operator.job_runs(job_id, within_s=60)
    cluster.operator.installed("k1", uid, job_id)
    before = cluster.on(
        "k1", "sh", "-c", f"echo half >/tmp/.hipercow-slurm-0123456789abcdef; sync; cat {BOOT_ID}"
    ).stdout
    node = cluster.sandbox.service("node@k1")
    booted = node.log().count(" up: ")
    node.kill()
    node.start()  # ready at once, by slurmctld's word, which has not missed it yet
    eventually("the node is up, its agent too", lambda: node.log().count(" up: ") > booted, within_s=180)
    after = cluster.on("k1", "cat", BOOT_ID, check=True).stdout
    assert before and before != after, f"the same kernel: {before}"
    disk = re.findall(r"disk: (.*)", node.log())[-1].split()
    there = {f"/tmp/krb5cc_{uid}_{job_id}", f"{RECORDS}/{job_id}.json", "/tmp/.hipercow-slurm-0123456789abcdef"}
    assert there <= set(disk), f"this test proves nothing: the power cut took {there - set(disk)}; the disk had {disk}"
    left = set(cluster.on("k1", "find", "/tmp", RECORDS, "-type", "f", check=True).stdout.split())
    assert not there & left and not [path for path in left if "krb5cc_" in path], left
    cluster.sandbox.run("head", ["scancel", str(job_id)])
    again = laptop.submit("#!/bin/bash\ncat /data/alice/secret\n", "-w", "k1")
    laptop.ended(again, within_s=90)
    assert laptop.logs(again) == "secret of alice\n", laptop.logs(again)
    cluster.nothing_left("k1", again, uid)
    proof("power cut in mid-job", f"on the disk at boot: {sorted(there)}; none when the agent was ready")
