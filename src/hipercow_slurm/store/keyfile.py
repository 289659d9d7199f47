"""Changing a key file: written aside, synced, renamed; a crash leaves the old file or the new one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from hipercow_slurm.errors import ConfigError
from hipercow_slurm.store.disk import sync_directory
from hipercow_slurm.store.envelope import KEY_BYTES, Keys, key_id, line_key, read_key_file


def add_key(path: Path) -> Keys:
    """Put a new random key on the first line; those that are there follow. Returns all of them.

    Raises:
        ConfigError: ``store-key``: the file is not good as it is, or cannot be written.
    """
    read_key_file(path)
    key = os.urandom(KEY_BYTES)
    made = datetime.now(UTC).strftime("%Y-%m-%d")
    _replace(path, f"{key.hex()}  # {key_id(key)}, made {made}\n" + path.read_text(encoding="ascii"))
    return read_key_file(path)


def drop_keys(path: Path, names: Collection[str]) -> Keys:
    """Take the keys with these ids out; the first key always stays. Returns what is left.

    Raises:
        ConfigError: as ``add_key``.
    """
    active = read_key_file(path).active
    kept = []
    for line in path.read_text(encoding="ascii").splitlines(keepends=True):
        key = line_key(line)
        if key is None or key_id(key) == active or key_id(key) not in names:
            kept.append(line)
    _replace(path, "".join(kept))
    return read_key_file(path)


def _replace(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        old = path.stat()
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            os.fchown(handle, old.st_uid, old.st_gid)
            file.write(text)
            file.flush()
            os.fsync(handle)
        aside.rename(path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise ConfigError(f"cannot write the store key {path}: {error}", code="store-key") from error
