"""The line to a KDC that stays open: whatever happens to it, a ticket is renewed as if there were none."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from kdc_relay import Relay
from krb5_box import Kdc, refused

from hipercow_slurm.errors import AccessError, CredentialError, UnavailableError
from hipercow_slurm.krb5 import krbcred, lib, line, renewal
from hipercow_slurm.krb5.krbcred import Ticket
from hipercow_slurm.testing.realm import free_port
from hipercow_slurm.values import KrbCred

pytestmark = [pytest.mark.kdc, pytest.mark.skipif(lib.MODE == "abi", reason="lines are the compiled module's")]

Configure = Callable[..., None]


@pytest.fixture
def cred(kdc: Kdc) -> KrbCred:
    return kdc.login()


@pytest.fixture
def configure(kdc: Kdc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Configure]:
    """Have this process ask these for the realm, from now on: with a krb5.conf of its own."""
    number = 0

    def write(*kdcs: str, options: str = "") -> None:
        nonlocal number
        number += 1
        text = kdc.realm.krb5_conf.read_text()
        named = "".join(f"        kdc = {one}\n" for one in kdcs)
        text = text.replace(f"        kdc = 127.0.0.1:{kdc.realm.port}\n", named)
        text = text.replace("[libdefaults]\n", f"[libdefaults]\n{options}")
        (tmp_path / f"krb5-{number}.conf").write_text(text)
        monkeypatch.setenv("KRB5_CONFIG", str(tmp_path / f"krb5-{number}.conf"))

    yield write


def renewed(cred: KrbCred) -> Ticket:
    """A new one, and that it is one: another key, one that this library reads."""
    (old,) = krbcred.tickets(cred)
    (new,) = krbcred.tickets(renewal.renew(cred, often=True))
    assert new.key != old.key and new.ticket_der != old.ticket_der
    return new


def answered() -> int:
    """How often the line of this thread was of use, since it was opened."""
    return int(lib.kept()["REALM.TEST"].pointer.answered)


def test_one_socket_serves_all(kdc: Kdc, cred: KrbCred, configure: Configure) -> None:
    with Relay(kdc) as relay:
        configure(f"127.0.0.1:{relay.port}")
        for _ in range(5):
            renewed(cred)
        assert len(relay.askers) == 5 and len(set(relay.askers)) == 1, relay.askers
        for _ in range(5):
            renewal.renew(cred)
        assert len(set(relay.askers)) > 2, f"without being asked to, it keeps none: {relay.askers}"


def test_what_comes_twice_is_taken_once(kdc: Kdc, cred: KrbCred, configure: Configure) -> None:
    """The second copy waits in the socket when the next request is sent."""
    with Relay(kdc, lambda _, answer: [answer, answer, answer]) as relay:
        configure(f"127.0.0.1:{relay.port}")
        for _ in range(4):
            renewed(cred)
            time.sleep(0.05)  # the copies arrive
        assert len(relay.askers) == 4 and len(set(relay.askers)) == 1, relay.askers


def stale(kept: list[bytes]) -> Callable[[int, bytes], Sequence[bytes]]:
    """The second request gets the answer to the first, and then its own."""

    def answers(number: int, answer: bytes) -> Sequence[bytes]:
        kept.append(answer)
        return [kept[0], answer] if number == 2 else [answer]

    return answers


@pytest.mark.parametrize(
    ("name", "answers"),
    [
        ("stale", stale([])),
        ("silent", lambda number, answer: [] if number == 2 else [answer]),
        ("garbage", lambda number, answer: [b"\x7e garbage"] if number == 2 else [answer]),
        ("looks like an answer", lambda number, answer: [b"\x6d\x03abc"] if number == 2 else [answer]),
        ("cut off", lambda number, answer: [answer[:-20]] if number == 2 else [answer]),
        ("empty", lambda number, answer: [b""] if number == 2 else [answer]),
        ("too large", lambda number, answer: [answer + b"\0" * 40_000] if number == 2 else [answer]),
    ],
)
def test_an_answer_that_is_none(
    kdc: Kdc, cred: KrbCred, configure: Configure, name: str, answers: Callable[[int, bytes], Sequence[bytes]]
) -> None:
    """libkrb5 asks itself then, from another port, and the line's port is given up: an answer that comes late to it
    meets nobody."""
    with Relay(kdc, answers) as relay:
        configure(f"127.0.0.1:{relay.port}")
        for _ in range(4):
            renewed(cred)
        first, second, third, *_ = relay.askers
        assert first == second != third, (name, relay.askers)
        assert first not in relay.askers[2:], (name, relay.askers)


def test_a_late_answer_meets_nobody(
    kdc: Kdc, cred: KrbCred, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The KDC hangs for longer than the line's patience; its answer comes when the next request is on its way."""
    monkeypatch.setattr(line, "AGAIN_S", 0.0)

    def answers(number: int, answer: bytes) -> Sequence[bytes]:
        if number == 2:
            time.sleep(line.SILENT_S + 0.3)
        return [answer]

    with Relay(kdc, answers) as relay:
        configure(f"127.0.0.1:{relay.port}")
        tickets = {renewed(cred).ticket_der for _ in range(5)}
        assert len(tickets) == 5, "each is another one"
        assert relay.askers[0] == relay.askers[1] not in relay.askers[2:], relay.askers
        assert answered() >= 1, "and a new line is in use"


