"""Tickets by password, keytab and renewal, from a real KDC, a lying one, one with a wrong clock and a hung one."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from krb5_box import PASSWORD, Kdc, refused
from mit import Mit

from hipercow_slurm.errors import AccessError, ConfigError, CredentialError, RequestError, UnavailableError
from hipercow_slurm.krb5 import auth, ccache, ccread, creds, krbcred, lib, names, renewal
from hipercow_slurm.krb5.krbcred import FORWARDABLE, INITIAL, RENEWABLE
from hipercow_slurm.testing.realm import Realm

pytestmark = pytest.mark.kdc
PROXIABLE = 0x10000000


def login(kdc: Kdc, principal: str, password: str = PASSWORD, **options: Any) -> Any:
    wanted = {"keytab": kdc.http, "service": "HTTP/head.test", **options}
    return creds.password_tgt(principal, bytearray(password.encode()), **wanted)


def test_password_tgt_is_what_we_asked_for(kdc: Kdc) -> None:
    cred = login(kdc, "alice", lifetime_s=600, renew_s=3600)
    (tgt,) = krbcred.tickets(cred)
    assert (cred.client, tgt.server) == ("alice@REALM.TEST", "krbtgt/REALM.TEST@REALM.TEST")
    assert tgt.flags & (FORWARDABLE | RENEWABLE | INITIAL | PROXIABLE) == FORWARDABLE | RENEWABLE | INITIAL, hex(
        tgt.flags
    )
    assert (tgt.addresses, cred.addressless) == ((), True)
    assert abs(tgt.endtime - tgt.starttime - 600) <= 1, tgt
    assert abs(tgt.renew_till - tgt.starttime - 3600) <= 1, tgt


def test_password_tgt_without_limits_gets_the_kdcs(kdc: Kdc) -> None:
    (tgt,) = krbcred.tickets(login(kdc, "alice", service=None))
    assert abs(tgt.endtime - tgt.starttime - 10 * 3600) <= 1, "max_life of the realm"
    assert abs(tgt.renew_till - tgt.starttime - 7 * 24 * 3600) <= 1, "max_renewable_life of the realm"


def test_wrong_password_and_unknown_user_look_alike(kdc: Kdc) -> None:
    wrong = refused(lambda: login(kdc, "alice", "wrong"), CredentialError, "login-failed")
    unknown = refused(lambda: login(kdc, "nosuch"), CredentialError, "login-failed")
    assert str(wrong) == str(unknown).replace("nosuch", "alice")
    assert (wrong.hint, wrong.status) == (unknown.hint, unknown.status) == (wrong.hint, 401)
    assert {getattr(e.__cause__, "name", None) for e in (wrong, unknown)} == {
        "KRB5KDC_ERR_PREAUTH_FAILED",
        "KRB5KDC_ERR_C_PRINCIPAL_UNKNOWN",
    }, "the log can still tell"


def test_wrong_password_without_preauthentication(kdc: Kdc) -> None:
    """The KDC hands out the reply to anyone; it just cannot be decrypted."""
    kdc.realm.add_user("nopreauth", PASSWORD, requires_preauth=False)
    refused(lambda: login(kdc, "nopreauth", "wrong"), CredentialError, "login-failed")


@pytest.mark.parametrize("password", ["", PASSWORD + "\0", PASSWORD + "\0more", "\0"])
def test_password_that_no_c_string_can_hold(kdc: Kdc, password: str) -> None:
    """libkrb5 stops at the NUL: the right password with anything behind would log in."""
    refused(lambda: login(kdc, "alice", password), CredentialError, "login-failed")


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"pwexpire": "yesterday"}, "password-expired"),
        ({"needchange": True}, "password-must-change"),
        ({"allow_tix": False}, "account-locked"),
        ({"expire": "yesterday"}, "account-expired"),
    ],
)
def test_accounts_that_cannot_log_in(kdc: Kdc, attributes: dict[str, Any], code: str) -> None:
    kdc.realm.add_user(f"user-{code}", PASSWORD, **attributes)
    refused(lambda: login(kdc, f"user-{code}"), CredentialError, code)


def test_account_locked_by_wrong_passwords(kdc: Kdc) -> None:
    kdc.realm.kadmin("addpol -maxfailure 2 -lockoutduration 1h strict")
    kdc.realm.add_user("guessed", PASSWORD, policy="strict")
    for _ in range(2):
        refused(lambda: login(kdc, "guessed", "guess"), CredentialError, "login-failed")
    refused(lambda: login(kdc, "guessed"), CredentialError, "account-locked")


def test_more_than_a_password_is_wanted(kdc: Kdc) -> None:
    kdc.realm.add_user("card", PASSWORD, requires_hwauth=True)
    refused(lambda: login(kdc, "card"), AccessError, "login-unsupported")


def test_unknown_realm_and_bad_names(kdc: Kdc) -> None:
    refused(lambda: login(kdc, "alice@ELSEWHERE"), RequestError, "unknown-realm")
    for bad in ("", "@REALM.TEST", "alice@", "a//b", "a\nb", "alice@REALM.TEST@REALM.TEST", "x" * 300):
        refused(login, RequestError, "bad-principal", kdc, bad)


def test_keytab_problems_are_the_operators(kdc: Kdc, tmp_path: Path) -> None:
    refused(lambda: login(kdc, "alice", keytab=str(tmp_path / "none")), ConfigError, "keytab")
    (tmp_path / "junk").write_bytes(b"not a keytab")
    refused(lambda: login(kdc, "alice", keytab=str(tmp_path / "junk")), ConfigError, "keytab")
    refused(lambda: login(kdc, "alice", keytab="NOSUCHTYPE:x"), ConfigError, "keytab")
    refused(lambda: login(kdc, "alice", service="HTTP/other.test"), ConfigError, "keytab")


def test_lying_kdc_is_found_out(kdc: Kdc, tmp_path: Path) -> None:
    """A KDC of the same name that knows the password but not our key; with its service known to it and unknown."""
    with Realm(tmp_path / "liar", kdc.realm.name) as liar, liar.activated():
        liar.add_user("alice", "chosen by the attacker")
        refused(lambda: login(kdc, "alice", "chosen by the attacker"), AccessError, "kdc-not-genuine")
        liar.add_service("HTTP/head.test")
        error = refused(lambda: login(kdc, "alice", "chosen by the attacker"), AccessError, "kdc-not-genuine")
        assert getattr(error.__cause__, "name", "") == "KRB5KRB_AP_ERR_BAD_INTEGRITY", error.__cause__
        own = str(liar.keytab(tmp_path / "own", "HTTP/head.test"))
        assert login(kdc, "alice", "chosen by the attacker", keytab=own).client == "alice@REALM.TEST"


@pytest.mark.parametrize("shift_s", [3600, -3600], ids=["kdc ahead", "kdc behind"])
def test_clock_skew_is_said(
    kdc: Kdc, tmp_path: Path, shift_clock: Callable[[int], dict[str, str]], shift_s: int
) -> None:
    """Neither KDC nor libkrb5 minds at first: libkrb5 takes over the KDC's clock. Tickets would then fail elsewhere."""
    with Realm(tmp_path / "skewed", kdc_env=shift_clock(shift_s)) as realm, realm.activated():
        realm.add_user("alice", PASSWORD)
        realm.add_service("HTTP/head.test")
        keytab = str(realm.keytab(tmp_path / "kt", "HTTP/head.test"))
        refused(lambda: login(kdc, "alice", keytab=keytab), CredentialError, "clock-skew")
        # and the KDC's clock did not stick to this thread
        offset, micro = lib.ffi.new("int32_t *"), lib.ffi.new("int32_t *")
        lib.lib.krb5_get_time_offsets(lib.context(), offset, micro)
        assert offset[0] == 0, f"this thread's clock is {offset[0]} s off"


