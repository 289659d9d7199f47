"""The uploader's note to the SPANK plugin: this ccache was handed over; until it changes, nothing needs to be run.

One line in a file of the user's own, read by ``spank/stamp.c`` (which needs no Python for it):

    1 UNTIL MTIME_S MTIME_NS SIZE INODE KRB5CCNAME|- PATH

It names the ccache by what its user set, and describes the file by what changes with every kinit. A wrong or missing
note costs time; it is never a reason not to look, and only its owner can write it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from hipercow_slurm.errors import Error
from hipercow_slurm.krb5 import ccache as ccaches
from hipercow_slurm.values import KrbCred

SPARE_S = 60  # a ticket about to end is not worth a note


@dataclass(frozen=True, slots=True)
class Seen:
    """The user's ccache as a file: its place and what it looked like before it was read."""

    path: str
    environment: str
    found: os.stat_result


def look() -> Seen | None:
    """The user's default ccache if it is a FILE; None: of another type, or no note can be made of it."""
    given = os.environ.get("KRB5CCNAME", "")
    path = given.removeprefix("FILE:") or f"/tmp/krb5cc_{os.getuid()}"  # noqa: S108  libkrb5's default
    if not path.startswith("/") or any(c.isspace() for c in path + given) or len(path + given) > 700:
        return None
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return Seen(path, given or "-", found) if found.st_uid == os.getuid() and stat.S_ISREG(found.st_mode) else None


def leave(seen: Seen, cred: KrbCred, fresh_s: int) -> bool:
    """Note that ``cred`` of the ccache ``seen`` was handed over; False if that cannot be said for sure."""
    now = time.time()
    with contextlib.suppress(OSError, Error):
        if cred.times.endtime < now + fresh_s + SPARE_S or not _unchanged(seen):
            return False
        # krb5.conf may name another default than the file we looked at
        if seen.environment == "-" and ccaches.read_tgt(f"FILE:{seen.path}").der != cred.der:
            return False
        found = seen.found
        seconds, rest = divmod(found.st_mtime_ns, 10**9)
        until = int(now) + fresh_s
        line = f"1 {until} {seconds} {rest} {found.st_size} {found.st_ino} {seen.environment} {seen.path}\n"
        _write(place(), line.encode())
        return True
    return False


def place() -> Path:
    """Where the note is: in the user's runtime folder, or in /tmp on machines without."""
    uid = os.getuid()
    runtime = Path(f"/run/user/{uid}")
    with contextlib.suppress(OSError):
        found = runtime.stat()
        if found.st_uid == uid and not found.st_mode & 0o022:
            return runtime / "hipercow-slurm.uploaded"
    return Path(f"/tmp/.hipercow-slurm.uploaded.{uid}")  # noqa: S108  read only if it is the user's own


def _unchanged(seen: Seen) -> bool:
    then, now = seen.found, os.stat(seen.path)  # noqa: PTH116
    return (then.st_mtime_ns, then.st_size, then.st_ino) == (now.st_mtime_ns, now.st_size, now.st_ino)


def _write(path: Path, content: bytes) -> None:
    """Aside and renamed; a file of somebody else's in its place stays, and that is an OSError."""
    aside = path.with_name(f".hipercow-slurm-{secrets.token_hex(8)}")
    file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, content)
        aside.rename(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    finally:
        os.close(file)
