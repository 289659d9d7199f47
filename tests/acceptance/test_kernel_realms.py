"""People in one realm, machines and services in another, each with its KDC: chain and kernel mount do not mind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kernel_cluster import TICKET_LIFE_S, UID, Cluster, watching, without_an_error

from hipercow_slurm.testing.sandbox import Sandbox

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("realms")]

Proof = Callable[[str, object], None]
SECONDS = TICKET_LIFE_S + 25


@pytest.fixture(scope="module")
def apart(debs: Path) -> Iterator[Cluster]:
    """A cluster of SANDBOX.TEST whose people are in PEOPLE.TEST; one node with a kernel of its own."""
    with Sandbox(
        ticket_life=f"{TICKET_LIFE_S}s",
        renew_life="1h",
        nodes=(),
        kernel_nodes=("k1",),
        node_packages=debs,
        two_realms=True,
    ) as sandbox:
        yield Cluster(sandbox)


def test_job_of_a_foreign_principal_outlives_its_ticket(apart: Cluster, proof: Proof) -> None:
    laptop = apart.alice.laptop
    session = laptop.login()
    assert session["principal"] == "alice@PEOPLE.TEST", session
    look = "#!/bin/bash\ncat /data/alice/secret\nklist\ncat /data/bob/secret 2>&1\ntrue\n"
    looking = laptop.submit(look, "-w", "k1", "-t", "5")
    laptop.ended(looking, within_s=60)
    # One after the other: for NFS gssd writes its tickets into the newest ccache of the user, whichever job's it is.
    working = laptop.submit(watching(SECONDS, "/data/alice"), "-w", "k1", "-t", "5")
    output = laptop.logs(looking)
    assert "secret of alice" in output and "secret of bob" not in output, output
    assert "Default principal: alice@PEOPLE.TEST" in output, output
    services = [line.split()[-1] for line in output.splitlines() if "@" in line and "/" in line.split()[-1]]
    assert "krbtgt/SANDBOX.TEST@PEOPLE.TEST" in services, output
    proof("two realms: what the job's ccache holds", json.dumps(services))
    done, changes = apart.outcome("k1", working, within_s=SECONDS + 90)
    proof(f"two realms: {SECONDS} s job, tickets of {TICKET_LIFE_S} s", without_an_error(done, changes, SECONDS))
    filed = {row["principal"]: row["uid"] for row in apart.operator.cache()}
    assert filed == {"alice@PEOPLE.TEST": UID["alice"]}, filed
    owners = apart.sandbox.run("files", ["stat", "-c", "%u", f"/srv/home/alice/slurm-{looking}.out"]).stdout
    assert owners.strip() == str(UID["alice"]), owners
    apart.nothing_left("k1", working, UID["alice"])
