"""Which folder on the nodes a folder on this computer is: the mount table here, and what the operator told the API.

A share has one name per protocol, and people write it in several ways; ``Share`` is what they have in common. Sources
of the formats: mount(8) on Linux and macOS, ``Get-SmbMapping`` of Windows' PowerShell.
"""

from __future__ import annotations

import csv
import os
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hipercow_slurm.client.models import Json, get, objects
from hipercow_slurm.errors import ConfigError

_SMB = re.compile(r"//(?:[^/@]*@)?(?P<host>[^/]+)/(?P<folder>.+)")
_NFS = re.compile(r"\[?(?P<host>[^/\]\s]+)\]?:(?P<folder>/.*)")
_MAC = re.compile(r"(?P<source>.+?) on (?P<target>/.*) \([^()]*\)")
_OCTAL = re.compile(r"\\([0-7]{3})")
_DEADLINE_S = 30


@dataclass(frozen=True, slots=True)
class Share:
    """A folder on a file server; ``folder`` with slashes, none at either end."""

    host: str
    folder: str

    @classmethod
    def parse(cls, text: str) -> Share | None:
        r"""From ``//host/share/folder``, ``\\host\share`` or ``host:/export``; None: it is no share."""
        slashed = text.replace("\\", "/")
        match = _SMB.fullmatch(slashed) or _NFS.fullmatch(slashed)
        return cls(match["host"].lower(), match["folder"].strip("/")) if match else None

    def __str__(self) -> str:
        return f"//{self.host}/{self.folder}"

    def below(self, other: Share) -> PurePosixPath | None:
        """Where this one lies in ``other``; None: elsewhere. A server's short name is the server, too."""
        if not _same_server(self.host, other.host):
            return None
        mine, its = PurePosixPath(self.folder), PurePosixPath(other.folder)
        return mine.relative_to(its) if mine.is_relative_to(its) else None


@dataclass(frozen=True, slots=True)
class Row:
    """A line of what the operator told: a share, and the folder that is it on every node."""

    share: str
    path: str


@dataclass(frozen=True, slots=True)
class Mount:
    """A share and where this computer has it."""

    share: Share
    local: Path


def told(document: Json) -> list[Row]:
    """What ``GET /v1/paths`` answered. Raises ProtocolError "bad-answer"."""
    return [Row(get(row, "share", str), get(row, "path", str)) for row in objects(document, "paths")]


def _same_server(one: str, other: str) -> bool:
    return one == other or (("." not in one or "." not in other) and one.split(".")[0] == other.split(".")[0])


def find(local: Path, mounts: Iterable[Mount], rows: Iterable[Row]) -> tuple[Mount, str]:
    """The mount that ``local`` is on, and the folder that it is on the nodes.

    Raises:
        ConfigError: "no-share": it is on no share; "unknown-share": on one that the operator did not name.
    """
    holding = [mount for mount in mounts if local.is_relative_to(mount.local)]
    if not holding:
        raise ConfigError(
            f"Can't map local directory '{local}' to network path",
            code="no-share",
            hint="hipercow must be initialised in a directory on a network share that the cluster has, too",
        )
    # The innermost mount is the one that is seen; the most exact row wins, whatever the operator's order.
    mount = max(holding, key=lambda one: len(one.local.parts))
    known = [(row, share) for row in rows if (share := Share.parse(row.share))]
    found = [(len(share.folder), row.path, rest) for row, share in known if (rest := mount.share.below(share))]
    if not found:
        raise ConfigError(
            f"The cluster does not know the share '{mount.share}' that '{local}' is on",
            code="unknown-share",
            hint=f"the shares it knows: {', '.join(row.share for row, _ in known) or 'none'}",
        )
    _, path, rest = max(found, key=lambda one: one[0])
    return mount, str(PurePosixPath(path) / rest / PurePosixPath(local.relative_to(mount.local).as_posix()))


def mounts() -> list[Mount]:
    """The network shares that this computer has mounted.

    Raises:
        ConfigError: the system does not say.
    """
    system = platform.system()
    try:
        if system == "Linux":
            return parse_mountinfo(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))
        if system == "Windows":
            return parse_smb_mapping(_run("powershell", "-NoProfile", "-Command", "Get-SmbMapping|ConvertTo-CSV"))
        return parse_mount(_run("mount"))
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"this computer does not tell its network shares: {error}", code="no-share") from error


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, check=True, timeout=_DEADLINE_S, text=True, errors="replace")
    return done.stdout


def parse_mountinfo(text: str) -> list[Mount]:
    """Linux's /proc/self/mountinfo (proc(5)): fields 4 and 5 are folder and target, the source follows `` - ``."""
    found = []
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if dash and len(fields) > 4 and len(tail) > 1 and (share := Share.parse(_unescaped(tail[1]))):
            # A folder of the share that is mounted by itself (bind) is that folder, not the whole.
            inner = _unescaped(fields[3]).strip("/")
            folder = f"{share.folder}/{inner}".strip("/") if inner else share.folder
            found.append(Mount(Share(share.host, folder), Path(_unescaped(fields[4]))))
    return found


def _unescaped(text: str) -> str:
    return os.fsdecode(_OCTAL.sub(lambda match: chr(int(match[1], 8)), text).encode("utf-8", "surrogateescape"))


def parse_mount(text: str) -> list[Mount]:
    """What mount(8) prints on macOS: ``//pat@files/work on /Volumes/work (smbfs, ...)``; spaces of SMB as ``%20``."""
    found = []
    for line in text.splitlines():
        match = _MAC.fullmatch(line)
        if match and (share := Share.parse(re.sub("%20", " ", match["source"]))):
            found.append(Mount(share, Path(match["target"])))
    return found


def parse_smb_mapping(text: str) -> list[Mount]:
    """The CSV of Windows' ``Get-SmbMapping``: the columns LocalPath, RemotePath and Status (only OK counts)."""
    rows = csv.DictReader(line for line in text.splitlines() if line and not line.startswith("#"))
    return [
        Mount(share, Path(f"{row['LocalPath']}/"))
        for row in rows
        if row.get("Status") == "OK" and row.get("LocalPath") and (share := Share.parse(row.get("RemotePath") or ""))
    ]
