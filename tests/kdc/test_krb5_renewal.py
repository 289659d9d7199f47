"""Renewal by one call of libkrb5: what comes out is what our strict reader reads, and nothing odd goes in."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from krb5_box import PASSWORD, Kdc, refused
from mit import Mit

import der_parts as der
from hipercow_slurm.errors import AccessError, CredentialError, ProtocolError, UnavailableError
from hipercow_slurm.krb5 import auth, calls, ccache, krbcred, lib, renewal
from hipercow_slurm.krb5.krbcred import RENEWABLE, Ticket
from hipercow_slurm.krb5.principal import Principal
from hipercow_slurm.values import KrbCred

pytestmark = pytest.mark.kdc
TRANSIT_CHECKED = 0x00080000
HERE = b"\x7f\0\0\1"
MIT = Mit()


def changed(cred: KrbCred, **fields: Any) -> KrbCred:
    """The credential with fields of its TGT changed on our side only."""
    (tgt,) = krbcred.tickets(cred)
    return krbcred.build([replace(tgt, **fields)])


def facts(cred: KrbCred) -> tuple[Any, ...]:
    return (cred.client, cred.times, cred.tickets, cred.addressless)


def test_a_renewed_tgt_lasts_longer_and_works(kdc: Kdc) -> None:
    first = kdc.login(lifetime_s=60, renew_s=1800)
    time.sleep(1.1)
    second = renewal.renew(first)
    assert second.times.endtime > first.times.endtime
    assert second.times.renew_till == first.times.renew_till
    third = renewal.renew(second)
    assert auth.service_ticket(third, "auks/head.test").service == "auks/head.test@REALM.TEST"


def kinit(kdc: Kdc, path: Path, *options: str) -> KrbCred:
    kdc.realm.kinit("alice", PASSWORD, f"FILE:{path}", *options)
    return ccache.read_tgt(f"FILE:{path}")


@pytest.mark.parametrize("options", ["-f -p", "-F -P", "-f -A"])
def test_what_it_says_is_what_the_strict_reader_reads(kdc: Kdc, tmp_path: Path, options: str) -> None:
    """The message is libkrb5's and was not read again: so here it is. Flags are carried over."""
    first = kinit(kdc, tmp_path / "cc", *options.split(), "-r", "7d")
    second = renewal.renew(first)
    assert facts(krbcred.parse(second.der)) == facts(second)
    (old,), (new,) = krbcred.tickets(first), krbcred.tickets(second)
    assert hex(new.flags) == hex(old.flags | TRANSIT_CHECKED)
    assert (new.client, new.server, new.keytype, len(new.key)) == (old.client, old.server, old.keytype, len(old.key))
    assert new.authtime == old.authtime and new.key != old.key and new.ticket_der != old.ticket_der
    third = renewal.renew(second)
    assert facts(krbcred.parse(third.der)) == facts(third), "and what comes of that one"


def test_addresses_stay(kdc: Kdc, tmp_path: Path) -> None:
    Mit().kinit_bound("alice", PASSWORD, [HERE], f"FILE:{tmp_path}/bound", renew_s=3600)
    first = ccache.read_tgt(f"FILE:{tmp_path}/bound")
    second = renewal.renew(first)
    assert [one.addresses for one in krbcred.tickets(second)] == [((2, HERE),)] and not second.addressless
    assert facts(krbcred.parse(second.der)) == facts(second)


def test_renewals_that_cannot_be(kdc: Kdc) -> None:
    cred = kdc.login()
    now = int(time.time())
    plain = kdc.login(lifetime_s=60, renew_s=0)
    assert plain.times.renew_till == 0
    refused(lambda: renewal.renew(plain), CredentialError, "not-renewable")
    past = changed(cred, renew_till=now - 1, starttime=now - 100, endtime=now - 50)
    refused(lambda: renewal.renew(past), CredentialError, "renew-exhausted")
    forged = changed(cred, key=b"\1" * 32)
    refused(lambda: renewal.renew(forged), AccessError, "kdc-refused")
    strange = changed(cred, keytype=9999)
    refused(lambda: renewal.renew(strange), AccessError, "kdc-refused")


def test_what_is_not_renewable_is_known_without_the_kdc(kdc: Kdc) -> None:
    cred = kdc.login()
    (tgt,) = krbcred.tickets(cred)
    unmarked, past = changed(cred, flags=tgt.flags & ~RENEWABLE), changed(cred, renew_till=int(time.time()) - 1)
    kdc.realm.stop()
    try:
        refused(lambda: renewal.renew(cred), UnavailableError, "kdc-unreachable")
        refused(lambda: renewal.renew(unmarked), CredentialError, "not-renewable")
        refused(lambda: renewal.renew(past), CredentialError, "renew-exhausted")
    finally:
        kdc.realm.restart()


