"""A ticket on SMB that ends, and no other comes. Last on the nodes with real kernels: what Linux does then is no good
neighbour to other tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kernel_cluster import POLL_S, Cluster, expiry

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("kernel")]

Proof = Callable[[str, object], None]


def test_expiry_without_renewal_on_smb(cluster: Cluster, proof: Proof) -> None:
    """carol's ticket cannot be renewed: her files on SMB say so, and all work again after a login.

    Her open files rest meanwhile: a call on one that meets the ticket's end may try again in the kernel, without a
    pause, until another ticket comes, and a node with one CPU does nothing else, the agent included
    (docs/how-to/node-side.md). On k2: k1 has lost its power before, and was once seen to spin for minutes here, its NFS
    client reclaiming as well.
    """
    seen = expiry(cluster, cluster.carol, "/cifs/carol", "k2", "paths", without_s=30, after_s=POLL_S + 60)
    told = seen.without_a_trace({"ENOKEY", "EAGAIN", "EACCES", "EHOSTDOWN"}, hang_s=30, failing=("open", "create"))
    assert seen.done["count"]["append"] == seen.done["count"]["reread"] == 2, seen.done
    proof("SMB: expiry with no way to renew", told)
