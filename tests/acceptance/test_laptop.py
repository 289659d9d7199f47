"""The laptop's part as its owner gets it: the wheel, from an index, in an environment with nothing else."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

from hipercow_slurm.testing.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
PROGRAM = """\
from hipercow_slurm import Client

with Client(username="alice", password=lambda username, url: input(), remember=False) as client:
    job = client.submit("echo hi from $(hostname)", time_limit_min=1)
    job.wait()
    print(job.output(), end="")
    print(job.state, job.exit_status)
"""


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("platform", ["windows", "macos", "aarch64-apple-darwin", "linux"])
def test_every_platform_resolves_to_pure_wheels(platform: str, python: str) -> None:
    """The index has a wheel without compiled code for each package that the base install brings there."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--only-binary", ":all:", "--quiet"]
    command += ["--python-platform", platform, "--python-version", python, "--format", "pylock.toml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    packages = tomllib.loads(done.stdout)["packages"]
    assert {"httpx", "click", "tenacity"} <= {row["name"] for row in packages}, packages
    for row in packages:
        wheels = [wheel.get("name") or wheel["url"].rpartition("/")[2] for wheel in row.get("wheels", [])]
        assert any(name.endswith("-none-any.whl") for name in wheels), (row["name"], wheels)


def test_the_wheel_alone_submits_a_job(tmp_path: Path) -> None:
    """An environment with the wheel and its own dependencies: no compiler, no Kerberos, nothing of ours beside it."""
    subprocess.run([str(ROOT / "tools/build-wheels.sh")], check=True, capture_output=True, timeout=300)
    (wheel,) = (ROOT / "dist").glob("*-none-any.whl")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "download", "-q", "--only-binary=:all:", "-d", str(tmp_path), str(wheel)], check=True)
    with Sandbox() as box:

        def laptop(*argv: str, typed: str | None = None) -> str:
            return str(box.run("laptop", list(argv), user="laptop", input=typed, timeout=180).stdout)

        laptop("sh", "-c", "mkdir wheels && base64 -d | tar -x -C wheels", typed=packed(tmp_path))
        laptop("/usr/bin/python3", "-m", "venv", "venv")
        laptop("sh", "-c", "venv/bin/pip install -q --no-index --find-links wheels hipercow-slurm")
        installed = laptop("venv/bin/pip", "list", "--format=freeze")
        assert not {"cryptography", "cffi", "gssapi", "msgspec"} & set(installed.replace("==", "\n").split()), installed
        url, ca = "https://head.sandbox.test:8443", "/etc/hipercow-slurm/ca.pem"
        login = ["venv/bin/hipercow-slurm", "login", "--url", url, "--ca", ca, "-u", "alice", "--password-stdin"]
        assert "as alice@SANDBOX.TEST" in laptop(*login, typed=box.passwords["alice"] + "\n")
        said = laptop("venv/bin/hipercow-slurm", "submit", "--wait", "--wrap", "echo hello; id -un")
        assert said == "hello\nalice\n"
        said = laptop("venv/bin/python", "-c", PROGRAM, typed=box.passwords["alice"] + "\n")
        assert said.splitlines()[0].startswith("hi from c") and said.endswith("COMPLETED 0\n"), said


def packed(folder: Path) -> str:
    """The folder's files as a tar archive in base64, to go through a pipe for text."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for path in folder.iterdir():
            archive.add(path, path.name)
    return base64.encodebytes(raw.getvalue()).decode()
