"""Compute nodes with a Linux kernel of their own, as ordinary processes: User-Mode Linux, or a stock Debian kernel in
QEMU. README.md tells how."""

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
# The same for emulated nodes, in place of User-Mode Linux.
EMULATOR = {"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static", "cpio": "cpio"}
EMULATED_MEMORY = "768M"


@dataclass(frozen=True, slots=True)
class Machine:
    """One node: its name, its address with prefix length, and the network device it is plugged into.

    Attributes:
        emulated: a stock Debian kernel in QEMU, without help of the processor's; slow.
    """

    name: str
    address: str
    number: int
    emulated: bool = False

    @property
    def tap(self) -> str:
        """The end of its network cable on the bridge's side."""
        return f"tap-{self.name}"

    @property
    def hardware_address(self) -> str:
        """Locally administered, one per node."""
        return f"02:00:0a:cb:00:{self.number:02x}"

    def command(self, source: str) -> tuple[str, ...]:
        """The command that is the node: an ordinary process that ends when the node is switched off.

        Args:
            source: where the running code lies, as the node's host sees it.
        """
        scripts = f"{source}/{SCRIPTS}"
        if self.emulated:
            more = (self.name, self.address, scripts, self.tap, self.hardware_address, EMULATED_MEMORY)
            return ("/bin/sh", f"{scripts}/emulated.sh", *more)
        network = f"transport=tap,ifname={self.tap},depth=128,gro=1,mac={self.hardware_address}"
        return (
            *("/bin/sh", f"{scripts}/user-mode.sh", scripts, KERNEL),
            f"mem={MEMORY}",
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
            f"init={scripts}/boot.sh",
            f"modules={MODULES}",
            f"node={self.name}",
            f"address={self.address}",
            f"scripts={scripts}",
            "con=null",
            "con0=null,fd:1",
            "con1=null",
            f"umid={self.name}",
            "uml_dir=/run/uml/",
            "ubd0=/run/uml/disk",
            "quiet",
            f"vec0:{network}",
        )


def programs(*, emulated: bool) -> dict[str, str]:
    """A program of each Debian package that nodes of a kind need, and the package's name."""
    if not emulated:
        return PROGRAMS
    return {name: package for name, package in PROGRAMS.items() if name != "linux.uml"} | EMULATOR


def folder() -> Path:
    """Where the guests' scripts lie."""
    return Path(__file__).parent
