"""The R driver: its package's own tests, R CMD check, and hipercow's calls on the real cluster.

hipercow itself is not in Debian: r/README.md here says what stands in for it, and how to use the real one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from hipercow_slurm.testing.sandbox import Sandbox, layout
from hipercow_slurm.testing.story import Laptop

pytestmark = pytest.mark.e2e
HERE = Path(__file__).parent / "r"
PACKAGE = Path(__file__).parents[2] / "r" / "hipercow.slurm"
REQUEST = "r-laptop-7f3a.12"
REAL = os.environ.get("HIPERCOW_R_LIBRARY")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """hipercow and conan2, real ones or stand-ins, and our driver, installed."""
    folder = tmp_path_factory.mktemp("library")
    folder.chmod(0o755)
    if REAL:
        shutil.copytree(REAL, folder, dirs_exist_ok=True)
    install(folder, *([] if REAL else [HERE / "hipercow", HERE / "conan2"]), PACKAGE)
    return folder


def install(library: Path, *packages: Path) -> None:
    for package in packages:
        run(["R", "CMD", "INSTALL", "--no-docs", "-l", str(library), str(package)], library)


def run(argv: list[str], library: Path, cwd: Path | None = None, **env: str) -> str:
    done = subprocess.run(
        argv,
        cwd=cwd,
        env={**os.environ, "R_LIBS": str(library), **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_r_cmd_check_finds_nothing(library: Path, tmp_path: Path) -> None:
    """With --no-manual, because the manual's PDF needs LaTeX."""
    run(["R", "CMD", "build", str(PACKAGE)], library, tmp_path)
    (built,) = tmp_path.glob("*.tar.gz")
    said = run(["R", "CMD", "check", "--no-manual", built.name], library, tmp_path)
    assert "Status: OK" in said.splitlines(), said


def test_hipercow_on_the_cluster(library: Path, sandbox: Sandbox) -> None:
    """test-cluster.R at alice's laptop, with the library and her project on the share."""
    laptop = Laptop(sandbox, "alice", account="pat")
    laptop.attempt("logout")  # other tests on this sandbox have logged in there
    project, shared = f"{layout.SHARE_ON_LAPTOP}/alice/r-project", f"{layout.SHARE_ON_NODES}/r-library"
    sandbox.run("laptop", ["mkdir", "-p", project], user="pat")
    sandbox.run("head", ["mkdir", shared])
    with subprocess.Popen(["tar", "c", "-C", str(library), "."], stdout=subprocess.PIPE) as packed:
        assert sandbox.popen("head", ["tar", "x", "-C", shared], stdin=packed.stdout).wait() == 0
    done = sandbox.run(
        "laptop",
        ["Rscript", "-e", RUN],
        user="pat",
        env={
            **laptop.env,
            "R_LIBS": f"{layout.SHARE_ON_LAPTOP}/r-library",
            "PROJECT": project,
            "TEST_PASSWORD": sandbox.passwords["alice"],
            "HIPERCOW_SLURM_REQUEST_ID": REQUEST,
        },
        input=(HERE / "test-cluster.R").read_text(),
        timeout=500,
        check=False,
    )
    assert done.returncode == 0 and "FAIL 0" in done.stdout, done.stdout[-6000:] + done.stderr[-3000:]
    assert "SKIP 0" in done.stdout and sandbox.passwords["alice"] not in done.stdout + done.stderr
    log = [line for line in sandbox.service("api").log().splitlines() if f"request_id={REQUEST}" in line]
    assert [line for line in log if "event=job.submitted" in line], log[-5:]
    comments = sandbox.run("head", ["squeue", "-h", "--states=all", "-o", "%k"]).stdout  # of the last five minutes
    assert f"request={REQUEST}" in comments, comments


RUN = """
setwd(Sys.getenv("PROJECT"))
path <- "test-cluster.R"
writeLines(readLines(file("stdin")), path)
library(testthat)
local_edition(3)
test_file(path, reporter = CheckReporter$new(), stop_on_failure = TRUE, load_helpers = FALSE)
"""
