"""A password in a real keyring: GNOME's daemon on a D-Bus of its own, asked by the program as on a desktop."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from cli_laptop import PROGRAM
from fake_api import PASSWORD, FakeApi

PROTECTED_BY = "the keyring's own password"


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with closing(FakeApi()) as made:
        yield made


def desktop(home: Path, *arguments: str, given: str = "", unlocked: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the program in a desktop session of its own; the keyring's files stay in ``home`` between sessions."""
    runtime = home / "run"
    runtime.mkdir(mode=0o700, exist_ok=True)
    env = {"HOME": str(home), "XDG_RUNTIME_DIR": str(runtime), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    env |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    unlock = f"printf %s {shlex.quote(PROTECTED_BY)} | gnome-keyring-daemon --unlock --components=secrets >/dev/null"
    start = unlock if unlocked else "gnome-keyring-daemon --start --components=secrets >/dev/null"
    script = f"{start} 2>&1; exec {shlex.join([*PROGRAM, *arguments])}"
    argv = ["dbus-run-session", "--", "sh", "-c", script]
    return subprocess.run(argv, env=env, input=given, capture_output=True, text=True, timeout=120, check=False)


def test_a_password_is_kept_used_and_forgotten(api: FakeApi, tmp_path: Path) -> None:
    """Asked for once; a later session, after a reboot, logs in again by itself; what is on the disk is not it."""
    config = tmp_path / ".config/hipercow-slurm/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'url = "{api.url}"\nusername = "alice"\n')
    done = desktop(tmp_path, "login", "-u", "alice", "--password-stdin", "--keyring", given=PASSWORD + "\n")
    assert done.returncode == 0, done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("keyrings" in str(path) for path in files), files
    assert not [path for path in files if PASSWORD.encode() in path.read_bytes()]

    api.tokens.clear()
    done = desktop(tmp_path, "jobs", "--json")
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr

    api.tokens.clear()
    locked = desktop(tmp_path, "jobs", "--json", unlocked=False)
    error = json.loads(locked.stderr.splitlines()[-1])["error"]
    assert (locked.returncode, error["code"]) == (78, "no-keyring") and error["hint"], locked

    done = desktop(tmp_path, "login", "--password-stdin", "--no-keyring", given=PASSWORD + "\n")
    assert done.returncode == 0, done.stderr
    api.tokens.clear()
    assert desktop(tmp_path, "jobs", "--json").returncode == 3
