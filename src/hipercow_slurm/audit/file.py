"""The file under an audit log: opened safely, appended to, left whole after a crash or a full disk.

Rule 1: one writer (flock). Rule 2: every file begins with an ``audit.opened`` line chained to the end of the file
before it. Rule 3: bytes that did not become a line stay where they are, and the next line names their number and
hash, so that a torn line can be told from a broken one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hipercow_slurm.audit import chain
from hipercow_slurm.audit.chain import START, Link
from hipercow_slurm.errors import ConfigError

_TAIL = 4 * chain.MAX_LINE
# Ends what is torn, so that it is no line even if nothing but its newline was missing: nobody was told it was noted.
_TORN_END = b"#"


@dataclass(frozen=True, slots=True)
class Tail:
    """The end of a file: its last good line, and what follows it without being one."""

    last: Link | None
    torn: bytes


class ChainFile:
    """Appends lines to ``path``.

    Args:
        key: seals the lines, or None.
        stamp: the fields every line begins with (time and program).

    Raises:
        ConfigError: the file cannot be opened or locked, is not a regular file, may be written by others, or does
            not end in a line of ours.
        OSError: the opening line cannot be written.
    """

    def __init__(self, path: Path, *, key: bytes | None, stamp: Callable[[], dict[str, Any]]) -> None:
        self._path = path
        self._key = key
        self._stamp = stamp
        self.lost = 0
        self.fd = _open(path)
        try:
            tail = _tail(self.fd, path, key)
            self.last = tail.last or _end_of_older_files(path, key)
            self._torn = tail.torn
            self._write_line({"verb": chain.OPENED, "result": "ok"} | self._told())
        except BaseException:
            os.close(self.fd)
            raise
        _sync_folder(path)

    def append(self, fields: dict[str, Any]) -> Link:
        """Write one line; before it, if there are torn bytes or lost lines to tell of, one that tells of them.

        Raises:
            OSError: not (wholly) written; the chain is good, and appending again later is fine.
        """
        if self._torn or self.lost:
            self._write_line({"verb": chain.RESUMED, "result": "ok"} | self._told())
        return self._write_line(fields)

    def reopen(self) -> None:
        """Go on in a new file if ``path`` was renamed away, else do nothing; on failure stay with the old one.

        Raises:
            ConfigError, OSError: as the constructor.
        """
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self.fd), self._path.stat()):
                return
        new = _open(self._path)
        old, self.fd = self.fd, new
        try:
            tail = _tail(new, self._path, self._key)
            if tail != Tail(None, b""):
                raise ConfigError(f"audit log {self._path} is new to this process but not empty; rotate by rename")
            told, torn, self._torn = self._told(end=b""), self._torn, b""  # the torn bytes are in the old file
            try:
                self._write_line({"verb": chain.OPENED, "result": "ok"} | told)
            except OSError:
                self._torn = torn
                raise
        except BaseException:
            self.fd = old
            os.close(new)
            raise
        try:
            os.fsync(old)
        finally:
            os.close(old)
        _sync_folder(self._path)

    def close(self) -> None:
        os.fsync(self.fd)
        os.close(self.fd)

    def _told(self, end: bytes = _TORN_END) -> dict[str, Any]:
        """What the next line has to tell: bytes that are no line, and decisions that could not be written."""
        told: dict[str, Any] = {"lost": self.lost} if self.lost else {}
        if self._torn:
            torn = self._torn + end
            told |= {"torn_bytes": len(torn), "torn_sha256": chain.hash_of(torn)}
        return told

    def _write_line(self, fields: dict[str, Any]) -> Link:
        line, last = chain.make(self.last, self._stamp() | fields, self._key)
        self._write(_TORN_END + b"\n" + line if self._torn else line)
        self._torn, self.last = b"", last
        self.lost -= fields.get("lost", 0)
        return last

    def _write(self, data: bytes) -> None:
        done = 0
        try:
            while done < len(data):
                done += os.write(self.fd, data[done:])
        except OSError:
            if done:
                self._take_back(data[:done])
            raise

    def _take_back(self, written: bytes) -> None:
        """Undo half a line; where that is not allowed (chattr +a) remember it for the next line to tell."""
        try:
            os.ftruncate(self.fd, os.fstat(self.fd).st_size - len(written))  # nobody else writes to it
        except OSError:
            self._torn += written


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot open the audit log {path}: {error.strerror}") from error
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ConfigError(f"audit log {path} is not a regular file that only its owner may write")
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise ConfigError(f"audit log {path} is already being written by another process") from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def _tail(fd: int, path: Path, key: bytes | None) -> Tail:
    """Find the last line that is whole, and what a crash left after it."""
    size = os.fstat(fd).st_size
    data = os.pread(fd, _TAIL, max(0, size - _TAIL))
    end = len(data)
    while (end := data.rfind(b"\n", 0, end)) >= 0:
        begin = data.rfind(b"\n", 0, end) + 1
        try:
            return Tail(chain.read(data[begin:end], key).link, data[end + 1 :])
        except chain.LineError:
            continue
    if b"\n" not in data and size <= chain.MAX_LINE:  # empty, or a crash in its very first line
        return Tail(None, data)
    raise ConfigError(
        f"audit log {path} does not end in a line that {'this key' if key else 'we'} can check",
        hint=f"keep it as it is, move it to another folder and start again; see: hipercow-slurm audit verify {path}",
    )


def _end_of_older_files(path: Path, key: bytes | None) -> Link:
    """Where the chain goes on in a new file: the highest last line of ``path.*`` and ``path-*``, else its start."""
    ends = [START]
    for older in sorted(path.parent.iterdir()):
        if not older.name.startswith((f"{path.name}.", f"{path.name}-")) or not older.is_file():
            continue
        with contextlib.suppress(OSError, ConfigError):
            fd = os.open(older, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                ends.append(_tail(fd, older, key).last or START)
            finally:
                os.close(fd)
    return max(ends, key=lambda link: link.seq)


def _sync_folder(path: Path) -> None:
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
