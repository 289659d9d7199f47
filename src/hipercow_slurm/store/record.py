"""A stored record as both databases have it: ten columns, the first seven an Entry, the other three a Box."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hipercow_slurm.errors import ConfigError
from hipercow_slurm.store.base import Entry, KeyUse
from hipercow_slurm.store.envelope import Box, Keys
from hipercow_slurm.values import KrbCred, TicketTimes


@dataclass(frozen=True, slots=True)
class SealedRow:
    """A row, decrypted on demand."""

    entry: Entry
    _box: Box
    _keys: Keys

    def open(self) -> KrbCred:
        """Decrypt it."""
        entry = self.entry
        data = self._keys.open(entry, self._box)
        return KrbCred(data, entry.principal, entry.times, entry.tickets, entry.addressless)


def columns(entry: Entry) -> tuple[Any, ...]:
    """The first seven columns."""
    t = entry.times
    return (entry.uid, entry.principal, t.starttime, t.endtime, t.renew_till, entry.tickets, entry.addressless)


def entry_of(row: Any) -> Entry:
    """The Entry in a row that begins with the first seven columns."""
    return Entry(row[0], row[1], TicketTimes(row[2], row[3], row[4]), row[5], bool(row[6]))


def check_keys(where: str, use: KeyUse, keys: Keys) -> None:
    """Refuse keys that do not open every record, or whose first one has been retired.

    Raises:
        ConfigError: ``store-key``.
    """
    unknown = sorted(name for name in use.records if name not in keys)
    if unknown:
        raise ConfigError(
            f"{where} holds credentials sealed with key {', '.join(unknown)}, which is not in the key file",
            code="store-key",
            hint="put the key that made them on a further line of the key file; nothing was changed",
        )
    if keys.active in use.retired:
        raise ConfigError(
            f"the first key of the key file, {keys.active}, has been retired in {where}",
            code="store-key",
            hint="put the key that took its place on the first line of the key file; nothing was changed",
        )