def test_a_silent_kdc_is_not_waited_for_each_time(kdc: Kdc, cred: KrbCred, configure: Configure) -> None:
    with Relay(kdc, lambda number, answer: [answer] if number > 1 else []) as relay:
        configure(f"127.0.0.1:{relay.port}")
        renewed(cred)
        began = time.monotonic()
        for _ in range(3):
            renewed(cred)
        assert time.monotonic() - began < line.SILENT_S, relay.askers
        assert answered() == 0, "it was silent just now"


def test_a_kdc_that_restarts_on_its_port(kdc: Kdc, cred: KrbCred, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "AGAIN_S", 0.0)
    renewed(cred)
    before = answered()
    kdc.realm.restart()
    renewed(cred)
    assert answered() == before + 1, "the line serves the new one"
    kdc.realm.stop()
    try:
        for _ in range(2):
            refused(lambda: renewal.renew(cred, often=True), UnavailableError, "kdc-unreachable")
    finally:
        kdc.realm.restart()
    for _ in range(2):
        renewed(cred)
    assert answered() >= 1, "and again"


@pytest.mark.parametrize("dead", ["closed port", "silent", "no such host", "a proxy's URL"])
def test_of_two_kdcs_the_first_is_dead(
    kdc: Kdc, cred: KrbCred, configure: Configure, monkeypatch: pytest.MonkeyPatch, dead: str
) -> None:
    monkeypatch.setattr(line, "AGAIN_S", 0.0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent, Relay(kdc) as relay:
        silent.bind(("127.0.0.1", 0))
        first = {
            "closed port": f"127.0.0.1:{free_port()}",
            "silent": f"127.0.0.1:{silent.getsockname()[1]}",
            "no such host": "no-such-host.invalid:88",
            "a proxy's URL": f"https://127.0.0.1:{free_port()}/KdcProxy",
        }[dead]
        configure(first, f"127.0.0.1:{relay.port}")
        for _ in range(4):
            renewed(cred)
        assert answered() >= 2, f"the line has found the other one: {relay.askers}"


def test_a_no_is_the_kdcs_own(kdc: Kdc, cred: KrbCred) -> None:
    """With and without a line: the same error; and the next one is renewed over a new line."""
    (tgt,) = krbcred.tickets(cred)
    forged = krbcred.build([Ticket(**{**{f: getattr(tgt, f) for f in tgt.__slots__}, "key": b"\1" * len(tgt.key)})])
    plain = kdc.login(lifetime_s=60, renew_s=0)
    for often in (False, True):
        refused(lambda often=often: renewal.renew(forged, often=often), AccessError, "kdc-refused")
        refused(lambda often=often: renewal.renew(plain, often=often), CredentialError, "not-renewable")
    renewed(cred)
    assert answered() == 1


@pytest.mark.parametrize(
    ("options", "used"),
    [
        ("    udp_preference_limit = 1\n", False),
        ("    udp_preference_limit = 100000\n", True),
        ("    udp_preference_limit = -1\n", True),
    ],
)
def test_a_site_that_wants_tcp_has_it(kdc: Kdc, cred: KrbCred, configure: Configure, options: str, used: bool) -> None:
    configure(f"127.0.0.1:{kdc.realm.port}", options=options)
    renewed(cred)
    assert bool(answered()) == used, answered()


def test_another_process_has_its_own(
    kdc: Kdc, cred: KrbCred, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a fork both have the socket; only one may ask over it."""
    with Relay(kdc) as relay:
        configure(f"127.0.0.1:{relay.port}")
        renewed(cred)
        monkeypatch.setattr(line.os, "getpid", lambda: -1)
        renewed(cred)
        first, second = relay.askers
        assert first != second, relay.askers


def test_a_new_krb5_conf_is_a_new_line(kdc: Kdc, cred: KrbCred, configure: Configure) -> None:
    with Relay(kdc) as old, Relay(kdc) as new:
        configure(f"127.0.0.1:{old.port}")
        renewed(cred)
        configure(f"127.0.0.1:{new.port}")
        renewed(cred)
        assert (len(old.askers), len(new.askers)) == (1, 1)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1", ("127.0.0.1", 88)),
        ("127.0.0.1:750", ("127.0.0.1", 750)),
        ("[::1]:750", ("::1", 750, 0, 0)),
        ("[::1]", ("::1", 88, 0, 0)),
        ("::1", None),
        ("88", None),
        (":88", None),
        ("", None),
        ("127.0.0.1:http", None),
        ("127.0.0.1:99999", None),
        ("https://127.0.0.1/KdcProxy", None),
        ("/run/kdc.sock", None),
    ],
)
def test_what_a_kdc_line_may_be(text: str, address: tuple[object, ...] | None) -> None:
    assert [one for _, one in line._resolved([text])] == ([address] if address else [])