def test_the_key_does_not_stay_in_the_threads_buffer(kdc: Kdc) -> None:
    (tgt,) = krbcred.tickets(renewal.renew(kdc.login()))
    assert tgt.key not in bytes(lib.ffi.buffer(calls.own.scratch.out)), "the key is still there"


GOOD = {"authtime": 1000, "starttime": 0, "endtime": 2000, "renew_till": 3000, "keytype": 18, "key": 32, "bound": 0}


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        ({"key": 31}, "length"),
        ({"keytype": 0}, "type 0"),
        ({"endtime": 999}, "before"),
        ({"authtime": 0}, "without times"),
        ({"size": krbcred.MAX_CRED + 1}, "at most"),
        ({"size": calls.OUT + 1}, "at most"),
    ],
)
def test_what_the_strict_reader_would_refuse_is_refused(
    kdc: Kdc, monkeypatch: pytest.MonkeyPatch, odd: dict[str, int], why: str
) -> None:
    """No KDC gives that; libkrb5 would pass it on. The same without it is taken."""

    def give(wanted: dict[str, int]) -> KrbCred:
        def renew(
            _context: Any, _line: Any, _data: bytes, _length: int, _out: Any, _size: int, made: Any, told: Any
        ) -> int:
            made[0] = wanted.get("size", 3)
            told[0 : calls.TOLD] = [wanted[name] for name in GOOD]
            return 0

        monkeypatch.setattr(calls, "renew", renew)
        return renewal.renew(cred)

    cred = kdc.login()
    taken = give(GOOD)
    assert (taken.client, taken.times.starttime, taken.addressless, len(taken.der)) == (cred.client, 1000, True, 3)
    with pytest.raises(ProtocolError, match=why):
        give({**GOOD, **odd})


def as_we_read(cred: KrbCred) -> list[tuple[Any, ...]]:
    return [(one.client, one.server, one.key, one.endtime) for one in krbcred.tickets(cred)]


def test_krb5_rd_cred_reads_whatever_we_take(kdc: Kdc) -> None:
    """It crashes on well-formed messages that we refuse. Each bit of a real one turned: what we still take, it reads
    as we do."""
    good, taken = kdc.login().der, 0
    for place in range(len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[place] ^= 1 << bit
            try:
                cred = krbcred.parse(bytes(bad))
            except ProtocolError:
                continue
            taken += 1
            assert MIT.rd_cred(cred.der) == as_we_read(cred), (place, bit)
    assert taken > 1000, f"most of a ticket is encrypted, and its bits are anybody's: {taken}"


TGS = Principal.parse("krbtgt/REALM.TEST@REALM.TEST")
SEALED = der.sequence(der.integer(18), der.integer(1), der.octets(b"cipher"))
TICKET_DER = der.value(
    der.application(1), der.sequence(der.integer(5), der.text(TGS.realm), der.principal(TGS), SEALED)
)
NAMES = st.text(alphabet="ab/@\\ é", min_size=1, max_size=5)
SECONDS = st.integers(1, 2**32 - 1)
ADDRESSES = st.lists(st.tuples(st.sampled_from([2, 24]), st.binary(min_size=1, max_size=16)), max_size=3)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), components=st.lists(NAMES, min_size=1, max_size=3), flags=st.integers(0, 2**32 - 1))
def test_krb5_rd_cred_reads_whatever_we_build(data: st.DataObject, components: list[str], flags: int) -> None:
    times = sorted(data.draw(st.tuples(SECONDS, SECONDS)))
    client = str(Principal.of(components, "REALM.TEST"))
    keytype = data.draw(st.sampled_from(sorted(krbcred.KEY_LENGTH)))
    key = b"k" * krbcred.KEY_LENGTH[keytype]
    begin, end = times
    renew_till = data.draw(st.just(0) | SECONDS)
    addresses = tuple(data.draw(ADDRESSES))
    ticket = Ticket(client, str(TGS), keytype, key, flags, begin, begin, end, renew_till, TICKET_DER, addresses)
    cred = krbcred.build([ticket] * data.draw(st.integers(1, 3)))
    assert MIT.rd_cred(cred.der) == as_we_read(cred)
