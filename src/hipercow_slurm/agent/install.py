"""Writing and removing a job's ccache as root, in a directory where everybody may write: a FILE, or the FILE in a DIR.

The file is complete or absent at every instant, belongs to the user from its first byte, and nobody else can read
it or get at another file through it:

Rule 1: the directory is opened once, component by component and never through a symlink, and every step after
that is relative to it. It must belong to root or to the user; if others may write to it, it must be sticky.
Rule 2: written under a random name without ``krb5cc`` in it (rpc.gssd takes any file whose name contains that),
created with O_EXCL, then renamed. A rename replaces a symlink or another user's file without touching what it is or
points to. Only a directory can stand in its way; it is moved aside.
Rule 3: removed only if it is a regular file of the user's or root's.
Rule 4: no fsync. After a power loss the file must go anyway, and what is needed for that is in the agent's state.
Rule 5: a missing directory whose name is the uid, below one that only root can write to, is made, for the user alone,
and goes when it is empty. No other is made here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator

from hipercow_slurm.errors import UnavailableError

ASIDE = ".hipercow-slurm-"
READ_LIMIT = 1024 * 1024
TICKET, PRIMARY = "tkt", "primary"  # in a DIR ccache: the cache, and a file with the name of the cache that counts


def write(path: str, content: bytes, *, uid: int, gid: int) -> str | None:
    """Put ``content`` at ``path``, mode 0600, owned by ``uid``; returns the name of what was moved aside, if anything.

    Raises:
        UnavailableError: code ``ccache-blocked``; the message names the path and the reason. Nothing is left behind.
    """
    with explained(path), directory(path, uid, make_for=gid) as (folder, name):
        aside = aside_name()
        moved = None
        file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
        try:
            os.fchmod(file, 0o600)
            os.fchown(file, uid, gid)
            _write_all(file, content)
            moved = _rename_over(folder, aside, name)
            _verify(file, folder, name)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside, dir_fd=folder)
            raise
        finally:
            os.close(file)
        return moved


def remove(path: str, *, uid: int) -> bool:
    """Remove the ccache at ``path``; False if nothing of ours (rule 3), or not even its directory, is there.

    Raises:
        UnavailableError: code ``ccache-blocked``, as for ``write``.
    """
    found = False
    with explained(path), contextlib.suppress(FileNotFoundError), directory(path, uid) as (folder, name):
        if _ours(folder, name, uid):
            os.unlink(name, dir_fd=folder)
            found = True
    _remove_empty(path, uid)
    return found


def write_dir(path: str, content: bytes, *, uid: int, gid: int) -> str | None:
    """The same for a DIR ccache at ``path``; the directory appears with the ticket in it."""
    with explained(path), directory(path, uid, make_for=gid) as (folder, name):
        if not _own_directory(folder, name, uid):
            return _new_dir(folder, name, content, uid, gid)
    if not present(f"{path}/{PRIMARY}", uid=uid):
        write(f"{path}/{PRIMARY}", f"{TICKET}\n".encode(), uid=uid, gid=gid)
    return write(f"{path}/{TICKET}", content, uid=uid, gid=gid)


def remove_dir(path: str, *, uid: int) -> bool:
    """Remove the caches in the DIR ccache at ``path``, and the directory if the user has put nothing else into it."""
    found = False
    with explained(path), contextlib.suppress(FileNotFoundError), directory(f"{path}/.", uid) as (folder, _):
        for name in _names(folder):
            if name == PRIMARY or name.startswith((TICKET, ASIDE)):
                with contextlib.suppress(OSError):  # a directory of that name: no ticket
                    os.unlink(name, dir_fd=folder)
                    found = True
    with contextlib.suppress(OSError), directory(path, uid) as (folder, name):
        os.rmdir(name, dir_fd=folder)
    _remove_empty(path, uid)
    return found


def make_folder(path: str) -> None:
    """The fixed part of a configured place, for the agent's start: made if only its last directory is missing and
    only root can write where it is to be. A folder that cannot be made is the trouble of the first ticket."""
    with contextlib.suppress(OSError), directory(path, 0) as (folder, name):
        if _roots_alone(os.fstat(folder)):
            os.mkdir(name, 0o700, dir_fd=folder)
            os.chmod(name, 0o755, dir_fd=folder)  # noqa: S103  root alone may write here, and the umask took it


def present(path: str, *, uid: int) -> bool:
    """Whether a regular file of the user's is at ``path``."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_uid == uid


def destroyed(path: str, *, uid: int) -> bool:
    """Whether a file of the user's is full of zeros: what ``kdestroy`` leaves of a ccache that it found by a link."""
    return read(path, uid=uid, limit=1) == b"\0"


def read(path: str, *, uid: int, limit: int = READ_LIMIT) -> bytes | None:
    """What is in the user's own regular file at ``path``; None if there is no such. Whatever else it is is not read:
    what root reads here may be renewed and handed to this user."""
    with contextlib.suppress(OSError), directory(path, uid) as (folder, name):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(name, flags, dir_fd=folder), "rb") as file:
            found = os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode) and found.st_uid == uid:
                return file.read(limit)
    return None


