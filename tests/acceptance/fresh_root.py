"""A copy of this machine to install packages on: what is written goes to memory, and is gone with it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import TracebackType

# An overlay of / with its own /run and /tmp; DEBS are at /debs. It lives as long as its standard input is open.
_BUILD = """
mount -t tmpfs fresh /mnt
mkdir /mnt/upper /mnt/work /mnt/root /mnt/debs
mount --bind "$1" /mnt/debs
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
for folder in proc sys dev; do mount --rbind /$folder /mnt/root/$folder; done
for folder in run tmp; do mount -t tmpfs fresh /mnt/root/$folder; done
mkdir /mnt/root/debs
mount --bind /mnt/debs /mnt/root/debs
echo up
exec cat >/dev/null
"""


class FreshRoot:
    """The copy; ``with`` makes it and takes it away.

    Args:
        debs: a folder that is seen there as /debs.
    """

    def __init__(self, debs: Path) -> None:
        self._debs = debs

    def __enter__(self) -> FreshRoot:
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-euc", _BUILD, "sh", self._debs],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "up\n", "the copy could not be made"
        self.outside("hostname head.example.org")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._holder.communicate()

    def outside(self, script: str) -> str:
        """Run a script with the copy's mounts, but this machine's root: /mnt/upper is what has been written."""
        return self._run(["sh", "-euc", script])

    def run(self, script: str) -> str:
        """Run a script on the copy; what it printed.

        Raises:
            AssertionError: it failed.
        """
        return self._run(["chroot", "/mnt/root", "sh", "-euc", script])

    def _run(self, argv: list[str]) -> str:
        enter = ["nsenter", f"--target={self._holder.pid}", "--mount", "--uts", *argv]
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LANG": "C.UTF-8"}
        done = subprocess.run(enter, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{argv[-1]}\nended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout
