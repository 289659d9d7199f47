"""The laptop's part as its owner gets it: the wheel, from an index, in an environment with nothing else."""

from __future__ import annotations

import base64
import io
import re
import shutil
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
# Which Kerberos libraries a program has loaded.
MAPPED = "import re; print(set(re.findall(r'lib(?:krb5|gssapi)[^ /]*', open('/proc/self/maps').read())))"


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


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both wheels of this tree."""
    subprocess.run([str(ROOT / "tools/build-wheels.sh")], check=True, capture_output=True, timeout=600)
    folder = tmp_path_factory.mktemp("wheels")
    for wheel in (ROOT / "dist").glob("*.whl"):
        shutil.copy(wheel, folder)
    return folder


def test_the_wheel_with_the_binding_has_the_programs_of_a_node(wheels: Path, tmp_path: Path) -> None:
    """pip chooses it on Linux; with the extra it brings what a node needs, without a compiler."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True, timeout=120)
    bin_ = tmp_path / "venv/bin"

    def run(*argv: str) -> str:
        # No compiler is in this PATH, and nothing of the project's.
        env = {"PATH": str(bin_), "HOME": str(tmp_path)}
        done = subprocess.run([bin_ / argv[0], *argv[1:]], env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pip = ("pip", "--disable-pip-version-check", "install", "-q", "--only-binary=:all:", "--find-links", str(wheels))
    run(*pip, "hipercow-slurm[agent]")
    assert re.fullmatch(r"hipercow-slurm, version \d\S+\n", run("hipercow-slurm", "--version"))
    for program in ("agent", "upload", "doctor"):
        assert "Usage:" in run("hipercow-slurm", program, "--help")
    assert "libkrb5" in run("python", "-c", f"from hipercow_slurm.krb5 import creds\n{MAPPED}")
    assert "set()" in run("python", "-c", f"from hipercow_slurm import Client, AsyncClient\n{MAPPED}")


def test_the_wheel_alone_submits_a_job(wheels: Path, tmp_path: Path) -> None:
    """An environment with the wheel and its own dependencies: no compiler, no Kerberos, nothing of ours beside it."""
    (wheel,) = wheels.glob("*-none-any.whl")
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
