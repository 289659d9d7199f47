"""A broken agent makes the checks of the other files fail: they prove something."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kernel_cluster import TICKET_LIFE_S, UID, Cluster, watching, without_an_error

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("kernel")]

Proof = Callable[[str, object], None]


def test_these_checks_notice_an_agent_that_stops_refreshing(cluster: Cluster, proof: Proof) -> None:
    """The same job, the same check, an agent that is paused in mid-job: the check must fail, or it proves nothing."""
    seconds = TICKET_LIFE_S + 20
    job_id = cluster.alice.laptop.submit(watching(seconds, "/data/alice"), "-w", "k1", "-t", "10")
    cluster.operator.job_runs(job_id, within_s=60)
    cluster.operator.installed("k1", UID["alice"], job_id)
    cluster.agent("k1", "pause")
    try:
        done, changes = cluster.outcome("k1", job_id, within_s=seconds + 120)
    finally:
        cluster.agent("k1", "resume")
    with pytest.raises(AssertionError, match=r"EKEYEXPIRED|EACCES") as noticed:
        without_an_error(done, changes, seconds)
    proof("the same check with the agent paused fails", str(noticed.value).splitlines()[0][:160])
    cluster.nothing_left("k1", job_id, UID["alice"], within_s=60)
