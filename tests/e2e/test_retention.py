"""The cache forgets who has had no job for the grace time, as a real slurmctld tells it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import LoginNode, Operator, eventually

pytestmark = pytest.mark.e2e

ALICE, BOB = 5001, 5002
CONFIG = "/etc/hipercow-slurm/auksd.toml"


@pytest.fixture
def forgetful(sandbox: Sandbox) -> Iterator[None]:
    """The sandbox's cache with a grace time of four seconds; afterwards it is as it was, tickets too."""
    try:
        yield reconfigured(sandbox, f"printf '[retention]\\ngrace_s = 4\\n' >> {CONFIG}")
    finally:
        reconfigured(sandbox, f"sed -i '/^.retention/,$d' {CONFIG}")
        for user in ("alice", "bob"):
            upload(sandbox, user)


def reconfigured(sandbox: Sandbox, change: str) -> None:
    auksd = sandbox.service("auksd")
    done = auksd.log().count("auksd.reloaded")
    # The pid is one of the sandbox's own namespace: out here that number is somebody else.
    sandbox.run("head", ["sh", "-c", f"{change} && kill -HUP {auksd.pid}"])
    eventually("auksd has read it", lambda: auksd.log().count("auksd.reloaded") > done, within_s=5, every_s=0.05)


def upload(sandbox: Sandbox, user: str) -> None:
    node = LoginNode(sandbox, user)
    node.kinit()
    node.do("hipercow-slurm", "upload")
    node.do("kdestroy")


def test_who_has_no_job_is_forgotten_and_an_outage_counts_for_nothing(sandbox: Sandbox, forgetful: None) -> None:
    operator, slurmctld = Operator(sandbox), sandbox.service("slurmctld")
    held = LoginNode(sandbox, "bob").sbatch("#!/bin/bash\n", "--hold", "-J", "kept", "-o", "/dev/null")
    sandbox.run("head", ["scancel", "-u", "alice"])

    def known() -> set[int]:
        return {row["uid"] for row in operator.cache()}

    try:
        slurmctld.stop()
        try:
            upload(sandbox, "alice")
            upload(sandbox, "bob")
            pauses = sandbox.service("auksd").log().count("retention.paused")
            eventually(
                "two looks in vain",
                lambda: sandbox.service("auksd").log().count("retention.paused") >= pauses + 2,
                within_s=40,
            )
            assert known() >= {ALICE, BOB}, "somebody was forgotten while nobody knew who had jobs"
        finally:
            slurmctld.start()
        eventually("alice forgotten", lambda: ALICE not in known(), within_s=40)
        assert BOB in known(), "bob has a pending job"
        upload(sandbox, "alice")
        assert ALICE in known(), "she is welcome again"
    finally:
        sandbox.run("head", ["scancel", str(held)])