def test_expired_service_ticket_is_refused(
    kdc: Kdc, tmp_path: Path, shift_clock: Callable[[int], dict[str, str]]
) -> None:
    """A ticket that ended an hour ago, from a KDC of yesterday that MIT's tools adapt to."""
    with Realm(tmp_path / "past", kdc_env=shift_clock(-7200)) as realm, realm.activated():
        realm.add_user("alice", PASSWORD)
        realm.add_service("auks/head.test")
        keytab = str(realm.keytab(tmp_path / "kt", "auks/head.test"))
        path = f"FILE:{tmp_path}/cc"
        realm.kinit("alice", PASSWORD, path, "-l", "1h")
        subprocess.run(["kvno", "-q", "-c", path, "auks/head.test"], check=True)
        found = [one for one in ccread.read_all(path)[1] if one.server.startswith("auks/")]
        stale = auth.ServiceTicket("auks/head.test@REALM.TEST", found[0])
        assert stale.endtime < time.time() - 3000
        initiator = auth.Initiator(None, "auks/head.test", local=None, remote=None, service_ticket=stale)
        with auth.Acceptor(keytab, None, local=None, remote=None) as acceptor:
            refused(lambda: acceptor.ap_req(initiator.ap_req()), CredentialError, "expired")
        initiator.close()


