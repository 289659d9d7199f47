"""Looks for secrets where they must not be: logs, databases and state, and the memory of our processes."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Collection

from hipercow_slurm.testing.bench import process
from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.sandbox.init import INFO

STATE = ("/var/lib/hipercow-slurm", "/var/log", "/etc/hipercow-slurm", "/tmp", "/run")
_PIECE = 1 << 24


def in_memory(pid: int, needles: Collection[bytes]) -> Counter[bytes]:
    """How often each of these is in the process's memory, for root."""
    found: Counter[bytes] = Counter()
    longest = max(map(len, needles))
    with (
        contextlib.suppress(ProcessLookupError),
        open(f"/proc/{pid}/maps") as maps,
        open(f"/proc/{pid}/mem", "rb", 0) as memory,
    ):
        for line in maps:
            place, mode = line.split()[:2]
            low, high = (int(end, 16) for end in place.split("-"))
            if not mode.startswith("r") or "[v" in line:
                continue
            kept = b""
            for at in range(low, high, _PIECE):
                with contextlib.suppress(OSError, OverflowError):
                    memory.seek(at)
                    data = kept + memory.read(min(_PIECE, high - at))
                    found.update({needle: count for needle in needles if (count := data.count(needle))})
                    kept = data[-longest + 1 :] if longest > 1 else b""
    return found


def processes(sandbox: Sandbox) -> dict[int, str]:
    """Our programs in a sandbox, workers too: pid as seen from outside, and the service's name."""
    names = {row["pid"]: row["name"] for row in sandbox.status()}
    found = {}
    for pid in process.family(json.loads((sandbox.path / INFO).read_text())["pid"]):
        name = names.get(process.pid_inside(pid), "")
        if name.partition("@")[0] in ("api", "signer", "auksd", "agent"):
            found.update(dict.fromkeys(process.family(pid), name))
    return found


def in_files(sandbox: Sandbox, needles: Collection[str]) -> list[str]:
    """Files of every host, and logs of every service, that hold one of these."""
    found = [
        str(path)
        for path in (sandbox.path / "log").rglob("*")
        if path.is_file() and any(needle.encode() in path.read_bytes() for needle in needles)
    ]
    for host in ("head", "login", "laptop", "c1", "c2"):
        # From standard input: in the arguments they would be in every process list.
        grep = ["grep", "-rlaF", "-D", "skip", "-f", "-", *STATE]
        done = sandbox.run(host, grep, input="\n".join(needles) + "\n", check=False, timeout=120)
        found += [f"{host}: {line}" for line in done.stdout.splitlines()]
    return found
