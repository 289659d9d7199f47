"""The AP exchange and KRB-PRIV between our own two ends: what is on the wire, what is refused, what is freed."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import pytest
from cryptography.hazmat import asn1 as der_of
from krb5_box import PASSWORD, Kdc, refused
from mit import Mit

import der_parts as der
from hipercow_slurm.errors import (
    AccessError,
    ConfigError,
    CredentialError,
    Error,
    InternalError,
    ProtocolError,
)
from hipercow_slurm.krb5 import asn1, auth, calls, ccache, keytab, krbcred, krberror, renewal

pytestmark = pytest.mark.kdc
SERVICE = "auks/head.test@REALM.TEST"
CLIENT, SERVER = b"\x0a\0\0\x01", b"\x0a\0\0\x02"
Pair = tuple[auth.Initiator, auth.Acceptor]


@pytest.fixture
def ticket(kdc: Kdc) -> auth.ServiceTicket:
    return auth.service_ticket(kdc.login(), "auks/head.test")


def new_pair(kdc: Kdc, ticket: auth.ServiceTicket, **options: bool) -> Pair:
    return (
        auth.Initiator(None, SERVICE, local=CLIENT, remote=SERVER, service_ticket=ticket, **options),
        auth.Acceptor(kdc.auks, SERVICE, local=SERVER, remote=CLIENT),
    )


@pytest.fixture
def pair(kdc: Kdc, ticket: auth.ServiceTicket) -> Iterator[Pair]:
    """Both ends, not yet authenticated."""
    initiator, acceptor = new_pair(kdc, ticket)
    with initiator, acceptor:
        yield initiator, acceptor


@pytest.fixture
def joined(pair: Pair) -> Pair:
    """Both ends, authenticated."""
    initiator, acceptor = pair
    initiator.ap_rep(acceptor.ap_req(initiator.ap_req()))
    return pair


@der_of.sequence
class ApReq:
    """RFC 4120 section 5.5.1, inside of [APPLICATION 14]."""

    pvno: Annotated[int, der_of.Explicit(0)]
    msg_type: Annotated[int, der_of.Explicit(1)]
    ap_options: Annotated[der_of.BitString, der_of.Explicit(2)]
    ticket: Annotated[der_of.TLV, der_of.Explicit(3)]
    authenticator: Annotated[asn1.EncryptedData, der_of.Explicit(4)]

    def check(self) -> None:
        self.authenticator.check()


@der_of.sequence
class KrbPriv:
    """RFC 4120 section 5.7.1, inside of [APPLICATION 21]."""

    pvno: Annotated[int, der_of.Explicit(0)]
    msg_type: Annotated[int, der_of.Explicit(1)]
    enc_part: Annotated[asn1.EncryptedData, der_of.Explicit(3)]

    def check(self) -> None:
        self.enc_part.check()


def test_ap_req_on_the_wire(pair: Pair) -> None:
    """auks-protocol section 2: ap-options 20 00 00 00, the service's ticket, no more."""
    message = asn1.load(ApReq, pair[0].ap_req(), "AP-REQ", application=14)
    assert (message.pvno, message.msg_type, asn1.flags_of(message.ap_options)) == (5, 14, 0x20000000)
    ticket = asn1.load(asn1.Ticket, asn1.encoded(message.ticket), "Ticket", application=1)
    assert str(asn1.name_of(ticket.sname, ticket.realm, "Ticket")) == SERVICE
    assert message.authenticator.etype == 18


def test_krb_priv_on_the_wire(joined: Pair) -> None:
    """auks-protocol section 3: etype of the subkey, no kvno, and no byte for a timestamp: a ping is 109 bytes."""
    for end in joined:
        sealed = end.seal(b"\0\0\0\0")
        encrypted = asn1.load(KrbPriv, sealed, "KRB-PRIV", application=21).enc_part
        assert (encrypted.etype, encrypted.kvno) == (18, None)
        # a sequence number below 2^23 takes a byte less
        assert len(sealed) in (108, 109), sealed.hex()


def test_both_directions_in_order(joined: Pair) -> None:
    initiator, acceptor = joined
    assert acceptor.client == "alice@REALM.TEST"
    room = calls.OUT  # results around that size go elsewhere
    for message in (b"", b"\0", b"x" * 33000, bytes(range(256)), *(bytes(room - n) for n in (600, 100, 0, -100_000))):
        assert acceptor.unseal(initiator.seal(message)) == message
        assert initiator.unseal(acceptor.seal(message)) == message


