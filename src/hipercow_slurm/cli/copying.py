"""What ``cp`` copies: pairs of a path here and a path on the cluster, from patterns and whole directories.

Rule 1: a name that the server tells never leads out of the folder that it is written to.
Rule 2: links are not followed on the cluster (the API refuses), and neither are links to directories here, which can
go in circles.
"""

from __future__ import annotations

import fnmatch
import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hipercow_slurm.cli.common import warn
from hipercow_slurm.client.problems import clean
from hipercow_slurm.client.sync.client import Client
from hipercow_slurm.errors import RequestError


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to copy; ``directory``: with all that is in it."""

    source: str
    to: str
    directory: bool = False


class Cluster:
    """Paths on the cluster, as they are written on the command line."""

    def __init__(self, client: Client) -> None:
        self._client, self._home = client, ""

    def path(self, argument: str) -> str:
        """The absolute path for ``:data`` (in the home directory), ``:/home/alice/data``, ``data``."""
        path = argument.removeprefix(":")
        if not path.startswith("/"):
            self._home = self._home or self._client.whoami().home
            path = posixpath.join(self._home, path) if path else self._home
        return path

    def expanded(self, path: str, *, directories: bool) -> list[str]:
        """The files (and directories) that a pattern in the last part stands for."""
        folder, pattern = posixpath.split(path)
        if not set("*?[") & set(pattern):
            return [path]
        kinds = {"file", "directory"} if directories else {"file"}
        names = [one.name for one in self._client.entries(folder or "/") if one.type in kinds]
        found = sorted(fnmatch.filter(names, pattern))
        if not found:
            raise RequestError(f"no file on the cluster is named :{path}", code="no-such-file", status=404)
        return [posixpath.join(folder, name) for name in found]

    def inside(self, folder: Step) -> Iterator[Step]:
        """What is in a directory on the cluster, to go into the same one here."""
        for entry in sorted(self._client.entries(folder.source), key=lambda one: one.name):
            source = posixpath.join(folder.source, entry.name)
            if Path(entry.name).name != entry.name:  # a backslash or a drive, on Windows
                warn(f":{clean(source)} is skipped: no file can have that name here")
            elif entry.type in ("file", "directory"):
                yield Step(source, str(Path(folder.to, entry.name)), directory=entry.type == "directory")
            else:
                warn(f":{clean(source)} is skipped: it is a {clean(entry.type)}")


def inside_here(folder: Step) -> Iterator[Step]:
    """What is in a folder on this machine, to go into the same one on the cluster. RequestError "no-local-file"."""
    try:
        found = sorted(os.scandir(folder.source), key=lambda one: one.name)
    except OSError as error:
        raise RequestError(f"cannot read {folder.source}: {error.strerror}", code="no-local-file") from error
    for entry in found:
        to = posixpath.join(folder.to, entry.name)
        if entry.is_dir(follow_symlinks=False) or entry.is_file():
            yield Step(entry.path, to, directory=entry.is_dir(follow_symlinks=False))
        else:
            warn(f"{clean(entry.path)} is skipped: it is {'a link to a directory' if entry.is_dir() else 'no file'}")