def test_kdc_down_is_said_and_passes(kdc: Kdc) -> None:
    cred = login(kdc, "alice")
    kdc.realm.stop()
    try:
        refused(lambda: login(kdc, "alice"), UnavailableError, "kdc-unreachable")
        refused(lambda: renewal.renew(cred), UnavailableError, "kdc-unreachable")
        refused(lambda: auth.service_ticket(cred, "auks/head.test"), UnavailableError, "kdc-unreachable")
    finally:
        kdc.realm.restart()
    assert login(kdc, "alice").client == "alice@REALM.TEST"


def test_hung_kdc_blocks_one_thread_only(kdc: Kdc) -> None:
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(login(kdc, "alice")))
    kdc.realm.pause()
    try:
        thread.start()
        latest, end = 0.0, time.monotonic() + 0.3
        while time.monotonic() < end:
            before = time.monotonic()
            time.sleep(0.005)
            latest = max(latest, time.monotonic() - before)
        assert not done, "the KDC was not paused"
        assert latest < 0.2, f"the interpreter stood still for {latest:.3f} s"
    finally:
        kdc.realm.resume()
    thread.join(20)
    assert done and done[0].client == "alice@REALM.TEST"


def test_password_copy_is_wiped(kdc: Kdc, monkeypatch: pytest.MonkeyPatch) -> None:
    """On success and on every failure after the copy was made."""
    seen: list[tuple[bytes, bytes]] = []

    def spy(buffer: Any) -> None:
        before = bytes(lib.ffi.buffer(buffer))
        lib.wipe(buffer)
        seen.append((before, bytes(lib.ffi.buffer(buffer))))

    monkeypatch.setattr(creds, "wipe", spy)
    mine = bytearray(PASSWORD.encode())
    creds.password_tgt("alice", mine, keytab=kdc.http, service=None)
    refused(lambda: login(kdc, "alice", "wrong"), CredentialError, "login-failed")
    refused(lambda: login(kdc, "nosuch"), CredentialError, "login-failed")
    assert [before for before, _ in seen] == [text.encode() + b"\0" for text in (PASSWORD, "wrong", PASSWORD)]
    assert all(after.strip(b"\0") == b"" for _, after in seen)
    assert mine == PASSWORD.encode(), "the caller's own is the caller's"


def test_keytab_tgt(kdc: Kdc, tmp_path: Path) -> None:
    cred = creds.keytab_tgt("HTTP/head.test", kdc.http)
    assert (cred.client, cred.addressless) == ("HTTP/head.test@REALM.TEST", True)
    assert krbcred.tickets(cred)[0].flags & RENEWABLE
    refused(lambda: creds.keytab_tgt("auks/head.test", kdc.http), ConfigError, "keytab")
    refused(lambda: creds.keytab_tgt("HTTP/head.test", str(tmp_path / "none")), ConfigError, "keytab")
    stale = tmp_path / "stale"
    kdc.realm.add_service("host/rotated.test")
    kdc.realm.keytab(stale, "host/rotated.test")
    kdc.realm.kadmin("cpw -randkey host/rotated.test")
    refused(lambda: creds.keytab_tgt("host/rotated.test", str(stale)), ConfigError, "keytab")


