"""Two real realms, A and B, where B trusts A: cross-realm tickets got, used, renewed, lost; and addresses taken off."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import auksd_box
import pytest
from krb5_box import PASSWORD, refused
from mit import Mit

from hipercow_slurm.errors import AccessError, CredentialError, RequestError, UnavailableError
from hipercow_slurm.krb5 import auth, ccache, creds, krbcred, renewal
from hipercow_slurm.testing.realm import Realm
from hipercow_slurm.values import KrbCred

pytestmark = pytest.mark.kdc
LOCAL, CROSS = "krbtgt/A.TEST@A.TEST", "krbtgt/B.TEST@A.TEST"
SERVICE = "host/x.test@B.TEST"
HERE, ELSEWHERE = b"\x7f\0\0\1", b"\x0a\0\0\1"


@dataclass(frozen=True)
class Two:
    """Realm A, where this process lives and alice is; realm B, with a service; the keytabs of both."""

    a: Realm
    b: Realm
    keytab: str
    service_keytab: str

    def login(self, **options: int) -> KrbCred:
        return creds.password_tgt(
            "alice", bytearray(PASSWORD.encode()), keytab=self.keytab, service="HTTP/head.test", **options
        )

    def accepted(self, cred: KrbCred) -> str:
        """Who the service in B sees, when it is shown what ``cred`` gets there; A's KDC is not asked."""
        self.a.stop()
        try:
            initiator = auth.Initiator(cred, SERVICE, local=None, remote=None)
        finally:
            self.a.restart()
        with self.b.activated(), auth.Acceptor(self.service_keytab, SERVICE, local=None, remote=None) as acceptor:
            initiator.ap_rep(acceptor.ap_req(initiator.ap_req()))
            assert acceptor.unseal(initiator.seal(b"from A to B")) == b"from A to B"
        initiator.close()
        return acceptor.client


@pytest.fixture(scope="module")
def realms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    folder = tmp_path_factory.mktemp("two-realms")
    b = Realm(folder / "b", "B.TEST")
    a = Realm(folder / "a", "A.TEST", others={"B.TEST": f"127.0.0.1:{b.port}"})
    with b, a:
        for realm in (a, b):  # the same key on both sides is what trust is made of
            realm.add_user("krbtgt/B.TEST@A.TEST", "shared secret", requires_preauth=False)
        a.add_user("alice", PASSWORD)
        a.add_service("HTTP/head.test")
        b.add_service("host/x.test")
        keytab = a.keytab(folder / "a.keytab", "HTTP/head.test")
        yield Two(a, b, str(keytab), str(b.keytab(folder / "b.keytab", "host/x.test")))


@pytest.fixture
def two(realms: Two) -> Iterator[Two]:
    with realms.a.activated():
        yield realms


def servers(cred: KrbCred) -> list[str]:
    return [one.server for one in krbcred.tickets(cred)]


def ends(cred: KrbCred) -> list[int]:
    return [one.endtime for one in krbcred.tickets(cred)]


@contextlib.contextmanager
def short_trust(realm: Realm, life: str) -> Iterator[None]:
    """Cross-realm tickets live so long at most, for the length of the block."""
    realm.kadmin(f'modprinc -maxlife "{life}" krbtgt/B.TEST@A.TEST')
    try:
        yield
    finally:
        realm.kadmin('modprinc -maxlife "10h" krbtgt/B.TEST@A.TEST')


@contextlib.contextmanager
def no_trust(realm: Realm) -> Iterator[None]:
    """The KDC gives no cross-realm tickets, for the length of the block."""
    realm.kadmin("modprinc -allow_tix krbtgt/B.TEST@A.TEST")
    try:
        yield
    finally:
        realm.kadmin("modprinc +allow_tix krbtgt/B.TEST@A.TEST")


def test_a_cross_realm_ticket_is_really_obtained_and_works(two: Two) -> None:
    """auks-protocol section 12: the original asks with FORWARDED, which MIT refuses; a plain request is answered."""
    cred = creds.cross_realm_tgt(two.login(lifetime_s=600, renew_s=3600), "B.TEST")
    assert (servers(cred), cred.tickets, cred.addressless) == ([LOCAL, CROSS], 2, True)
    assert ends(cred)[1] == ends(cred)[0], "as long as the TGT"
    assert krbcred.tickets(cred)[1].flags & krbcred.FORWARDABLE, hex(krbcred.tickets(cred)[1].flags)
    assert two.accepted(cred) == "alice@A.TEST"


def test_without_the_cross_realm_ticket_realm_a_is_needed(two: Two) -> None:
    """So that the test above shows the ticket, and not libkrb5 getting one of its own."""
    refused(lambda: two.accepted(two.login()), UnavailableError, "kdc-unreachable")


