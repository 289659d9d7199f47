"""CPU time and memory of a process and its descendants, as the kernel counts them."""

from __future__ import annotations

import contextlib
from pathlib import Path

MIB = 1024 * 1024


def family(pid: int) -> list[int]:
    """The process and all its descendants."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += family(int(child))
    return found


def pid_inside(pid: int) -> int:
    """Its number in the innermost pid namespace it is in; 0 if it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return 0


def cpu_s(pid: int) -> float:
    """Seconds on a CPU, user and system, of all threads: the same sum as utime + stime, in ns instead of ticks."""
    total = 0
    for one in family(pid):
        for task in Path(f"/proc/{one}/task").iterdir():
            with contextlib.suppress(OSError):
                total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def rss_mib(pid: int) -> float:
    """Resident memory."""
    return _status_mib(pid, "VmRSS")


def peak_mib(pid: int) -> float:
    """Greatest resident memory since the start or ``forget_peak``."""
    return _status_mib(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Let ``peak_mib`` begin anew."""
    for one in family(pid):
        Path(f"/proc/{one}/clear_refs").write_text("5")


def _status_mib(pid: int, field: str) -> float:
    total = 0
    for one in family(pid):
        for line in Path(f"/proc/{one}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                total += int(line.split()[1]) * 1024
    return total / MIB
