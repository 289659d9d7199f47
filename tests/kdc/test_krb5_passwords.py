"""FAST armour around password checks, and changing a password that must change; against MIT's KDC and kadmind."""

import secrets

import pytest

from hipercow_slurm.errors import CredentialError, Error, RequestError
from hipercow_slurm.krb5 import creds, passwords
from hipercow_slurm.testing.realm import Realm

pytestmark = pytest.mark.kdc

OURS = "HTTP/head.test@REALM.TEST"
OLD = f"Old-{secrets.token_hex(6)}"


@pytest.fixture(scope="module")
def realm(tmp_path_factory):
    """alice must change; carol need not; bob's password is of no interest. The client gives no encrypted timestamp."""
    with Realm(tmp_path_factory.mktemp("passwords") / "realm", passwords_change=True) as realm:
        realm.kadmin("addpol -minlength 10 strict")
        realm.add_user("alice", OLD, needchange=True, requires_preauth=True, policy="strict")
        realm.add_user("carol", OLD)
        realm.add_service("HTTP/head.test")
        realm.keytab(realm.dir / "http.keytab", "HTTP/head.test")
        with realm.activated():
            realm.armor = creds.keytab_tgt(OURS, str(realm.dir / "http.keytab"))
        conf = realm.krb5_conf.read_text()
        assert "    kdc = " in conf
        realm.krb5_conf.write_text(conf.replace("    kdc = ", "    disable_encrypted_timestamp = true\n    kdc = ", 1))
        with realm.activated():
            yield realm


@pytest.fixture(scope="module")
def armor(realm):
    """Our own ticket, from before the client was told to give no encrypted timestamp."""
    return realm.armor


def check(realm, name, password, **more):
    return creds.password_tgt(
        f"{name}@REALM.TEST", bytearray(password.encode()), keytab=f"{realm.dir}/http.keytab", service=OURS, **more
    )


def test_armour_is_what_the_exchange_goes_through(realm, armor):
    """Without the encrypted timestamp a password can only be shown inside of FAST armour."""
    with pytest.raises(Error) as bare:
        check(realm, "carol", OLD)
    assert bare.value.code != "login-failed", bare.value
    assert check(realm, "carol", OLD, armor=armor, armor_required=True).client == "carol@REALM.TEST"
    assert check(realm, "carol", OLD, armor=armor).client == "carol@REALM.TEST"


def test_wrong_password_and_unknown_user_look_alike_inside_of_armour(realm, armor):
    said = []
    for name in ("carol", "nobody"):
        with pytest.raises(CredentialError) as caught:
            check(realm, name, "wrong", armor=armor)
        said.append((caught.value.code, str(caught.value).replace(name, "X")))
    assert said[0] == said[1] and said[0][0] == "login-failed", said


def test_must_change_is_told_inside_of_armour(realm, armor):
    with pytest.raises(CredentialError) as caught:
        check(realm, "alice", OLD, armor=armor)
    assert caught.value.code == "password-must-change"


def test_a_liar_gets_no_new_password(realm, armor, tmp_path):
    """A KDC that takes any password but does not know our key cannot begin the change."""
    with Realm(tmp_path / "liar", passwords_change=True) as liar:
        liar.add_user("alice", "guessed", needchange=True)
        liar.add_service("HTTP/head.test")
        with liar.activated(), pytest.raises(Error):
            passwords.change_ticket("alice@REALM.TEST", bytearray(b"guessed"), armor=armor)
        assert "ISSUE" not in liar.log, liar.log


def test_only_the_right_old_password_begins_a_change_and_the_rules_hold(realm, armor):
    with pytest.raises(CredentialError) as caught:
        passwords.change_ticket("alice@REALM.TEST", bytearray(b"wrong"), armor=armor)
    assert caught.value.code == "login-failed"
    ticket = passwords.change_ticket("alice@REALM.TEST", bytearray(OLD.encode()), armor=armor)
    assert OLD not in repr(ticket)
    with pytest.raises(RequestError) as refused:
        passwords.change_password(ticket, bytearray(b"short"))
    assert (refused.value.code, refused.value.status) == ("password-rejected", 422)
    assert "too short" in str(refused.value).lower() and "short\x00" not in str(refused.value)
    new = bytearray("Neu-€-ganz-lang".encode())
    passwords.change_password(ticket, new)
    assert new == "Neu-€-ganz-lang".encode(), "the caller's password is the caller's to wipe"
    assert check(realm, "alice", "Neu-€-ganz-lang", armor=armor).client == "alice@REALM.TEST"
