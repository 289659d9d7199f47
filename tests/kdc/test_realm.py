"""The throw-away realm itself, which every other Kerberos test stands on."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from hipercow_slurm.testing.realm import Realm

pytestmark = pytest.mark.kdc


def answers(realm: Realm) -> bool:
    try:
        with socket.create_connection((realm.host, realm.port), timeout=1):
            return True
    except OSError:
        return False


def test_a_realm_from_start_to_end(tmp_path: Path) -> None:
    before = time.monotonic()
    realm = Realm(tmp_path / "realm", domains=["head.test", ".test"], auth_to_local=["DEFAULT"]).start()
    took = time.monotonic() - before
    assert took < 1, f"start took {took:.2f} s"
    assert realm.add_user("alice", 'quo"te $x \\y', maxlife="1h") == "alice@REALM.TEST"
    assert realm.add_service("host/c1.test") == "host/c1.test@REALM.TEST"
    assert "host/c1.test@REALM.TEST" in realm.kadmin("listprincs")
    realm.kinit("alice", 'quo"te $x \\y', f"FILE:{tmp_path}/cc")
    keytab = realm.keytab(tmp_path / "new" / "kt", "host/c1.test")
    shown = subprocess.run(["klist", "-k", str(keytab)], capture_output=True, text=True, check=True).stdout
    assert "host/c1.test@REALM.TEST" in shown
    assert "AS_REQ" in realm.log and "alice@REALM.TEST" in realm.log
    pid = realm.pid
    realm.restart()
    assert realm.pid not in (None, pid) and answers(realm)
    realm.kinit("alice", 'quo"te $x \\y', f"FILE:{tmp_path}/cc")
    realm.stop()
    assert realm.pid is None and not answers(realm)
    realm.stop()
    realm.destroy()
    assert not realm.dir.exists()


def test_passwords_are_not_in_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    real = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda command, **kw: seen.append(command) or real(command, **kw))
    with Realm(tmp_path / "realm") as realm:
        realm.add_user("alice", "visible-secret")
        realm.kinit("alice", "visible-secret", f"FILE:{tmp_path}/cc")
    assert len(seen) >= 3 and not any("visible-secret" in word for command in seen for word in command), seen


def test_kadmin_says_what_is_wrong(tmp_path: Path) -> None:
    with Realm(tmp_path / "realm") as realm:
        realm.add_user("alice", "pw")
        for query in ("addprinc -pw x alice", "getprinc nobody", "frobnicate", "ktadd -norandkey -k /none/kt alice"):
            with pytest.raises(RuntimeError, match=r"kadmin\.local"):
                realm.kadmin(query)
        with pytest.raises(RuntimeError, match="Password incorrect"):
            realm.kinit("alice", "wrong", f"FILE:{tmp_path}/cc")
        with pytest.raises(ValueError, match="one line"):
            realm.add_user("bob", "two\nlines")
        with pytest.raises(RuntimeError, match="runs already"):
            realm.start()


def test_a_taken_port_is_an_error_not_a_stranger(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(RuntimeError, match="did not start"):
        Realm(tmp_path / "realm", port=taken.getsockname()[1]).start()


def test_activation_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRB5_CONFIG", "/before")
    monkeypatch.delenv("KRB5_KDC_PROFILE", raising=False)
    realm = Realm(tmp_path / "realm")
    with realm.activated():
        assert os.environ["KRB5_CONFIG"] == str(tmp_path / "realm" / "krb5.conf")
    assert os.environ["KRB5_CONFIG"] == "/before" and "KRB5_KDC_PROFILE" not in os.environ


def test_pause_and_resume(tmp_path: Path) -> None:
    with Realm(tmp_path / "realm") as realm:
        realm.add_user("alice", "pw")
        realm.pause()
        state = Path(f"/proc/{realm.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        assert state == "T"
        realm.resume()
        realm.kinit("alice", "pw", f"FILE:{tmp_path}/cc")
        realm.pause()  # and stop() ends a paused one too
    assert realm.pid is None
