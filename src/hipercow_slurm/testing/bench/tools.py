"""The C pieces of the benchmark, compiled when needed, and one run of the load generator."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
WARNINGS = ("-O2", "-Wall", "-Wextra", "-Werror")


@dataclass(frozen=True, slots=True)
class Tools:
    """Where the compiled pieces lie.

    Attributes:
        load: the load generator.
        accounts: folder of the NSS module with the accounts bench000000 and so on.
        nsswitch: an nsswitch.conf that uses it.
    """

    load: Path
    accounts: Path
    nsswitch: Path

    def inside(self, command: list[str]) -> list[str]:
        """``command`` where those accounts exist: a mount namespace of its own, the machine does not see them.

        Nor do the daemons see plugins of libkrb5 that happen to be installed: sssd's costs each accepted ticket a
        connection.
        """
        script = 'mount --bind "$0" /etc/nsswitch.conf || exit; for one in /usr/lib/*/krb5/plugins/authdata; do '
        script += '[ ! -d "$one" ] || mount -t tmpfs none "$one" || exit; done; exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, str(self.nsswitch), *command]

    def env(self) -> dict[str, str]:
        """What makes the C library find the NSS module."""
        return {"LD_LIBRARY_PATH": str(self.accounts)}


def build(folder: Path) -> Tools:
    """Compile into ``folder``.

    Raises:
        RuntimeError: no compiler or no libkrb5-dev; holds what the compiler said.
    """
    tools = Tools(folder / "load", folder / "nss", folder / "nsswitch.conf")
    tools.accounts.mkdir(parents=True, exist_ok=True)
    _compile([str(HERE / "load.c"), "-o", str(tools.load), "-lkrb5"])
    module = tools.accounts / "libnss_hcsbench.so.2"
    _compile(["-shared", "-fPIC", str(HERE / "accounts.c"), "-o", str(module)])
    tools.nsswitch.write_text("passwd: files hcsbench\ngroup: files\nhosts: files\n")
    return tools


def _compile(arguments: list[str]) -> None:
    done = subprocess.run(
        [os.environ.get("CC", "cc"), *WARNINGS, *arguments], capture_output=True, text=True, timeout=120
    )
    if done.returncode:
        raise RuntimeError(f"cannot compile the load generator (is libkrb5-dev installed?):\n{done.stderr}")


@dataclass(frozen=True, slots=True)
class Asked:
    """What the load generator shall do; see the head of load.c.

    Attributes:
        seconds, count: whichever is reached first; count 0 is no limit.
        items: how many of the credentials to go round; ``first`` is where to begin.
    """

    verb: str
    clients: int = 1
    per_connection: int = 1
    seconds: float = 1.0
    first: int = 0
    count: int = 0
    items: int = 0
    quickack: bool = False


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it; latencies in ms, from before the connection (or the request on an open one) to the answer."""

    done: int
    errors: int
    seconds: float
    p50_ms: float
    p95_ms: float
    max_ms: float
    client_cpu_s: float
    reply_bytes: int
    records: int

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.done / self.seconds


def load(tools: Tools, port: int, service: str, asked: Asked, items: Path, env: Mapping[str, str]) -> Load:
    """Run the load generator on 127.0.0.1.

    Raises:
        RuntimeError: it failed, or an operation did.
    """
    words = (asked.verb, asked.clients, asked.per_connection, asked.seconds, asked.first, asked.count, items)
    command = [tools.load, "127.0.0.1", port, service, *words, asked.items, int(asked.quickack)]
    done = subprocess.run([str(word) for word in command], env={**os.environ, **env}, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr.strip()}")
    found = Load(**json.loads(done.stdout))
    if found.errors or not found.done:
        raise RuntimeError(f"{asked}: {found.errors} operations failed, {found.done} were good")
    return found
