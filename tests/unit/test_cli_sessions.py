"""Sessions and clusters from the command line: several of both, and a keyring for those who want one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cli_laptop import Laptop
from fake_api import PASSWORD, FakeApi

# A keyring in a file, for the program's process: what a test can look into afterwards.
BACKEND = """\
import json, os, pathlib
import keyring.backend
PLACE = pathlib.Path(os.environ["HOME"]) / "keyring.json"
class FileKeyring(keyring.backend.KeyringBackend):
    priority = 1
    def _all(self): return json.loads(PLACE.read_text()) if PLACE.exists() else {}
    def get_password(self, service, username): return self._all().get(f"{service}|{username}")
    def set_password(self, service, username, password):
        PLACE.write_text(json.dumps({**self._all(), f"{service}|{username}": password}))
    def delete_password(self, service, username):
        PLACE.write_text(json.dumps({k: v for k, v in self._all().items() if k != f"{service}|{username}"}))
"""


@pytest.fixture
def chain(nobody: Laptop) -> dict[str, str]:
    """What a program needs in its environment to find that keyring."""
    (nobody.home / "filekeyring.py").write_text(BACKEND)
    path = os.pathsep.join(filter(None, (str(nobody.home), os.environ.get("PYTHONPATH"))))
    return {"PYTHON_KEYRING_BACKEND": "filekeyring.FileKeyring", "PYTHONPATH": path}


@pytest.fixture
def other() -> Iterator[FakeApi]:
    with closing(FakeApi()) as api:
        yield api


def kept(laptop: Laptop) -> dict[str, str]:
    path = laptop.home / "keyring.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def test_a_password_in_the_keyring_logs_in_again_by_itself(nobody: Laptop, chain: dict[str, str]) -> None:
    """Asked for once, with --keyring; used when the session has ended; removed with --no-keyring."""
    nobody.ok("login", "-u", "alice", "--password-stdin", "--keyring", input=PASSWORD + "\n", **chain)
    assert kept(nobody) == {f"hipercow-slurm {nobody.api.url}|alice": PASSWORD}
    nobody.api.tokens.clear()
    assert nobody.ok("jobs", "--json", **chain) == "[]\n"
    nobody.ok("login", **chain)
    assert len(nobody.api.seen("POST", "/v1/sessions")) == 3
    nobody.ok("login", "--password-stdin", "--no-keyring", input=PASSWORD + "\n", **chain)
    assert kept(nobody) == {}
    nobody.api.tokens.clear()
    assert nobody.run("jobs", **chain).returncode == 3


def test_no_password_is_kept_unless_one_asks(nobody: Laptop, chain: dict[str, str]) -> None:
    nobody.ok("login", "-u", "alice", "--password-stdin", input=PASSWORD + "\n", **chain)
    assert kept(nobody) == {}
    files = [path for path in nobody.home.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert not [path for path in files if PASSWORD in path.read_text()]


def test_several_clusters_side_by_side(nobody: Laptop, other: FakeApi) -> None:
    """Each has its own session; a job never goes to the wrong one."""
    nobody.login()
    login = ("login", "--cluster", "big", "--url", other.url, "-u", "bob", "--password-stdin")
    nobody.ok(*login, input=PASSWORD + "\n")
    nobody.ok("submit", "--wrap", "true")
    nobody.ok("submit", "-M", "big", "--wrap", "true")
    nobody.ok("submit", "--wrap", "true", HIPERCOW_SLURM_CLUSTER="big")
    assert (len(nobody.api.jobs), len(other.jobs)) == (1, 2)
    rows = json.loads(nobody.ok("clusters", "--json"))
    assert [(row["name"], row["username"], row["logged_in"], row["current"]) for row in rows] == [
        (None, "alice", True, True),
        ("big", "bob", True, False),
    ]
    nobody.ok("logout", "-M", "big")
    refused = nobody.run("jobs", "-M", "big")
    assert refused.returncode == 3 and "hint: hipercow-slurm login --cluster big" in refused.stderr, refused.stderr
    assert nobody.run("jobs").returncode == 0


def test_the_usual_cluster_is_configured(nobody: Laptop, other: FakeApi) -> None:
    config = nobody.home / ".config/hipercow-slurm/config.toml"
    config.write_text(f'default = "big"\n{config.read_text()}\n[clusters.big]\nurl = "{other.url}"\n')
    nobody.ok("login", "-u", "alice", "--password-stdin", input=PASSWORD + "\n")
    assert len(other.tokens) == 1 and nobody.api.tokens == {}
    assert (nobody.home / ".local/state/hipercow-slurm/session-big.json").exists()


@pytest.mark.parametrize(
    "text",
    ["clusters = 3", "[clusters.'a/b']\nurl = 'x'", "[clusters.big]\nuri = 'x'", "default = 3", "keyring = 'yes'"],
)
def test_a_configuration_that_is_wrong_says_where(nobody: Laptop, text: str) -> None:
    config = nobody.home / ".config/hipercow-slurm/config.toml"
    config.write_text(text)
    done = nobody.run("clusters")
    assert done.returncode == 78 and str(config) in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_name_never_leaves_its_folder(nobody: Laptop) -> None:
    """The cluster's name becomes part of a file's name."""
    done = nobody.run("login", "--cluster", "../../x", "--url", nobody.api.url, "--password-stdin", input="x\n")
    assert done.returncode == 78 and "[no-cluster]" in done.stderr, done.stderr


def test_sessions_are_listed_and_ended(alice: Laptop) -> None:
    alice.api.tokens |= {"abc-one": "alice", "abd-two": "alice", "xyz": "alice"}
    assert alice.ok("sessions").count("127.0.0.1") == 4
    ambiguous = alice.run("sessions", "--end", "ab")
    assert ambiguous.returncode == 2 and "2 sessions" in ambiguous.stderr, ambiguous.stderr
    assert alice.ok("sessions", "--end", "abc") == "ended session abc-one\n"
    answer = json.loads(alice.ok("sessions", "--end-others", "--json"))
    assert answer["ended"] == ["abd-two", "xyz"] and [row["current"] for row in answer["sessions"]] == [True]
    assert list(alice.api.tokens) == ["her-token"]


def test_a_stale_password_in_the_keyring_is_sent_once(nobody: Laptop, chain: dict[str, str]) -> None:
    nobody.ok("login", "-u", "alice", "--password-stdin", "--keyring", input=PASSWORD + "\n", **chain)
    place = Path(nobody.home / "keyring.json")
    place.write_text(place.read_text().replace(PASSWORD, "stale"))
    nobody.api.tokens.clear()
    before = len(nobody.api.seen("POST", "/v1/sessions"))
    assert nobody.run("ticket", **chain).returncode == 3
    assert len(nobody.api.seen("POST", "/v1/sessions")) == before + 1
