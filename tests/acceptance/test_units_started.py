"""The units of signer, cache and API started by a real systemd, as PID 1 in namespaces: with all their restrictions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OURS = ("signer", "auksd", "api")
PROBE = """\
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
Environment=PYTHONPATH=/srv/in/src.mount:/srv/in/site.mount:/srv/tests PYTHONDONTWRITEBYTECODE=1
Environment=PROGRAM=/srv/tests/acceptance/inside_units.py
ExecStart=/bin/sh -c "exec >/srv/in/out 2>&1; {python} $PROGRAM; echo rc=$?; systemctl exit 0"
"""
PROGRAM = """\
#!/bin/sh
PYTHONPATH=/srv/in/src.mount:/srv/in/site.mount PYTHONDONTWRITEBYTECODE=1 exec {python} -m hipercow_slurm "$@"
"""


def test_the_units_start_serve_reload_and_stop(tmp_path, proof):
    """Would have caught: MemoryDenyWriteExecute against cffi's callbacks, so that every password login was a bug."""
    work, into = tmp_path / "work", tmp_path / "work.in"
    for folder in (work, into, into / "units", into / "src.mount", into / "site.mount"):
        folder.mkdir()
    tmp_path.chmod(0o755)
    python = os.path.realpath(sys.executable)
    (into / "src").symlink_to(ROOT / "src")
    (into / "site").symlink_to(Path(httpx.__file__).parents[1])
    (into / "units/probe.service").write_text(PROBE.format(python=python))
    (into / "hipercow-slurm").write_text(PROGRAM.format(python=python))
    (into / "hipercow-slurm").chmod(0o755)
    for name in OURS:
        unit = f"hipercow-slurm-{name}.service"
        (into / "units" / unit).write_bytes((ROOT / "packaging/systemd" / unit).read_bytes())
        (into / "units" / f"{unit}.d").mkdir()
        (into / "units" / f"{unit}.d/log.conf").write_text(f"[Service]\nStandardError=file:/run/log-{name}\n")
    cgroup = cgroup2() / f"hipercow-slurm-{os.getpid()}"
    cgroup.mkdir()
    try:
        done = subprocess.run(
            [HERE / "systemd_root.sh", cgroup, work],
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
