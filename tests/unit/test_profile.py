"""Where the client finds its cluster, and how it keeps a session."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hipercow_slurm.client import profile
from hipercow_slurm.client.profile import Saved, Settings
from hipercow_slurm.errors import ConfigError

SAVED = Saved("https://head:8443", None, "alice", "alice@REALM.TEST", "the-token")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "HIPERCOW_SLURM_URL", "HIPERCOW_SLURM_CA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(profile, "SITE", tmp_path / "site" / "client.toml")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_session_is_for_its_owner_only(home: Path) -> None:
    old = os.umask(0)
    try:
        profile.save(SAVED)
    finally:
        os.umask(old)
    path = home / ".local/state/hipercow-slurm/session.json"
    assert profile.session_file() == path
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert profile.load() == SAVED
    assert "the-token" not in repr(SAVED)
    profile.save(Saved("https://head:8443", None, "alice"))
    assert list(path.parent.iterdir()) == [path], "something was left beside it"


def test_a_session_that_others_can_read_or_wrote_is_not_used(home: Path) -> None:
    profile.save(SAVED)
    path = profile.session_file()
    path.chmod(0o640)
    with pytest.raises(ConfigError) as caught:
        profile.load()
    assert caught.value.code == "session-unsafe"
    assert profile.settings() == Settings(), "a login must get past it"
    path.chmod(0o600)
    os.chown(path, 5001, -1)
    with pytest.raises(ConfigError, match="another user"):
        profile.load()


def test_a_save_replaces_a_link_and_does_not_follow_it(home: Path) -> None:
    elsewhere = home / "elsewhere"
    elsewhere.write_text("precious")
    path = profile.session_file()
    path.parent.mkdir(parents=True)
    path.symlink_to(elsewhere)
    profile.save(SAVED)
    assert (elsewhere.read_text(), path.is_symlink()) == ("precious", False)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"url": 7, "username": "a"}', '{"url": "x"}', "\x00\xff"])
def test_a_damaged_session_is_no_session(text: str) -> None:
    profile.save(SAVED)
    profile.session_file().write_text(text)
    assert profile.load() is None


def test_a_folder_that_cannot_be_written(home: Path) -> None:
    (home / ".local").write_text("not a folder")
    with pytest.raises(ConfigError, match="cannot write"):
        profile.save(SAVED)


def test_who_says_where_the_cluster_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given, environment, user's file, site's file, last login; and the authority is the one that goes with the URL."""
    assert profile.settings() == Settings()
    profile.save(Saved("https://last", "/last.pem", "lasting"))
    assert profile.settings() == Settings("https://last", "/last.pem", "lasting")
    write(profile.SITE, 'url = "https://site"\nca = "site.pem"\n')
    assert profile.settings() == Settings("https://site", str(profile.SITE.parent / "site.pem"), "lasting")
    write(home / ".config/hipercow-slurm/config.toml", 'url = "https://mine"\nusername = "me"\n')
    assert profile.settings() == Settings("https://mine", None, "me"), "the site's authority vouches for another URL"
    monkeypatch.setenv("HIPERCOW_SLURM_URL", "https://environment")
    assert profile.settings().url == "https://environment"
    assert profile.settings(url="https://given", ca="/given.pem") == Settings("https://given", "/given.pem", "me")
    assert profile.settings(url="https://last").ca == "/last.pem"


@pytest.mark.parametrize(
    ("text", "words"),
    [("url = ", "cannot read"), ('uri = "x"', "'uri'"), ("url = 7", "url is not"), ('url = ""', "url is not")],
)
def test_configuration_that_is_wrong(text: str, words: str) -> None:
    write(profile.config_file(), text)
    with pytest.raises(ConfigError, match=words) as caught:
        profile.settings()
    assert str(profile.config_file()) in caught.value.message


def test_a_password_has_no_place_in_what_is_saved() -> None:
    profile.save(SAVED)
    keys = set(json.loads(profile.session_file().read_text()))
    assert keys == {"url", "ca", "username", "principal", "token", "keyring"}