def test_getting_it_again_replaces_it(two: Two) -> None:
    first = creds.cross_realm_tgt(two.login(), "B.TEST")
    second = creds.cross_realm_tgt(first, "B.TEST")
    assert servers(second) == [LOCAL, CROSS]
    assert krbcred.tickets(second)[0].ticket_der == krbcred.tickets(first)[0].ticket_der
    assert krbcred.tickets(second)[1].ticket_der != krbcred.tickets(first)[1].ticket_der


def test_mits_programs_use_both_from_a_file(two: Two, tmp_path: Path) -> None:
    path = tmp_path / "cc"
    path.write_bytes(ccache.file_v4(creds.cross_realm_tgt(two.login(), "B.TEST")))
    two.a.stop()
    try:
        done = subprocess.run(["kvno", "-c", str(path), SERVICE], capture_output=True, text=True)
    finally:
        two.a.restart()
    assert done.stdout == f"{SERVICE}: kvno = 1\n", done
    assert servers(ccache.read_tgt(f"FILE:{path}")) == [LOCAL, CROSS]


def test_realms_that_cannot_be_crossed_to(two: Two) -> None:
    cred = two.login()
    refused(lambda: creds.cross_realm_tgt(cred, "NOWHERE.TEST"), AccessError, "unknown-service")
    for realm in ("A.TEST", "", "B\0", "B\n", "B" * 300):
        refused(lambda realm=realm: creds.cross_realm_tgt(cred, realm), RequestError, "bad-realm")
    with no_trust(two.a):
        # what MIT answers for a principal that gets no tickets
        refused(lambda: creds.cross_realm_tgt(cred, "B.TEST"), AccessError, "unknown-service")
    two.a.stop()
    try:
        refused(lambda: creds.cross_realm_tgt(cred, "B.TEST"), UnavailableError, "kdc-unreachable")
    finally:
        two.a.restart()


def test_renewal_renews_the_cross_realm_ticket(two: Two) -> None:
    """Both tickets end later than before, and the new one works."""
    first = creds.cross_realm_tgt(two.login(lifetime_s=60, renew_s=1800), "B.TEST")
    time.sleep(1.1)
    second = renewal.renew(first)
    assert servers(second) == [LOCAL, CROSS]
    assert min(ends(second)) > max(ends(first)), (ends(first), ends(second))
    assert second.times.endtime > first.times.endtime
    assert krbcred.tickets(second)[1].ticket_der != krbcred.tickets(first)[1].ticket_der
    assert two.accepted(second) == "alice@A.TEST"


def test_a_cross_realm_ticket_that_lasts_as_long_is_kept(two: Two) -> None:
    """Without asking the KDC for another: a TGT of a minute beside a cross-realm ticket of ten hours."""
    long = krbcred.tickets(creds.cross_realm_tgt(two.login(), "B.TEST"))[1]
    (tgt,) = krbcred.tickets(two.login(lifetime_s=60, renew_s=1800))
    before = two.a.log.count(CROSS)
    second = renewal.renew(krbcred.build([tgt, long]))
    assert krbcred.tickets(second)[1].ticket_der == long.ticket_der
    assert two.a.log.count(CROSS) == before, "the KDC was asked"


def test_a_cross_realm_ticket_that_has_ended_comes_back(two: Two) -> None:
    with short_trust(two.a, "2s"):
        first = creds.cross_realm_tgt(two.login(lifetime_s=60, renew_s=1800), "B.TEST")
        assert ends(first)[1] <= time.time() + 2 < ends(first)[0], ends(first)
        time.sleep(2.1)
        second = renewal.renew(first)
        assert servers(second) == [LOCAL, CROSS] and second.times.endtime > max(ends(first)[1], time.time()), ends(
            second
        )
    assert min(ends(renewal.renew(second))) > time.time() + 50, "and the long ones of a KDC that was set right"


def test_a_kdc_that_gives_no_cross_realm_ticket_any_more(two: Two) -> None:
    """The TGT is renewed all the same; the old ticket stays while it is valid."""
    with short_trust(two.a, "4s"):
        first = creds.cross_realm_tgt(two.login(lifetime_s=60, renew_s=1800), "B.TEST")
    time.sleep(1.1)
    with no_trust(two.a):
        second = renewal.renew(first)
        assert krbcred.tickets(second)[1].ticket_der == krbcred.tickets(first)[1].ticket_der
        assert ends(second)[0] > ends(first)[0]
        time.sleep(max(0.0, ends(first)[1] - time.time()) + 0.1)
        assert servers(renewal.renew(second)) == [LOCAL]


def bound(two: Two, folder: Path, *addresses: bytes) -> KrbCred:
    """alice's TGT, bound to these addresses."""
    Mit().kinit_bound("alice", PASSWORD, list(addresses), f"FILE:{folder}/bound")
    return ccache.read_tgt(f"FILE:{folder}/bound")