def test_renew_after_the_end_is_expired(kdc: Kdc, tmp_path: Path, shift_clock: Callable[[int], dict[str, str]]) -> None:
    """A TGT that ended an hour ago and could be renewed for a week: made when the KDC's clock was two hours behind."""
    with Realm(tmp_path / "past", kdc_env=shift_clock(-7200)) as realm, realm.activated():
        realm.add_user("alice", PASSWORD)
        path = f"FILE:{tmp_path}/cc"
        realm.kinit("alice", PASSWORD, path, "-l", "1h", "-r", "7d")
        realm.kdc_env = {}
        realm.restart()
        cred = ccache.read_tgt(path)
        assert cred.times.endtime < time.time() - 3000 < time.time() + 6 * 86400 < cred.times.renew_till
        refused(lambda: renewal.renew(cred), CredentialError, "expired")
        refused(lambda: auth.service_ticket(cred, "kadmin/admin"), CredentialError, "expired")


def test_tickets_beyond_2038(kdc: Kdc, tmp_path: Path) -> None:
    """libkrb5's times are signed 32 bit; ours are not, in every direction."""
    with Realm(tmp_path / "long", max_life="6000d", max_renew="6000d") as realm, realm.activated():
        realm.add_user("alice", PASSWORD)
        realm.add_service("auks/head.test")
        keytab = str(realm.keytab(tmp_path / "kt", "auks/head.test"))
        cred = login(kdc, "alice", keytab=keytab, service=None, lifetime_s=5999 * 86400, renew_s=5999 * 86400)
        assert min(cred.times.endtime, cred.times.renew_till) > 2**31, cred
        path = tmp_path / "cc"
        path.write_bytes(ccache.file_v4(cred))
        assert ccache.read_tgt(str(path)).times == cred.times
        assert renewal.renew(cred).times.endtime > 2**31
        assert auth.service_ticket(cred, "auks/head.test").endtime > 2**31
        shown = subprocess.run(["klist", "-c", str(path)], capture_output=True, text=True, check=True).stdout
        assert "/43 " in shown, shown  # the year 2026 and 5999 days


def test_cross_realm_ticket_travels_with_the_tgt(kdc: Kdc, tmp_path: Path) -> None:
    """Two realms that trust each other: read_tgt takes both tickets, renew keeps both, a service of B opens."""
    b = Realm(tmp_path / "b", "B.TEST")
    a = Realm(tmp_path / "a", "A.TEST", others={"B.TEST": f"127.0.0.1:{b.port}"}, domains=[])
    with b, a:
        for realm in (a, b):
            realm.add_user("krbtgt/B.TEST@A.TEST", "shared secret", requires_preauth=False)
        a.add_user("alice", PASSWORD)
        b.add_service("host/x.test")
        keytab = str(b.keytab(tmp_path / "kt", "host/x.test"))
        path = f"FILE:{tmp_path}/cc"
        with a.activated():
            a.kinit("alice", PASSWORD, path, "-f", "-r", "1h")
            subprocess.run(["kvno", "-q", "-c", path, "host/x.test@B.TEST"], check=True)
            cred = ccache.read_tgt(path)
            assert [one.server for one in krbcred.tickets(cred)] == ["krbtgt/A.TEST@A.TEST", "krbtgt/B.TEST@A.TEST"]
            renewed = renewal.renew(cred)
            assert renewed.tickets == 2
            assert krbcred.tickets(renewed)[0].ticket_der != krbcred.tickets(cred)[0].ticket_der
            assert krbcred.tickets(renewed)[1].endtime >= krbcred.tickets(cred)[1].endtime
            initiator = auth.Initiator(renewed, "host/x.test@B.TEST", local=None, remote=None)
        with b.activated(), auth.Acceptor(keytab, None, local=None, remote=None) as acceptor:
            initiator.ap_rep(acceptor.ap_req(initiator.ap_req()))
            assert acceptor.client == "alice@A.TEST"
            refused(lambda: names.localname(acceptor.client), AccessError, "no-localname")
        initiator.close()