def sweep(directory: str) -> int:
    """Remove what a killed agent left half-written in ``directory``; how many files that was."""
    count = 0
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.startswith(ASIDE):
                with contextlib.suppress(OSError, UnavailableError):
                    if entry.is_dir(follow_symlinks=False):
                        remove_dir(entry.path, uid=entry.stat(follow_symlinks=False).st_uid)
                    else:
                        os.unlink(entry.path)  # noqa: PTH108
                    count += 1
    return count


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """The one place where the system's word becomes ours."""
    try:
        yield
    except OSError as error:
        raise UnavailableError(
            f"cannot keep a ccache at {path}: {error.strerror or error}", code="ccache-blocked"
        ) from error


@contextlib.contextmanager
def directory(path: str, uid: int, *, make_for: int | None = None) -> Iterator[tuple[int, str]]:
    """Rule 1: a descriptor of the directory of ``path``, and the name inside it. With ``make_for``, a gid: rule 5."""
    *parts, name = path.strip("/").split("/")
    folder = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts:
            inner = _enter(folder, part, uid, make_for)
            os.close(folder)
            folder = inner
            _check_directory(os.fstat(folder), part, uid)
        yield folder, name
    finally:
        os.close(folder)


def _enter(folder: int, part: str, uid: int, gid: int | None) -> int:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(part, flags, dir_fd=folder)
    except FileNotFoundError:
        if gid is None or part != str(uid) or not _roots_alone(os.fstat(folder)):
            raise
    os.mkdir(part, 0o700, dir_fd=folder)
    os.chown(part, uid, gid, dir_fd=folder, follow_symlinks=False)
    return os.open(part, flags, dir_fd=folder)


def _remove_empty(path: str, uid: int) -> None:
    """Rule 5's end: what was made there goes with the last ticket; a mount point of logind's stays (EBUSY)."""
    parent, _, _ = path.rpartition("/")
    if parent.rpartition("/")[2] == str(uid):
        with contextlib.suppress(OSError), directory(parent, uid) as (folder, name):
            if _roots_alone(os.fstat(folder)):
                os.rmdir(name, dir_fd=folder)


def _roots_alone(found: os.stat_result) -> bool:
    return found.st_uid == 0 and not found.st_mode & 0o022


def _check_directory(found: os.stat_result, part: str, uid: int) -> None:
    if found.st_uid not in (0, uid):
        raise OSError(f"directory {part!r} belongs to uid {found.st_uid}")
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        raise OSError(f"others may rename files in directory {part!r} (mode {stat.S_IMODE(found.st_mode):04o})")


def _own_directory(folder: int, name: str, uid: int) -> bool:
    """Whether the user's own directory, closed to others, is there already."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not found.st_mode & 0o077


def _new_dir(folder: int, name: str, content: bytes, uid: int, gid: int) -> str | None:
    aside = aside_name()
    os.mkdir(aside, 0o700, dir_fd=folder)
    inner = os.open(aside, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        for one, text in ((PRIMARY, f"{TICKET}\n".encode()), (TICKET, content)):
            file = os.open(one, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=inner)
            try:
                os.fchmod(file, 0o600)
                os.fchown(file, uid, gid)
                _write_all(file, text)
            finally:
                os.close(file)
        os.fchown(inner, uid, gid)
        return _rename_over(folder, aside, name)
    except BaseException:
        for one in (PRIMARY, TICKET):
            with contextlib.suppress(OSError):
                os.unlink(one, dir_fd=inner)
        with contextlib.suppress(OSError):
            os.rmdir(aside, dir_fd=folder)
        raise
    finally:
        os.close(inner)


def _names(folder: int) -> list[str]:
    readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.listdir(readable)  # noqa: PTH208  of a descriptor
    finally:
        os.close(readable)


def aside_name() -> str:
    return f"{ASIDE}{secrets.token_hex(8)}"


def _write_all(file: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]


def _rename_over(folder: int, aside: str, name: str) -> str | None:
    """Rule 2. Somebody who makes a directory of a coming job's name (or, where that is to be a directory, anything)
    must not be able to keep its ticket away."""
    try:
        os.rename(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST):
            raise
        moved = f"hipercow-slurm-squatter-{secrets.token_hex(8)}"
        os.rename(name, moved, src_dir_fd=folder, dst_dir_fd=folder)
        os.rename(aside, name, src_dir_fd=folder, dst_dir_fd=folder)
        return moved
    return None


def _verify(file: int, folder: int, name: str) -> None:
    """What is there now is what we wrote (the user may rename own files in a sticky directory at any time)."""
    ours, there = os.fstat(file), os.stat(name, dir_fd=folder, follow_symlinks=False)
    if (ours.st_dev, ours.st_ino) != (there.st_dev, there.st_ino):
        raise OSError("it was replaced while it was being written")


def _ours(folder: int, name: str, uid: int) -> bool:
    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    return stat.S_ISREG(found.st_mode) and found.st_uid in (0, uid)
