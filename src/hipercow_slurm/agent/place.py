"""Where a job's ccache is: one of four kinds, named as libkrb5 names them.

    FILE:/tmp/krb5cc_5001_42                a file; what rpc.gssd looks for
    DIR:/run/user/5001/krb5cc_42            a directory with that file in it
    KEYRING:persistent:5001:42              in the kernel, of the user
    KCM:5001:42                             in a KCM daemon, which goes by the uid of who asks

The first two are files, written by root (``install``). The others belong to who writes them: a child process becomes
the user first (``as_user``). Such a child takes a tenth of a second, so those are looked at every ``LOOK_S`` only.

Everything here blocks.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import PurePosixPath

from hipercow_slurm.agent import install
from hipercow_slurm.errors import UnavailableError

FILES, MEMORIES = ("FILE", "DIR"), ("KEYRING", "KCM")
LOOK_S = 300.0
CHILD_S = 10.0
READ_LIMIT = 1024 * 1024


def split(name: str) -> tuple[str, str]:
    """``DIR:/x`` -> ``DIR``, ``/x``; a path alone is a FILE."""
    if name.startswith("/"):
        return "FILE", name
    kind, _, rest = name.partition(":")
    return kind, rest


def folder_of(name: str) -> str | None:
    """The directory in which the files of a ccache appear; None for those that are no files."""
    kind, rest = split(name)
    return str(PurePosixPath(rest).parent) if kind in FILES else None


class Places:
    """Writes, looks at, reads and removes ccaches of any kind; ``name`` is always the full name."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}  # when a ccache in memory was last known to be there

    def write(self, name: str, content: bytes, *, uid: int, gid: int) -> str | None:
        """``content`` is that of a FILE ccache; returns what was moved aside, if anything.

        Raises:
            UnavailableError: code ``ccache-blocked``: with the reason. Nothing is left behind.
        """
        kind, rest = split(name)
        if kind == "FILE":
            return install.write(rest, content, uid=uid, gid=gid)
        if kind == "DIR":
            return install.write_dir(rest, content, uid=uid, gid=gid)
        done = _child("store", name, uid=uid, gid=gid, given=content)
        if done.returncode:
            raise _blocked(name, done)
        self._seen[name] = time.monotonic()
        return None

    def remove(self, name: str, *, uid: int, gid: int) -> bool:
        """False if nothing of ours was there.

        Raises:
            UnavailableError: as for ``write``.
        """
        kind, rest = split(name)
        if kind == "FILE":
            return install.remove(rest, uid=uid)
        if kind == "DIR":
            return install.remove_dir(rest, uid=uid)
        self._seen.pop(name, None)
        done = _child("remove", name, uid=uid, gid=gid)
        if done.returncode not in (0, 1):
            raise _blocked(name, done)
        return done.returncode == 0

    def present(self, name: str, *, uid: int, gid: int) -> bool:
        """Whether the user's own ccache is there."""
        kind, rest = split(name)
        if kind in FILES:
            return install.present(_file_of(kind, rest), uid=uid)
        if time.monotonic() - self._seen.get(name, float("-inf")) < LOOK_S:
            return True
        if self.read(name, uid=uid, gid=gid) is None:
            return False
        self._seen[name] = time.monotonic()
        return True

    def whole(self, name: str, *, uid: int, gid: int) -> bool:
        """The same, and it was not emptied; takes longer, so not for each step."""
        kind, rest = split(name)
        emptied = kind in FILES and install.destroyed(_file_of(kind, rest), uid=uid)
        return not emptied and self.present(name, uid=uid, gid=gid)

    def read(self, name: str, *, uid: int, gid: int) -> bytes | None:
        """Its content as that of a FILE ccache; None if there is none of the user's."""
        kind, rest = split(name)
        if kind in FILES:
            return install.read(_file_of(kind, rest), uid=uid)
        try:
            done = _child("read", name, uid=uid, gid=gid)
        except UnavailableError:
            return None
        return done.stdout[:READ_LIMIT] if done.returncode == 0 else None


def _file_of(kind: str, rest: str) -> str:
    return rest if kind == "FILE" else f"{rest}/{install.TICKET}"


def _child(
    verb: str, name: str, *, uid: int, gid: int, given: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """``as_user`` as the user; the ticket goes through its standard input, never through its arguments."""
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
    environment |= {key: os.environ[key] for key in ("KRB5_CONFIG",) if key in os.environ}
    try:
        return subprocess.run(
            [sys.executable, "-P", "-m", "hipercow_slurm.agent.as_user", verb, name],
            user=uid,
            group=gid,
            extra_groups=[],
            env=environment,
            input=given if given is not None else b"",
            capture_output=True,
            timeout=CHILD_S,
            cwd="/",
            umask=0o077,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{name} did not answer within {CHILD_S:g} s", code="ccache-blocked") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"cannot become uid {uid} to keep {name}: {error}", code="ccache-blocked") from error


def _blocked(name: str, done: subprocess.CompletedProcess[bytes]) -> UnavailableError:
    words = " ".join(done.stderr.decode(errors="replace").split())[-200:]
    return UnavailableError(f"cannot keep a ccache at {name}: {words or done.returncode}", code="ccache-blocked")