def test_read_tgt(kdc: Kdc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = login(kdc, "alice", lifetime_s=60), login(kdc, "alice", lifetime_s=600)
    path = tmp_path / "cc"
    # two TGTs and, as MIT keeps, a service ticket between them: the one that ends last is taken
    record = ccache.file_v4(second)[len(ccache.file_v4(first)) - len(ccache._record(krbcred.tickets(first)[0])) :]
    path.write_bytes(ccache.file_v4(first))
    subprocess.run(["kvno", "-q", "-c", str(path), "auks/head.test"], check=True)
    with path.open("ab") as file:
        file.write(record)
    assert ccache.read_tgt(f"FILE:{path}").der == second.der
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{path}")
    assert ccache.read_tgt(None).der == second.der
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{path}.none")
    refused(lambda: ccache.read_tgt(None), CredentialError, "no-tgt")
    refused(lambda: ccache.read_tgt("NOSUCHTYPE:x"), CredentialError, "no-tgt")
    (tmp_path / "junk").write_bytes(b"\5\4junk")
    refused(lambda: ccache.read_tgt(str(tmp_path / "junk")), CredentialError, "no-tgt")
    (tmp_path / "empty").write_bytes(ccache.file_v4(first)[: -len(ccache._record(krbcred.tickets(first)[0]))])
    refused(lambda: ccache.read_tgt(str(tmp_path / "empty")), CredentialError, "no-tgt")


def test_read_tgt_of_an_addressful_ticket(kdc: Kdc, tmp_path: Path) -> None:
    path = f"FILE:{tmp_path}/cc"
    Mit().kinit_bound("alice", PASSWORD, [b"\x7f\0\0\1", b"\x0a\1\2\3"], path)
    cred = ccache.read_tgt(path)
    (tgt,) = krbcred.tickets(cred)
    assert (tgt.addresses, cred.addressless) == (((2, b"\x7f\0\0\1"), (2, b"\x0a\1\2\3")), False)
    assert krbcred.tickets(krbcred.parse(cred.der))[0].addresses == tgt.addresses
    shutil.copy(tmp_path / "cc", tmp_path / "kept")
    (tmp_path / "cc").write_bytes(ccache.file_v4(cred))
    shown = [
        subprocess.run(["klist", "-a", "-n", "-c", str(tmp_path / name)], capture_output=True, text=True, check=True)
        for name in ("kept", "cc")
    ]
    assert shown[0].stdout.splitlines()[1:] == shown[1].stdout.splitlines()[1:]


def test_file_v4_works_for_mits_programs(kdc: Kdc, tmp_path: Path) -> None:
    path = tmp_path / "cc"
    path.write_bytes(ccache.file_v4(login(kdc, "alice")))
    assert subprocess.run(["klist", "-s", "-c", str(path)]).returncode == 0
    done = subprocess.run(["kvno", "-c", str(path), "auks/head.test"], capture_output=True, text=True)
    assert done.stdout == "auks/head.test@REALM.TEST: kvno = 1\n", done


def test_localname(kdc: Kdc, tmp_path: Path) -> None:
    assert names.localname("alice@REALM.TEST") == "alice"
    for principal in ("alice/admin@REALM.TEST", "alice@OTHER.TEST", "a\\/b/c@REALM.TEST"):
        refused(names.localname, AccessError, "no-localname", principal)
    refused(lambda: names.localname("alice"), RequestError, "bad-principal")
    rules = ("RULE:[2:$1;$2](.*;admin)s/;admin/-adm/", "RULE:[1:$1@$0](.*@EVIL.TEST)s/@/:/", "DEFAULT")
    ruled = Realm(tmp_path / "ruled", auth_to_local=rules)
    ruled.dir.mkdir()
    ruled.write_config()
    with ruled.activated():
        assert names.localname("alice/admin@REALM.TEST") == "alice-adm"
        refused(lambda: names.localname("x@EVIL.TEST"), AccessError, "no-localname")
        assert names.localname("alice@REALM.TEST") == "alice"


def test_changed_krb5_conf_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name in KRB5_CONFIG at once, by its content within RECHECK_S."""
    one, two = Realm(tmp_path / "one", "ONE.TEST"), Realm(tmp_path / "two", "TWO.TEST")
    for realm in (one, two):
        realm.dir.mkdir()
        realm.write_config()
    with one.activated():
        assert names.default_realm() == "ONE.TEST"
        with two.activated():
            assert names.default_realm() == "TWO.TEST"
        monkeypatch.setattr(lib, "RECHECK_S", 0.0)
        one.name = "THREE.TEST"
        one.write_config()
        assert names.default_realm() == "THREE.TEST"
        assert names.full("alice") == "alice@THREE.TEST"
        one.krb5_conf.write_text("[libdefaults]\n")
        refused(names.default_realm, ConfigError, "krb5-conf")
        one.krb5_conf.write_text("not a configuration\n")
        refused(names.default_realm, ConfigError, "krb5-conf")
