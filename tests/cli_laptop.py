"""A laptop with a configured cluster, and its owner at the keyboard: what the tests of the commands share."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fake_api import PASSWORD, FakeApi, certificate

PROGRAM = [sys.executable, "-m", "hipercow_slurm"]
Done = subprocess.CompletedProcess[str]


@dataclass
class Laptop:
    """A home of one's own with a configured cluster."""

    home: Path
    api: FakeApi

    @property
    def env(self) -> dict[str, str]:
        return {"HOME": str(self.home), "PATH": os.environ["PATH"], "TZ": "UTC", "LANG": "C.UTF-8", "TERM": "xterm"}

    def run(self, *arguments: str, input: str = "", **env: str) -> Done:
        return subprocess.run(
            [*PROGRAM, *arguments],
            input=input,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=self.home,
        )

    def ok(self, *arguments: str, input: str = "", **env: str) -> str:
        done = self.run(*arguments, input=input, **env)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done.stdout

    def login(self) -> None:
        self.ok("login", "--username", "alice", "--password-stdin", input=PASSWORD + "\n")

    def spec(self) -> dict[str, Any]:
        """What the last submission asked for."""
        job: dict[str, Any] = list(self.api.jobs.values())[-1]
        return dict(job["spec"])


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def server(tls: tuple[Path, Path]) -> Iterator[FakeApi]:
    with closing(FakeApi(tls)) as api:
        yield api


@pytest.fixture
def nobody(server: FakeApi, tls: tuple[Path, Path], tmp_path: Path) -> Laptop:
    """A laptop where no one has logged in."""
    server.reset()
    config = tmp_path / ".config/hipercow-slurm/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'url = "{server.url}"\nca = "{tls[0]}"\n')
    return Laptop(tmp_path, server)


@pytest.fixture
def alice(nobody: Laptop) -> Laptop:
    """A laptop where alice has logged in (without running the program for it)."""
    nobody.api.tokens["her-token"] = "alice"
    state = nobody.home / ".local/state/hipercow-slurm/session.json"
    state.parent.mkdir(parents=True)
    config = (nobody.home / ".config/hipercow-slurm/config.toml").read_text()
    ca = re.search(r'ca = "(.*)"', config)
    assert ca
    state.touch(0o600)
    state.write_text(json.dumps({"url": nobody.api.url, "ca": ca[1], "username": "alice", "token": "her-token"}))
    return nobody
