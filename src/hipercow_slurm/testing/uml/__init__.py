"""Compute nodes with a Linux kernel of their own, as ordinary processes: User-Mode Linux. README.md tells how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

KERNEL = "/usr/bin/linux.uml"
MODULES = "/usr/lib/uml/modules"
MEMORY = "512M"
SCRIPTS = "hipercow_slurm/testing/uml"
# What a node needs beside what any sandbox does; a program of each package.
PROGRAMS = {
    "linux.uml": "user-mode-linux",
    "rpc.gssd": "nfs-common",
    "mount.cifs": "cifs-utils",
    "request-key": "keyutils",
    "modprobe": "kmod",
    "sshd": "openssh-server",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """One node: its name, its address with prefix length, and the network device it is plugged into."""

    name: str
    address: str
    number: int

    @property
    def tap(self) -> str:
        """The end of its network cable on the bridge's side."""
        return f"tap-{self.name}"

    @property
    def hardware_address(self) -> str:
        """Locally administered, one per node."""
        return f"02:00:0a:cb:00:{self.number:02x}"

    def command(self, source: str) -> tuple[str, ...]:
        """The kernel's command line; it is an ordinary process that ends when the node is switched off.

        Args:
            source: where the running code lies, as the node's host sees it.
        """
        network = f"transport=tap,ifname={self.tap},depth=128,gro=1,mac={self.hardware_address}"
        return (
            KERNEL,
            f"mem={MEMORY}",
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
            f"init={source}/{SCRIPTS}/boot.sh",
            f"modules={MODULES}",
            f"node={self.name}",
            f"address={self.address}",
            f"scripts={source}/{SCRIPTS}",
            "con=null",
            "con0=null,fd:1",
            "con1=null",
            f"umid={self.name}",
            "uml_dir=/run/uml/",
            "quiet",
            f"vec0:{network}",
        )


def folder() -> Path:
    """Where the guests' scripts lie."""
    return Path(__file__).parent
