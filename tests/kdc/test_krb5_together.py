"""Several renewals by one call into C: each ends as it would alone, and a KDC that hangs keeps nobody."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import pytest
from krb5_box import Kdc

from hipercow_slurm.errors import AccessError, CredentialError, Error, UnavailableError
from hipercow_slurm.krb5 import calls, krbcred, lib, renewal, together
from hipercow_slurm.krb5.krbcred import RENEWABLE
from hipercow_slurm.krb5.together import Finished, Together, able
from hipercow_slurm.values import KrbCred

pytestmark = [pytest.mark.kdc, pytest.mark.skipif(lib.MODE == "abi", reason="the compiled module's")]


@pytest.fixture
def cred(kdc: Kdc) -> KrbCred:
    return kdc.login()


def changed(cred: KrbCred, **fields: Any) -> KrbCred:
    (tgt,) = krbcred.tickets(cred)
    return krbcred.build([replace(tgt, **fields)])


def ran(creds: list[KrbCred]) -> list[KrbCred | Exception]:
    group = Together(creds)
    group.run()
    found = group.finished()
    assert [one.number for one in found] == list(range(len(creds)))
    assert group.finished() == [], "each once"
    assert all(0 < one.seconds < 60 for one in found), found
    return [one.outcome for one in found]


def keys(found: list[KrbCred | Exception]) -> list[bytes]:
    """The session key of each, read by the strict reader, which must read what we were told beside it."""
    read = []
    for one in found:
        assert isinstance(one, KrbCred), one
        again = krbcred.parse(one.der)
        facts = (one.client, one.times, one.tickets, one.addressless)
        assert (again.client, again.times, again.tickets, again.addressless) == facts
        read.append(krbcred.tickets(one)[0].key)
    return read


@pytest.mark.parametrize("count", [1, 2, 16, 40])
def test_each_is_renewed(kdc: Kdc, cred: KrbCred, count: int) -> None:
    found = ran([cred] * count)
    assert len(set(keys(found))) == count, "each has a key of its own"
    assert all(isinstance(one, KrbCred) and one.times.renew_till == cred.times.renew_till for one in found)


def test_the_keys_do_not_stay_in_the_threads_buffer(kdc: Kdc, cred: KrbCred) -> None:
    made = keys(ran([cred] * 5))
    left = bytes(lib.ffi.buffer(calls.own.scratch.out))
    assert [key for key in made if key in left] == []


def test_more_than_the_buffer_holds(kdc: Kdc, cred: KrbCred, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for one or two at a time: C comes back, what is there is taken, and it goes on."""
    monkeypatch.setattr(calls, "OUT", 34 * 1024 + 100)
    assert len(set(keys(ran([cred] * 7)))) == 7


def test_one_that_fails_keeps_no_other(kdc: Kdc, cred: KrbCred) -> None:
    """The same error as alone, word for word, in every place."""
    (tgt,) = krbcred.tickets(cred)
    forged, unmarked = changed(cred, key=b"\1" * 32), changed(cred, flags=tgt.flags & ~RENEWABLE)
    for bad in (forged, unmarked):
        with pytest.raises(Error) as alone:
            renewal.renew(bad)
        for creds in ([bad, cred, cred], [cred, bad, cred], [cred, cred, bad], [bad, bad]):
            found = ran(creds)
            for given, one in zip(creds, found, strict=True):
                if given is cred:
                    assert isinstance(one, KrbCred), one
                else:
                    assert type(one) is type(alone.value), one
                    assert str(one) == str(alone.value)
    assert isinstance(ran([forged])[0], AccessError) and isinstance(ran([unmarked])[0], CredentialError)


def test_what_the_strict_reader_would_refuse_is_that_ones_error(
    kdc: Kdc, cred: KrbCred, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(krbcred, "MAX_CRED", 10)
    assert ["at most 10" in str(one) for one in ran([cred, cred])] == [True, True]


def test_a_kdc_that_is_away(kdc: Kdc, cred: KrbCred) -> None:
    kdc.realm.stop()
    try:
        found = ran([cred, cred])
    finally:
        kdc.realm.restart()
    assert [isinstance(one, UnavailableError) for one in found] == [True, True], found
    assert len(keys(ran([cred] * 3))) == 3


def test_a_configuration_that_is_away(kdc: Kdc, cred: KrbCred, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRB5_CONFIG", "/nonexistent/krb5.conf")
    found = ran([cred, cred, cred])
    assert [one.code if isinstance(one, Error) else one for one in found] == [found[0].code] * 3, found  # type: ignore[union-attr]


def test_a_kdc_that_hangs(kdc: Kdc, cred: KrbCred) -> None:
    """Another thread sees what was done before, and ends the turn: what had not begun never does."""
    group, found = Together([cred] * 200), list[Finished]()
    thread = threading.Thread(target=group.run)
    thread.start()
    try:
        while not found:
            found += group.finished()
        kdc.realm.pause()
        time.sleep(0.2)
        found += group.finished()
        begun = group.end()
        assert thread.is_alive() and 0 < begun < 200, begun
        assert len(found) in (begun - 1, begun), "all but the one that hangs"
    finally:
        kdc.realm.resume()
        thread.join(60)
    assert not thread.is_alive()
    found += group.finished()
    assert [one.number for one in found] == list(range(begun)), "each once, and none that was given back"
    assert len(set(keys([one.outcome for one in found]))) == begun
    assert group.end() in (begun, 200)


def test_a_turn_that_ended_before_it_began(kdc: Kdc, cred: KrbCred) -> None:
    group = Together([cred, cred])
    assert group.end() == 0
    group.run()
    assert group.finished() == []


def test_what_takes_part(cred: KrbCred, monkeypatch: pytest.MonkeyPatch) -> None:
    assert able([cred, cred])
    assert not able([cred, replace(cred, tickets=2)]), "cross-realm tickets are asked for beside it"
    assert not able([replace(cred, times=replace(cred.times, renew_till=0))]), "that is known without the KDC"
    monkeypatch.setattr(together, "MODE", "abi")
    assert not able([cred])