def test_repeated_reordered_and_reflected_messages_are_refused(kdc: Kdc, ticket: auth.ServiceTicket) -> None:
    for trick in ("repeat", "skip", "reflect", "nat-reflect"):
        initiator, acceptor = new_pair(kdc, ticket, nat=trick == "nat-reflect")
        initiator.ap_rep(acceptor.ap_req(initiator.ap_req()))
        first, second = initiator.seal(b"first"), initiator.seal(b"second")
        if trick != "skip":
            assert acceptor.unseal(first) == b"first"
        bad = {"repeat": first, "skip": second}.get(trick, acceptor.seal(b"reply"))
        refused(acceptor.unseal, ProtocolError, "seal-broken", bad)
        initiator.close()
        acceptor.close()


def test_replayed_session_dies_at_its_first_message(kdc: Kdc, ticket: auth.ServiceTicket) -> None:
    """No replay cache: the acceptor's new subkey is what a recording cannot know. Every server does the same."""
    initiator, acceptor = new_pair(kdc, ticket)
    ap_req = initiator.ap_req()
    initiator.ap_rep(acceptor.ap_req(ap_req))
    message = initiator.seal(b"GET 5001")
    assert acceptor.unseal(message) == b"GET 5001"
    for nat in (False, True):
        again = auth.Acceptor(kdc.auks, SERVICE, local=SERVER, remote=CLIENT)
        again.ap_req(ap_req)
        if nat:
            again._use_dummy()
        refused(again.unseal, ProtocolError, "seal-broken", message)
        again.close()
    initiator.close()
    acceptor.close()


def test_nat_is_found_out_once(kdc: Kdc, ticket: auth.ServiceTicket) -> None:
    """From the first message only: a peer that has shown an address cannot take it off later."""
    initiator, acceptor = new_pair(kdc, ticket, nat=True)
    initiator.ap_rep(acceptor.ap_req(initiator.ap_req()))
    assert acceptor.unseal(initiator.seal(b"one")) == b"one"
    assert initiator.unseal(acceptor.seal(b"two")) == b"two"
    assert acceptor.unseal(initiator.seal(b"three")) == b"three"
    plain, server = new_pair(kdc, ticket)
    plain.ap_rep(server.ap_req(plain.ap_req()))
    assert server.unseal(plain.seal(b"one")) == b"one"
    plain._use_dummy()
    refused(lambda: server.unseal(plain.seal(b"two")), ProtocolError, "seal-broken")
    for end in (initiator, acceptor, plain, server):
        end.close()


def test_wrong_addresses_are_refused(kdc: Kdc, ticket: auth.ServiceTicket) -> None:
    initiator = auth.Initiator(None, SERVICE, local=b"\x0a\0\0\x09", remote=SERVER, service_ticket=ticket)
    acceptor = auth.Acceptor(kdc.auks, SERVICE, local=SERVER, remote=CLIENT)
    initiator.ap_rep(acceptor.ap_req(initiator.ap_req()))
    refused(lambda: acceptor.unseal(initiator.seal(b"x")), ProtocolError, "seal-broken")
    initiator.close()
    acceptor.close()


def test_without_addresses(kdc: Kdc, ticket: auth.ServiceTicket) -> None:
    """A unix socket has none; both ends agree without being told."""
    with (
        auth.Initiator(None, SERVICE, local=None, remote=None, service_ticket=ticket) as initiator,
        auth.Acceptor(kdc.auks, None, local=None, remote=None) as acceptor,
    ):
        initiator.ap_rep(acceptor.ap_req(initiator.ap_req()))
        assert initiator.unseal(acceptor.seal(b"token")) == b"token"
        assert acceptor.unseal(initiator.seal(b"thanks")) == b"thanks"


def test_any_flipped_bit_is_refused(kdc: Kdc, ticket: auth.ServiceTicket) -> None:
    """In the AP-REQ, the AP-REP and the KRB-PRIV, one at a time; only our errors come out."""
    choose = random.Random(7)
    kinds: set[str] = set()
    for _ in range(150):
        for message in ("ap-req", "ap-rep", "priv"):
            initiator, acceptor = new_pair(kdc, ticket)
            with initiator, acceptor:
                request = initiator.ap_req()
                if message == "ap-req":
                    work = lambda: acceptor.ap_req(flip(request, choose))  # noqa: B023, E731
                else:
                    reply = acceptor.ap_req(request)
                    work = lambda: initiator.ap_rep(flip(reply, choose))  # noqa: B023, E731
                if message == "priv":
                    initiator.ap_rep(reply)
                    sealed = initiator.seal(b"message")
                    work = lambda: acceptor.unseal(flip(sealed, choose))  # noqa: B023, E731
                try:
                    work()
                except Error as error:
                    kinds.add(f"{message} {type(error).__name__} {error.code}")
                else:
                    # a few bits mean nothing: reserved ap-options, and the ticket's kvno
                    assert message == "ap-req", f"a changed {message} was taken"
    assert {"ap-req ProtocolError wire-malformed", "ap-rep ProtocolError auth-failed"} <= kinds, kinds
    assert not any("InternalError" in kind or "ConfigError" in kind for kind in kinds), kinds


