"""``python -m hipercow_slurm.testing.sandbox.unit FILE`` becomes the service of a systemd unit, where no systemd runs.

Done as the unit says: its folders, user, groups, capabilities, limits, umask, network (``PrivateNetwork``) and which
part of the file system it can write to (``ProtectSystem=strict``, ``PrivateTmp``). Not done: system call filters, and
what hides parts of /proc and /dev.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import resource
import shlex
import sys
from pathlib import Path

from hipercow_slurm.testing.sandbox import namespaces

_FOLDERS = {"Runtime": "/run", "State": "/var/lib", "Logs": "/var/log"}
_LIMITS = {"LimitNOFILE": resource.RLIMIT_NOFILE, "LimitCORE": resource.RLIMIT_CORE}
_NEVER_CLOSED = ("/proc", "/sys", "/dev")  # ProtectSystem= leaves the kernel's own file systems to other settings


class Unit:
    """The ``[Service]`` section: key -> all its values, in their order."""

    def __init__(self, path: Path) -> None:
        self._values: dict[str, list[str]] = {}
        section = ""
        for line in path.read_text().splitlines():
            if line.startswith("["):
                section = line
            elif section == "[Service]" and "=" in line and not line.startswith("#"):
                key, _, value = line.partition("=")
                self._values.setdefault(key.strip(), []).append(value.strip())

    def all(self, key: str) -> list[str]:
        """Every word of every line of that key."""
        return [word for value in self._values.get(key, ()) for word in shlex.split(value)]

    def last(self, key: str, default: str = "") -> str:
        """The last line of that key."""
        return self._values.get(key, [default])[-1]

    def has(self, key: str) -> bool:
        """Whether it is said at all; an empty value is."""
        return key in self._values


def main(path: Path) -> None:
    """Become it; never returns."""
    unit = Unit(path)
    user = pwd.getpwnam(unit.last("User", "root"))
    group = grp.getgrnam(unit.last("Group")).gr_gid if unit.last("Group") else user.pw_gid
    environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LANG": "C.UTF-8"}
    if user.pw_uid:
        environment |= {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}
    writable = [word.removeprefix("-") for word in unit.all("ReadWritePaths")]
    for kind, base in _FOLDERS.items():
        made = [_folder(f"{base}/{name}", unit, kind, user.pw_uid, group) for name in unit.all(f"{kind}Directory")]
        if made:
            environment[f"{kind.upper()}_DIRECTORY"] = ":".join(made)
        writable += made
    _see_less(unit, [place for place in writable if Path(place).exists()])
    for key, which in _LIMITS.items():
        if unit.has(key):
            hard = resource.getrlimit(which)[1]
            wanted = int(unit.last(key))
            resource.setrlimit(which, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard),) * 2)
    os.umask(int(unit.last("UMask", "0022"), 8))
    os.chdir("/")
    argv = ["/usr/bin/setpriv", *_privileges(unit, user.pw_uid, group), "--", *shlex.split(unit.last("ExecStart"))]
    os.execve(argv[0], argv, environment)


def _folder(path: str, unit: Unit, kind: str, uid: int, gid: int) -> str:
    """What RuntimeDirectory= and its like make: parents as root's, the last one the service's."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).mkdir(exist_ok=True)
    os.chown(path, uid, gid)
    Path(path).chmod(int(unit.last(f"{kind}DirectoryMode", "0755"), 8))
    return path


def _see_less(unit: Unit, writable: list[str]) -> None:
    """A mount namespace in which little can be written to, and a network namespace with nothing in it."""
    if unit.last("PrivateNetwork") == "yes":
        namespaces.unshare(namespaces.NEWNET)
    namespaces.unshare(namespaces.NEWNS)
    namespaces.make_private()
    if unit.last("PrivateTmp") == "yes":
        for place in ("/tmp", "/var/tmp"):
            namespaces.tmpfs(place, "1777")
            writable = [*writable, place]
    if unit.last("ProtectSystem") != "strict":
        return
    for place in writable:
        namespaces.bind(place, place)
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        place = line.split()[4]
        if place in writable or place.startswith(_NEVER_CLOSED):
            continue
        flags = sum(
            bit
            for name, bit in (("nosuid", namespaces.MS_NOSUID), ("nodev", namespaces.MS_NODEV))
            if name in line.split()[5].split(",")
        )
        with contextlib.suppress(FileNotFoundError):  # hidden below another mount
            namespaces.mount("", place, flags=namespaces.MS_REMOUNT | namespaces.MS_BIND | namespaces.MS_RDONLY | flags)


def _privileges(unit: Unit, uid: int, gid: int) -> list[str]:
    """setpriv's words for user, groups and capabilities."""
    words = [f"--reuid={uid}", f"--regid={gid}", "--init-groups"]
    if unit.last("NoNewPrivileges") == "yes":
        words.append("--no-new-privs")
    if unit.has("CapabilityBoundingSet"):
        kept = [f"+{word.removeprefix('CAP_').lower()}" for word in unit.all("CapabilityBoundingSet")]
        words += ["--bounding-set=" + ",".join(["-all", *kept]), "--inh-caps=-all"]
    return words


if __name__ == "__main__":
    main(Path(sys.argv[1]))
