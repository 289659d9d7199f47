"""The ``[audit]`` table of a configuration file, and the log it means."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from hipercow_slurm.audit.chain import read_key
from hipercow_slurm.audit.log import AuditLog
from hipercow_slurm.errors import ConfigError


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section ``[audit]``; see ``audit.log.AuditLog``.

    Attributes:
        path: the log; None: no audit log.
        key: file with the key that seals its lines; None: a chain without a key.
        sync: ``each``: nobody is answered before the line is on disk; ``interval``: it is there a second later.
        required: refuse what cannot be noted.
    """

    path: str | None = None
    key: str | None = None
    sync: Literal["each", "interval"] = "interval"
    required: bool = True

    def check(self) -> None:
        """Refuse a key file that cannot be read.

        Raises:
            ConfigError: as ``read_key``; a key without a path.
        """
        if self.key is not None:
            if self.path is None:
                raise ConfigError("audit.key is given, but no audit.path")
            read_key(Path(self.key))

    def opened(self, program: str, *, number: int = 0) -> AuditLog | None:
        """The log; of several processes each, by its ``number``, has its own: ``api.audit``, ``api-1.audit``.

        Raises:
            ConfigError, UnavailableError: as ``AuditLog``, and as ``check``.
        """
        self.check()
        if self.path is None:
            return None
        path = Path(self.path)
        if number:
            path = path.with_stem(f"{path.stem}-{number}")
        key = read_key(Path(self.key)) if self.key else None
        return AuditLog(path, program, key=key, sync=self.sync, required=self.required)
