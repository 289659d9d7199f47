"""Imports point one way, and each foreign library has one door. Held by reading the source tree's imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hipercow_slurm

SRC = Path(hipercow_slurm.__file__).parent
LEAF = {"errors", "values"}

# package -> what of ours it may import, besides itself and the leaves
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "values": set(),
    "wire": set(),
    "krb5": set(),
    "store": set(),
    "slurm": set(),
    "sbatch": {"sbatch_options"},
    "sbatch_options": {"sbatch_time"},
    "sbatch_time": set(),
    "files": {"krb5"},
    "config": set(),
    "log": set(),
    "daemon": {"log", "config"},
    "audit": {"log"},
    "metrics": {"log"},
    "auksconf": set(),
    "client": {"wire", "krb5"},
    "auksd": {"auksconf", "wire", "krb5", "store", "slurm", "log", "audit", "metrics", "config", "daemon"},
    "signer": {"krb5", "slurm", "log", "audit", "metrics", "config", "daemon"},
    "api": {
        "store",
        "client",
        "signer",
        "sbatch",
        "sbatch_options",
        "sbatch_time",
        "slurm",
        "krb5",
        "files",
        "log",
        "audit",
        "metrics",
        "config",
        "daemon",
    },
    "hipercow": {"client", "Client", "Job", "JobInfo"},
    "agent": {"client", "krb5", "log", "audit", "metrics", "config", "daemon"},
}

# foreign or standard module -> packages of ours that may import it
DOORS: dict[str, set[str]] = {
    "cffi": {"krb5"},
    "gssapi": {"files", "api", "client", "testing"},
    "asyncpg": {"store", "testing"},
    "sqlite3": {"store", "api", "testing"},
    "aiohttp": {"slurm", "testing"},
    "starlette": {"api", "testing"},
    "uvicorn": {"api", "testing"},
    "httpx": {"client", "testing"},
    "prometheus_client": {"metrics", "auksd", "signer", "api", "agent"},
    "joserfc": {"signer", "testing"},
    "click": {"cli", "testing"},
    "hipercow": {"hipercow", "cli"},
    "pydantic": {"hipercow"},
    "taskwait": {"hipercow"},
    "rich": {"cli", "testing"},
}

# the wire is bytes in, values out
WIRE_MAY_NOT = {"socket", "ssl", "asyncio", "threading", "time", "os", "logging", "structlog"}

# what a laptop does not have
NOT_IN_CLIENT = {
    "asyncpg",
    "msgspec",
    "cffi",
    "structlog",
    "cryptography",
    "gssapi",
    "aiohttp",
    "starlette",
    "prometheus_client",
}
BASE_INSTALL = [
    "client/exchange.py",
    "client/profile.py",
    "client/sync/client.py",
    "client/aio/client.py",
    "cli/main.py",
    "cli/user.py",
    "cli/jobs.py",
    "sbatch.py",
    "sbatch_options.py",
    "sbatch_time.py",
    "errors.py",
]


def imports_of(path: Path) -> set[str]:
    """Every module a file imports, wherever in the file it does."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def package_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


FILES = sorted(SRC.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_our_imports_point_one_way(path: Path) -> None:
    package = package_of(path)
    if package not in ALLOWED:
        return
    ours = {name.split(".")[1] for name in imports_of(path) if name.startswith("hipercow_slurm.")}
    wrong = ours - ALLOWED[package] - LEAF - {package, "__version__"}
    assert not wrong, (
        f"{path.relative_to(SRC)} imports {sorted(wrong)}; {package} may import {sorted(ALLOWED[package])}"
    )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_each_library_has_its_door(path: Path) -> None:
    package = package_of(path)
    for name in imports_of(path):
        top = name.split(".")[0]
        allowed = DOORS.get(top)
        assert allowed is None or package in allowed, f"{path.relative_to(SRC)} imports {top}; only {allowed} may"
        if package == "wire":
            assert top not in WIRE_MAY_NOT, f"wire is sans-I/O, {path.name} imports {top}"


@pytest.mark.parametrize("name", BASE_INSTALL)
def test_the_client_needs_only_the_base_install(name: str) -> None:
    tops = {module.split(".")[0] for module in imports_of(SRC / name)}
    assert not tops & NOT_IN_CLIENT, f"{name} imports {sorted(tops & NOT_IN_CLIENT)}"


def test_files_stay_readable() -> None:
    """A file over 400 lines is two files; the limit is a bound, 150 to 300 is the aim."""
    long = {str(p.relative_to(SRC)): n for p in FILES if (n := len(p.read_text().splitlines())) > 400}
    assert not long, f"split these: {long}"
