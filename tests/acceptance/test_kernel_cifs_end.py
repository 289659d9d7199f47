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

    How long a call waits until it fails is Linux' (6.1): it tries to open the session again without a pause, at times
    for a minute, and a node with one CPU does nothing else meanwhile. So the login comes later than on NFS. On k2:
    k1 has lost its power before, and was once seen to spin for minutes here, its NFS client reclaiming as well.
    """
    seen = expiry(cluster, cluster.carol, "/cifs/carol", "k2", without_s=75, after_s=POLL_S + 60)
    told = seen.without_a_trace({"ENOKEY", "EBADF", "EACCES", "EHOSTDOWN"}, hang_s=90)
    proof("SMB: expiry with no way to renew", told)