def test_addresses_are_taken_off(two: Two, tmp_path: Path) -> None:
    """auks-protocol section 12: a forwarded, addressless TGT for one that is bound to this host."""
    first = bound(two, tmp_path, HERE, ELSEWHERE)
    assert not first.addressless and krbcred.tickets(first)[0].addresses == ((2, HERE), (2, ELSEWHERE))
    second = creds.addressless(first)
    (tgt,) = krbcred.tickets(second)
    assert (second.client, tgt.server, tgt.addresses, second.addressless) == ("alice@A.TEST", LOCAL, (), True)
    assert tgt.flags & 0x20000000 and tgt.flags & krbcred.FORWARDABLE, f"FORWARDED and FORWARDABLE: {tgt.flags:#x}"
    assert second.times.endtime == first.times.endtime
    # The KDC has left them out of the ticket too: a service sees no address to compare with.
    with auth.Acceptor(two.keytab, None, local=HERE, remote=b"\x0a\0\0\x63") as acceptor:
        initiator = auth.Initiator(second, "HTTP/head.test", local=b"\x0a\0\0\x63", remote=HERE)
        initiator.ap_rep(acceptor.ap_req(initiator.ap_req()))
    with auth.Acceptor(two.keytab, None, local=HERE, remote=b"\x0a\0\0\x63") as acceptor:
        initiator = auth.Initiator(first, "HTTP/head.test", local=b"\x0a\0\0\x63", remote=HERE)
        refused(lambda: acceptor.ap_req(initiator.ap_req()), CredentialError, "wrong-address")


def test_addresses_are_taken_off_both_tickets(two: Two, tmp_path: Path) -> None:
    crossed = creds.cross_realm_tgt(bound(two, tmp_path, HERE), "B.TEST")
    assert [one.addresses for one in krbcred.tickets(crossed)] == [((2, HERE),)] * 2
    free = creds.addressless(crossed)
    assert servers(free) == [LOCAL, CROSS]
    assert [one.addresses for one in krbcred.tickets(free)] == [(), ()]
    assert two.accepted(free) == "alice@A.TEST"


def test_nothing_to_take_off_or_no_way_to(two: Two, tmp_path: Path) -> None:
    cred = two.login()
    assert creds.addressless(cred) is cred
    first = bound(two, tmp_path, HERE)
    (tgt,) = krbcred.tickets(first)
    plain = krbcred.build([replace(tgt, flags=tgt.flags & ~krbcred.FORWARDABLE)])
    refused(lambda: creds.addressless(plain), CredentialError, "not-forwardable")
    refused(lambda: creds.addressless(bound(two, tmp_path, ELSEWHERE)), CredentialError, "wrong-address")
    two.a.stop()
    try:
        refused(lambda: creds.addressless(first), UnavailableError, "kdc-unreachable")
    finally:
        two.a.restart()


async def test_the_cache_renews_cross_realm_tickets_too(tmp_path: Path) -> None:
    """A real auksd: tickets of 4 s, still both there and both of use in the other realm after 7 s."""
    with Realm(tmp_path / "b", "B.TEST") as b:
        trust, service = "krbtgt/B.TEST@REALM.TEST", "host/x.test@B.TEST"
        b.add_user(trust, "shared secret", requires_preauth=False)
        b.add_service("host/x.test")
        keytab = str(b.keytab(tmp_path / "b.keytab", "host/x.test"))
        with (
            auksd_box.make_realm(tmp_path, others={"B.TEST": f"127.0.0.1:{b.port}"}) as a,
            auksd_box.Auksd(tmp_path / "auksd", tmp_path, renew="margin_s = 1.0") as daemon,
        ):
            a.add_user(trust, "shared secret", requires_preauth=False)
            node = creds.keytab_tgt("host/node.test", str(tmp_path / "node.keytab"))
            first = creds.cross_realm_tgt(auksd_box.login(tmp_path, "games", lifetime_s=4, renew_s=60), "B.TEST")
            client, uid = daemon.client(), auksd_box.uid_of("games")
            await client.add(first)
            await asyncio.sleep(7)
            found = await client.get(uid, auth=node)
            assert found is not None, daemon.log[-3000:]
            assert servers(found) == ["krbtgt/REALM.TEST@REALM.TEST", trust], daemon.log[-3000:]
            assert min(ends(found)) > time.time() > max(ends(first)), (ends(first), ends(found))
            a.stop()
            initiator = auth.Initiator(found, service, local=None, remote=None)
            with b.activated(), auth.Acceptor(keytab, service, local=None, remote=None) as acceptor:
                initiator.ap_rep(acceptor.ap_req(initiator.ap_req()))
            assert acceptor.client == "games@REALM.TEST"
            initiator.close()
