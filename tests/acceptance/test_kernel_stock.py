"""The story in short on a stock Debian kernel, emulated: User-Mode Linux is not the reason why it works.

Nothing but the kernel differs: the node has the same packages, mounts and checks (testing/uml/README.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kernel_cluster import UID, Cluster, watching, without_an_error

from hipercow_slurm.testing.sandbox import Sandbox

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("stock")]

Proof = Callable[[str, object], None]
NODE = "k1"
# As long as an emulated node needs; the job sees the first ticket end and the second.
TICKET_LIFE_S = 40
SECONDS = 2 * TICKET_LIFE_S + 10


@pytest.fixture(scope="module")
def stock(debs: Path) -> Iterator[Cluster]:
    """One such node with our packages."""
    with Sandbox(
        ticket_life=f"{TICKET_LIFE_S}s",
        renew_life="1h",
        nodes=(),
        kernel_nodes=(NODE,),
        node_packages=debs,
        emulated=True,
    ) as sandbox:
        yield Cluster(sandbox)


def test_job_outlives_two_tickets_on_a_stock_debian_kernel(stock: Cluster, proof: Proof) -> None:
    """Submitted over HTTP; written over krb5p all the time; bob refused; nothing left on the node."""
    release, about = stock.on(NODE, "uname", "-rv", check=True).stdout.strip().split(" ", 1)
    assert "Debian" in about and (Path("/boot") / f"vmlinuz-{release}").exists(), f"{release} {about}"
    mounts = stock.on(NODE, "grep", "-E", " (nfs4|cifs) ", "/proc/mounts", check=True).stdout
    assert mounts.count("sec=krb5p") == 2 and "sec=krb5," in mounts, mounts
    proof("stock Debian kernel under QEMU (TCG)", f"Linux {release} {about}, {len(mounts.splitlines())} mounts")

    alice, bob = stock.alice.laptop, stock.bob.laptop
    alice.login()
    working = alice.submit(watching(SECONDS, "/data/alice"), "-w", NODE, "-t", "10")
    stock.operator.job_runs(working, within_s=60)
    bob.login()
    tries = "exec 2>&1; cat /data/bob/secret; cat /data/alice/secret; cat /cifs/alice/secret; ls /data/alice; true"
    trying = bob.submit(f"#!/bin/bash\n{tries}\n", "-w", NODE, "-t", "5")
    bob.ended(trying, within_s=120)
    output = bob.logs(trying)
    assert "secret of bob" in output and "secret of alice" not in output, output
    assert output.count("ermission denied") == 3, output
    proof("stock kernel: bob beside alice's job", f"{output.count('ermission denied')} times permission denied")

    done, changes = stock.outcome(NODE, working, within_s=SECONDS + 180)
    proof(f"stock kernel: {SECONDS} s job, tickets of {TICKET_LIFE_S} s", without_an_error(done, changes, SECONDS))
    stock.operator.job_ended(working, within_s=60)
    for job_id, uid in ((working, UID["alice"]), (trying, UID["bob"])):
        stock.nothing_left(NODE, job_id, uid, within_s=60)
    left = [path for path in stock.operator.leftovers(NODE) if "machine" not in path]
    assert not left, left
