"""Linux namespaces and mounts through libc: what ``unshare``, ``nsenter`` and ``mount`` do, without a process each.

Every function raises OSError with the kernel's errno and the paths it was about.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

NEWNS, NEWUTS, NEWIPC, NEWPID, NEWNET = 0x00020000, 0x04000000, 0x08000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """New namespaces for this process (NEWPID: for its next children)."""
    _check(_libc.unshare(flags), f"unshare {flags:#x}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    _check(
        _libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, data.encode() or None),
        f"mount {kind or 'bind'} {source} on {target}",
    )


def bind(source: str | int, target: str, *, readonly: bool = False) -> None:
    """Bind mount a folder or file; ``source`` may be an open descriptor of one that is hidden by now."""
    path = f"/proc/self/fd/{source}" if isinstance(source, int) else source
    mount(path, target, flags=MS_BIND)
    if readonly:
        mount("", target, flags=MS_REMOUNT | MS_BIND | MS_RDONLY)


def tmpfs(target: str, mode: str) -> None:
    """An empty tmpfs with the given octal mode."""
    mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, f"mode={mode}")


def make_private() -> None:
    """No mount made from here on is seen by any other mount namespace."""
    mount("none", "/", flags=MS_REC | MS_PRIVATE)


def hold(path: str | Path) -> int:
    """A descriptor that keeps naming ``path`` whatever is mounted over it later."""
    return os.open(path, os.O_PATH | os.O_CLOEXEC)


@contextmanager
def children_in_pid_namespace(pid: int) -> Iterator[None]:
    """Processes this thread starts meanwhile become members of the pid namespace of ``pid``.

    ``nsenter --pid`` would put a process of its own in between, which swallows signals and hides the real pid.
    """
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        other = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(other, NEWPID), f"enter the pid namespace of {pid}")
        finally:
            os.close(other)
        try:
            yield
        finally:
            _check(_libc.setns(own, NEWPID), "return to the own pid namespace")
    finally:
        os.close(own)


def network_up(*addresses: str) -> None:
    """Bring up the loopback device of this network namespace and give it ``addresses`` (with prefix length)."""
    siocgifflags, siocsifflags, iff_up = 0x8913, 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(sock, siocgifflags, request))[1]
        fcntl.ioctl(sock, siocsifflags, struct.pack("16sh14x", b"lo", flags | iff_up))
    for address in addresses:
        subprocess.run(["ip", "address", "add", address, "dev", "lo"], check=True)


def bridge_up(addresses: list[str], taps: list[str]) -> None:
    """A bridge with ``addresses`` (with prefix length; the first is what others see) and a tap device per name."""
    lines = ["link add bridge0 type bridge", "link set bridge0 up"]
    lines += [f"address add {address} dev bridge0" for address in addresses]
    for tap in taps:
        lines += [f"tuntap add dev {tap} mode tap", f"link set {tap} master bridge0", f"link set {tap} up"]
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


@dataclass(frozen=True, slots=True)
class HostNamespaces:
    """Open descriptors of one host's mount and UTS namespaces; they keep the namespaces alive."""

    mount: int
    uts: int


def make_host(name: str, furnish: Callable[[], None]) -> HostNamespaces:
    """New mount and UTS namespaces named ``name`` in which ``furnish()`` has made its mounts.

    A child makes them and ends: the descriptors are all that is left of it, so an idle host costs no process.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _furnish_and_wait(name, furnish, theirs)
    theirs.close()
    with ours:
        problem = ours.recv(4096).decode(errors="replace")
        if problem != "ok":
            os.waitpid(pid, 0)
            raise OSError(f"host {name}: {problem or 'the process that sets it up died'}")
        made = HostNamespaces(
            mount=os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC),
            uts=os.open(f"/proc/{pid}/ns/uts", os.O_RDONLY | os.O_CLOEXEC),
        )
    os.waitpid(pid, 0)
    return made


def _furnish_and_wait(name: str, furnish: Callable[[], None], parent: socket.socket) -> NoReturn:
    """The child of make_host: never returns, and lives until the parent has opened its namespaces."""
    try:
        unshare(NEWNS | NEWUTS)
        socket.sethostname(name)
        furnish()
        parent.sendall(b"ok")
    except BaseException as error:
        parent.sendall(str(error).encode()[:4000] or b"failed")
    parent.recv(1)  # end of file: the parent has what it wanted
    os._exit(0)
