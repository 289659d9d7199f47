"""CPU time and memory of a process and its descendants, as the kernel counts them."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

MIB = 1024 * 1024
_CPUCLOCK_SCHED = 2  # of a process: <linux/posix-timers.h>; with ~pid above it, what clock_getcpuclockid(3) gives


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


def name(pid: int) -> str:
    """Of its program, as the kernel shortens it; empty if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def cpu_s(pid: int) -> float:
    """Seconds on a CPU, user and system: of the process and its descendants, and of whatever of them has ended.

    The process's own CPU clock counts in nanoseconds and keeps the time of threads that are gone (slurmctld makes one
    for each request), which the sum over ``/proc/PID/task`` does not. Children that were waited for are in ``cutime``
    and ``cstime`` of ``/proc/PID/stat``, in ticks of 10 ms. Those nobody waits for (SIGCHLD ignored) are in neither.
    """
    return sum(_own_s(one) + _waited_for_s(one) for one in family(pid))


def _own_s(pid: int) -> float:
    with contextlib.suppress(OSError):
        return time.clock_gettime(~pid << 3 | _CPUCLOCK_SCHED)
    return 0.0


def _waited_for_s(pid: int) -> float:
    with contextlib.suppress(OSError):
        behind_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, behind_name[13:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def keep_on(pid: int, cpus: set[int]) -> None:
    """Let a process run on these CPUs only, with all its threads, and what it starts from now on."""
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread that is gone
                os.sched_setaffinity(int(task.name), cpus)


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
