"""Which service tickets a new ccache takes over from old ones."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from test_agent_keeper import credential

from hipercow_slurm.agent import services
from hipercow_slurm.krb5 import ccache, krbcred
from hipercow_slurm.krb5.krbcred import Ticket
from hipercow_slurm.values import KrbCred

NOW = int(time.time())


@pytest.fixture(scope="module")
def cred() -> KrbCred:
    return credential(600)


def service(cred: KrbCred, server: str, *, end: int = NOW + 300, size: int = 100, client: str | None = None) -> Ticket:
    tgt = krbcred.tickets(cred)[0]
    client = client or tgt.client
    return replace(tgt, client=client, server=server, endtime=end, ticket_der=b"x" * size)


def old_file(cred: KrbCred, *found: Ticket, owner: str | None = None) -> bytes:
    tgt = krbcred.tickets(cred)[0]
    return ccache.file_of([replace(tgt, client=owner or tgt.client), *found])


def carried(cred: KrbCred, *contents: bytes) -> list[str]:
    return [one.server for one in services.carried(contents, cred, NOW)]


def test_good_ones_of_all_jobs_the_longest_of_each_server(cred: KrbCred) -> None:
    first = old_file(
        cred, service(cred, "nfs/a@REALM.TEST", end=NOW + 9), service(cred, "cifs/b@REALM.TEST", end=NOW + 8)
    )
    second = old_file(cred, service(cred, "nfs/a@REALM.TEST", end=NOW + 300))
    assert carried(cred, first, second) == ["nfs/a@REALM.TEST", "cifs/b@REALM.TEST"]
    assert services.carried([first, second], cred, NOW)[0].endtime == NOW + 300


def test_never_the_old_tgt_an_expired_one_or_anothers(cred: KrbCred) -> None:
    """An old TGT beside the new one could be the one that libkrb5 takes."""
    assert carried(
        cred,
        old_file(cred, service(cred, "nfs/a@REALM.TEST", end=NOW)),
        old_file(cred, service(cred, "krbtgt/REALM.TEST@REALM.TEST"), service(cred, "krbtgt/B.TEST@REALM.TEST")),
        old_file(cred, service(cred, "nfs/a@REALM.TEST"), owner="bob@REALM.TEST"),
        old_file(cred, service(cred, "nfs/a@REALM.TEST", client="bob@REALM.TEST")),
        old_file(cred, service(cred, "nfs/a@ELSEWHERE.TEST")),
    ) == []  # fmt: skip


def test_no_more_than_so_many_and_so_large(cred: KrbCred) -> None:
    """The file is the user's: it may be full of anything."""
    many = old_file(cred, *(service(cred, f"nfs/{n}@REALM.TEST", end=NOW + 100 + n) for n in range(500)))
    assert carried(cred, many) == [f"nfs/{n}@REALM.TEST" for n in range(499, 499 - services.MANY, -1)]
    large = old_file(cred, *(service(cred, f"nfs/{n}@REALM.TEST", size=60_000) for n in range(4)))
    assert len(carried(cred, large)) == services.SIZE // 60_000


@pytest.mark.parametrize("content", [b"", b"\0" * 300, b"\5\4\0", b"x" * 5000])
def test_a_file_that_is_no_ccache_brings_nothing_and_harms_nothing(cred: KrbCred, content: bytes) -> None:
    good = old_file(cred, service(cred, "nfs/a@REALM.TEST"))
    assert carried(cred, content, good[:-3], good) == ["nfs/a@REALM.TEST"]


def test_user_to_user_tickets_stay_behind(cred: KrbCred) -> None:
    """They are good for one session of somebody else's only."""
    one = service(cred, "nfs/a@REALM.TEST")
    content = old_file(cred, one)
    at = content.rindex(one.ticket_der) - 4 - 4 - 4 - 4 - 1  # its length, authdata, addresses, flags, is_skey
    assert content[at] == 0
    assert carried(cred, content[:at] + b"\1" + content[at + 1 :]) == [] and carried(cred, content)