def flip(octets: bytes, choose: random.Random) -> bytes:
    at = choose.randrange(len(octets))
    return octets[:at] + bytes([octets[at] ^ 1 << choose.randrange(8)]) + octets[at + 1 :]


def test_shape_is_checked_before_libkrb5(kdc: Kdc, ticket: auth.ServiceTicket, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoKrb5:
        """Any call is a failure of the test."""

        def __getattr__(self, name: str) -> object:
            raise AssertionError(f"{name} was called with unchecked bytes")

    initiator, acceptor = new_pair(kdc, ticket)
    initiator.ap_rep(acceptor.ap_req(initiator.ap_req()))
    sealed = initiator.seal(b"x")
    body = der.integer(5), der.integer(14), b"\4\x83\2\0\0" + bytes(0x20000)
    huge = der.value(der.application(14), der.sequence(*body))
    bad = [
        *(b"", b"\x6e", b"\x6e\x80", b"\x6e\x84\xff\xff\xff\xff", b"\x75\x03\x30\x01\x00"),
        *(sealed[:-1], sealed + b"\0", b"\x6e" + sealed[1:], b"\x6f" + sealed[1:], b"\x75\x81" + sealed[1:]),
        *(b"\x6e\x82\x01\x00" + b"\0" * 256, huge),
    ]
    waiting = [new_pair(kdc, ticket) for _ in bad]
    authenticated = [new_pair(kdc, ticket) for _ in bad]
    for left, right in authenticated:
        left.ap_rep(right.ap_req(left.ap_req()))
    for left, _ in waiting:
        left.ap_req()
    with monkeypatch.context() as patch:
        patch.setattr(auth, "lib", NoKrb5())
        patch.setattr(auth, "calls", NoKrb5())
        for junk, (left, right), (_, joined) in zip(bad, waiting, authenticated, strict=True):
            error = refused(right.ap_req, ProtocolError, "wire-malformed", junk)
            refused(left.ap_rep, ProtocolError, "wire-malformed", junk)
            refused(joined.unseal, ProtocolError, "wire-malformed", junk)
    assert "at most 131072" in str(error), error


def test_tickets_for_others_and_keytab_problems(kdc: Kdc, tmp_path: Path) -> None:
    cred = kdc.login()
    http, auks = (
        auth.Initiator(cred, name, local=None, remote=None).ap_req() for name in ("HTTP/head.test", "auks/head.test")
    )

    def accept(keytab: str, service: str | None, request: bytes) -> Callable[[], object]:
        return lambda: auth.Acceptor(keytab, service, local=None, remote=None).ap_req(request)

    refused(accept(kdc.auks, SERVICE, http), CredentialError, "not-for-us")
    refused(accept(kdc.auks, None, http), CredentialError, "not-for-us")
    both = str(kdc.realm.keytab(tmp_path / "both", "HTTP/head.test", "auks/head.test"))
    refused(accept(both, SERVICE, http), CredentialError, "not-for-us")
    accept(both, None, http)()
    refused(accept(str(tmp_path / "none"), SERVICE, auks), ConfigError, "keytab")
    (tmp_path / "junk").write_bytes(b"junk")
    refused(accept(str(tmp_path / "junk"), SERVICE, auks), ConfigError, "keytab")
    kdc.realm.add_service("test/rotating")
    old = auth.service_ticket(cred, "test/rotating")
    kdc.realm.kadmin("cpw -randkey test/rotating")
    new_key = str(kdc.realm.keytab(tmp_path / "rotated", "test/rotating"))
    request = auth.Initiator(None, "test/rotating", local=None, remote=None, service_ticket=old).ap_req()
    refused(accept(new_key, "test/rotating@REALM.TEST", request), CredentialError, "not-for-us")


@pytest.mark.parametrize("settled_s", [keytab.SETTLED_S, -1.0], ids=["just-written", "in-memory"])
def test_rotated_keytab_is_picked_up(
    kdc: Kdc, tmp_path: Path, settled_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys held in memory are those of the file, also after it was replaced; without the file there are none."""
    monkeypatch.setattr(keytab, "SETTLED_S", settled_s)
    monkeypatch.setattr(keytab, "LOOK_S", 0.0)
    service = f"test/rotated{settled_s > 0:d}"
    kdc.realm.add_service(service)
    path = kdc.realm.keytab(tmp_path / "kt", service)
    cred = kdc.login()
    for _ in range(2):
        with (
            auth.Initiator(cred, service, local=None, remote=None) as initiator,
            auth.Acceptor(str(path), service, local=None, remote=None) as acceptor,
        ):
            initiator.ap_rep(acceptor.ap_req(initiator.ap_req()))
        kdc.realm.kadmin(f"cpw -randkey {service}")
        kdc.realm.keytab(path, service)
    path.unlink()
    request = auth.Initiator(cred, service, local=None, remote=None).ap_req()
    gone = auth.Acceptor(str(path), service, local=None, remote=None)
    refused(lambda: gone.ap_req(request), ConfigError, "keytab")


def test_keytab_in_memory_is_not_looked_at_for_each_ticket(
    kdc: Kdc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two looks its keys are good without the file; a ticket under a key that just came is a reason to look."""
    monkeypatch.setattr(keytab, "SETTLED_S", -1.0)
    monkeypatch.setattr(keytab, "LOOK_S", 3600.0)
    service = "test/seldom"
    kdc.realm.add_service(service)
    path, cred = kdc.realm.keytab(tmp_path / "kt", service), kdc.login()

    def accepted() -> None:
        with (
            auth.Initiator(cred, service, local=None, remote=None) as initiator,
            auth.Acceptor(str(path), service, local=None, remote=None) as acceptor,
        ):
            initiator.ap_rep(acceptor.ap_req(initiator.ap_req()))

    accepted()
    away = path.rename(tmp_path / "away")
    accepted()
    away.rename(path)
    kdc.realm.kadmin(f"cpw -randkey {service}")
    kdc.realm.keytab(path, service)
    accepted()
    path.unlink()
    request = auth.Initiator(cred, "auks/head.test", local=None, remote=None).ap_req()
    gone = auth.Acceptor(str(path), service, local=None, remote=None)
    refused(lambda: gone.ap_req(request), ConfigError, "keytab")


def test_client_that_waives_mutual_authentication(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    initiator, acceptor = pair
    request = initiator.ap_req()
    waived = request.replace(b"\x03\x05\0\x20\0\0\0", b"\x03\x05\0\0\0\0\0")
    assert waived != request
    refused(lambda: acceptor.ap_req(waived), ProtocolError, "auth-failed")


def test_impostor_without_the_key(kdc: Kdc, ticket: auth.ServiceTicket) -> None:
    """An AP-REP made under another session's key convinces nobody."""
    one, acceptor = new_pair(kdc, ticket)
    two, _ = new_pair(kdc, auth.service_ticket(kdc.login(), "auks/head.test"))
    two.ap_req()
    reply = acceptor.ap_req(one.ap_req())
    refused(lambda: two.ap_rep(reply), ProtocolError, "auth-failed")


def test_address_bound_ticket_must_come_from_there(kdc: Kdc, tmp_path: Path) -> None:
    """Compared with the connection's real address, in NAT mode too."""
    path, here = f"FILE:{tmp_path}/cc", b"\x7f\0\0\x01"
    Mit().kinit_bound("alice", PASSWORD, [here], path)
    bound = auth.service_ticket(ccache.read_tgt(path), "auks/head.test")
    assert bound.ticket.addresses == ((2, here),), "the KDC dropped the addresses"
    for source, taken in ((here, True), (CLIENT, False)):
        for nat in (False, True):
            initiator = auth.Initiator(None, SERVICE, local=source, remote=SERVER, service_ticket=bound, nat=nat)
            with initiator, auth.Acceptor(kdc.auks, SERVICE, local=SERVER, remote=source) as acceptor:
                request = initiator.ap_req()
                if not taken:
                    refused(acceptor.ap_req, CredentialError, "wrong-address", request)
                    continue
                initiator.ap_rep(acceptor.ap_req(request))
                assert acceptor.unseal(initiator.seal(b"x")) == b"x"


def test_krb_error_both_ways(kdc: Kdc) -> None:
    with auth.Acceptor(kdc.auks, SERVICE, local=None, remote=None) as acceptor:
        request = auth.Initiator(kdc.login(), "HTTP/head.test", local=None, remote=None).ap_req()
        error = refused(lambda: acceptor.ap_req(request), CredentialError, "not-for-us")
        told = krberror.meaning(acceptor.krb_error(error), SERVICE)
        assert (type(told), told.code) == (CredentialError, "not-for-us"), told
    with auth.Acceptor(kdc.auks, None, local=None, remote=None) as acceptor:
        error = refused(lambda: acceptor.ap_req(b"junk"), ProtocolError, "wire-malformed")
        told = krberror.meaning(acceptor.krb_error(error), SERVICE)
        assert (type(told), told.code) == (ProtocolError, "auth-failed"), told
    refused(lambda: krberror.meaning(request, SERVICE), ProtocolError, "wire-malformed")


def test_service_ticket_needs_a_known_service(kdc: Kdc) -> None:
    refused(lambda: auth.service_ticket(kdc.login(), "auks/nowhere"), AccessError, "unknown-service")
    with pytest.raises(ValueError, match="TGT or a service ticket"):
        auth.Initiator(None, SERVICE, local=None, remote=None)


def test_threads_and_objects_may_mix(kdc: Kdc, ticket: auth.ServiceTicket) -> None:
    """Objects made in one thread work in another, and several threads work at once."""
    pairs = [new_pair(kdc, ticket) for _ in range(8)]
    failures: list[BaseException] = []

    def work(mine: list[Pair]) -> None:
        try:
            for initiator, acceptor in mine:
                initiator.ap_rep(acceptor.ap_req(initiator.ap_req()))
                for number in range(20):
                    assert acceptor.unseal(initiator.seal(b"%d" % number)) == b"%d" % number
            renewal.renew(kdc.login())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(pairs[number::4],)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures, failures
    for initiator, acceptor in pairs:
        assert initiator.unseal(acceptor.seal(b"from the main thread")) == b"from the main thread"
        initiator.close()
        acceptor.close()
        acceptor.close()


def test_calls_out_of_order_raise_and_do_not_crash(kdc: Kdc, ticket: auth.ServiceTicket) -> None:
    """libkrb5 itself reads through a NULL key."""
    initiator, acceptor = new_pair(kdc, ticket)
    donor, server = new_pair(kdc, ticket)
    request = donor.ap_req()
    reply = server.ap_req(request)
    donor.ap_rep(reply)
    sealed = donor.seal(b"x")
    calls: dict[str, Callable[[auth.Initiator | auth.Acceptor], object]] = {
        "seal": lambda end: end.seal(b"x"),
        "unseal": lambda end: end.unseal(sealed),
        "ap_rep": lambda end: end.ap_rep(reply),  # type: ignore[union-attr]
    }
    for call in (calls["seal"], calls["unseal"], calls["ap_rep"]):
        refused(call, InternalError, "bug", initiator)
    for call in (calls["seal"], calls["unseal"]):
        refused(call, InternalError, "bug", acceptor)
    initiator.ap_rep(acceptor.ap_req(initiator.ap_req()))  # the refused calls have spoilt nothing
    refused(lambda: initiator.ap_req(), InternalError, "bug")
    refused(lambda: acceptor.ap_req(request), InternalError, "bug")
    refused(lambda: acceptor.unseal(sealed), ProtocolError, "seal-broken")
    good = initiator.seal(b"in time, but after an error")
    refused(lambda: acceptor.unseal(good), InternalError, "bug")
    for end in (initiator, acceptor, donor, server):
        end.close()
        end.close()
        for call in (calls["seal"], calls["unseal"]):
            refused(call, InternalError, "bug", end)


def resident_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def test_nothing_leaks(kdc: Kdc, ticket: auth.ServiceTicket) -> None:
    """Also on the failing paths, and when close() was forgotten."""
    wrong = auth.Initiator(kdc.login(), "HTTP/head.test", local=None, remote=None).ap_req()
    cred = kdc.login()

    def round() -> None:
        initiator, acceptor = new_pair(kdc, ticket)
        initiator.ap_rep(acceptor.ap_req(initiator.ap_req()))
        sealed = initiator.seal(b"x" * 20000)
        acceptor.unseal(sealed)
        with pytest.raises(ProtocolError):
            acceptor.unseal(sealed)
        with auth.Acceptor(kdc.auks, None, local=None, remote=None) as other, pytest.raises(CredentialError):
            other.ap_req(wrong)
        krbcred.parse(krbcred.build(krbcred.tickets(cred)).der)

    for _ in range(100):
        round()
    gc.collect()
    before = resident_kib()
    for _ in range(500):
        round()
    gc.collect()
    grown = resident_kib() - before
    assert grown < 2000, f"{grown} KiB more after 500 sessions of 20 KB"
