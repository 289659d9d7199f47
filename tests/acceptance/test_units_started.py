"""Our units started by a real systemd, as PID 1 in namespaces: with all their restrictions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OURS = ("signer", "auksd", "api")
NODE = ("hipercow-slurm", "hipercow-slurm-spank", "hipercow-slurm-node")
PROBE = """\
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
Environment=PYTHONPATH=/srv/in/src.mount:/srv/in/site.mount:/srv/tests PYTHONDONTWRITEBYTECODE=1
Environment=PROGRAM=/srv/tests/acceptance/{program}
ExecStart=/bin/sh -c "exec >/srv/in/out 2>&1; {python} $PROGRAM; echo rc=$?; systemctl exit 0"
"""
PROGRAM = """\
#!/bin/sh
PYTHONPATH=/srv/in/src.mount:/srv/in/site.mount PYTHONDONTWRITEBYTECODE=1 exec {python} -m hipercow_slurm "$@"
"""


def test_the_units_start_serve_reload_and_stop(tmp_path, proof):
    """Would have caught: MemoryDenyWriteExecute against cffi's callbacks, so that every password login was a bug."""
    into = prepare(tmp_path, "inside_units.py")
    (into / "hipercow-slurm").write_text(PROGRAM.format(python=os.path.realpath(sys.executable)))
    (into / "hipercow-slurm").chmod(0o755)
    for name in OURS:
        unit = f"hipercow-slurm-{name}.service"
        (into / "units" / unit).write_bytes((ROOT / "packaging/systemd" / unit).read_bytes())
        log_to(into, name)
    under_systemd(tmp_path, proof)


def test_the_agents_unit_as_its_package_installs_it(tmp_path, proof, debs):
    """A restriction too many shows in a job of a real Slurm: no ticket, or one that stays, or none after a restart."""
    into = prepare(tmp_path, "inside_agent_unit.py")
    (into / "debs").mkdir()
    for name in NODE:
        (found,) = debs.glob(f"{name}_*.deb")
        shutil.copy(found, into / "debs")
    shutil.copy(ROOT / "docs/how-to/node-side.md", into)
    log_to(into, "agent")
    under_systemd(tmp_path, proof)


def prepare(tmp_path: Path, program: str) -> Path:
    """What goes into the root of systemd_root.sh; ``program`` is what is run there."""
    work, into = tmp_path / "work", tmp_path / "work.in"
    for folder in (work, into, into / "units", into / "src.mount", into / "site.mount"):
        folder.mkdir()
    tmp_path.chmod(0o755)
    (into / "src").symlink_to(ROOT / "src")
    (into / "site").symlink_to(Path(httpx.__file__).parents[1])
    probe = PROBE.format(python=os.path.realpath(sys.executable), program=program)
    (into / "units/probe.service").write_text(probe)
    return into


def log_to(into: Path, name: str) -> None:
    """There is no journal in that root."""
    folder = into / f"units/hipercow-slurm-{name}.service.d"
    folder.mkdir()
    (folder / "log.conf").write_text(f"[Service]\nStandardError=append:/run/log-{name}\n")


def under_systemd(tmp_path: Path, proof) -> None:
    """Boot it, and hand its proofs on."""
    into = tmp_path / "work.in"
    cgroup = cgroup2() / f"hipercow-slurm-{os.getpid()}"
    cgroup.mkdir()
    try:
        done = subprocess.run(
            [HERE / "systemd_root.sh", cgroup, tmp_path / "work"],
            capture_output=True,
            text=True,
            timeout=280,
            stdin=subprocess.DEVNULL,
        )
        said = (into / "out").read_text() if (into / "out").exists() else ""
    finally:
        for folder in sorted(cgroup.rglob("*"), reverse=True):
            if folder.is_dir():
                folder.rmdir()
        cgroup.rmdir()
    assert said.strip().endswith("rc=0"), f"{said[-8000:]}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
    for what, evidence in re.findall(r"^PROOF (.*?): (.*)$", said, re.M):
        proof(f"systemd: {what}", evidence)


def cgroup2() -> Path:
    """Where the unified hierarchy is mounted."""
    rows = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return next(Path(place) for _, place, kind, *_ in rows if kind == "cgroup2")
