"""What a credential store promises; SQLite keeps it now, other databases may later.

Contract, in prose (``tests/unit/test_store.py`` holds it):
- One credential per uid. ``put`` and ``remove`` take a rule that sees what is stored at that instant and decides; rule
  and change are one step, also for two writers of the same uid. A rule may raise: nothing changes and the caller gets
  the exception; nobody else's change is touched.
- When ``put`` or ``remove`` returns, the change survives kill -9 and power loss. When it raises, nothing changed.
- What is stored is encrypted; metadata (``Entry``) is readable without the key, and bound to the ciphertext.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from hipercow_slurm.values import KrbCred, TicketTimes


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a stored credential without opening it.

    Attributes:
        uid: local uid, unsigned 32 bit.
        principal: the credential's client.
        times, tickets, addressless: as in ``KrbCred``.
    """

    uid: int
    principal: str
    times: TicketTimes
    tickets: int = 1
    addressless: bool = True

    @classmethod
    def of(cls, uid: int, cred: KrbCred) -> Entry:
        """The entry a credential will have."""
        return cls(uid, cred.client, cred.times, cred.tickets, cred.addressless)


@dataclass(frozen=True, slots=True)
class Put:
    """What became of a ``put``: ``entry`` is what the store holds now, the new one if ``stored``."""

    stored: bool
    entry: Entry | None


class Sealed(Protocol):
    """A stored credential, still encrypted."""

    @property
    def entry(self) -> Entry:
        """Its metadata."""

    def open(self) -> KrbCred:
        """Decrypt it; InternalError ``store-corrupt`` when it was tampered with."""


PutRule = Callable[[Entry | None, Entry], bool]
RemoveRule = Callable[[Entry], bool]


class Store(Protocol):
    """Credentials by uid. All methods raise UnavailableError ``store-full`` or ``store-failed`` when the disk does."""

    async def put(self, uid: int, cred: KrbCred, rule: PutRule) -> Put:
        """Store ``cred`` if ``rule(old, new)`` says so."""

    async def get(self, uid: int) -> Sealed | None:
        """The credential of ``uid``, or None."""

    async def remove(self, uid: int, rule: RemoveRule) -> Entry | None:
        """Remove the credential of ``uid`` if ``rule(entry)`` says so; returns what was removed."""

    async def entries(self) -> list[Entry]:
        """All entries, by uid."""

    def dump(self) -> Iterator[Sealed]:
        """All credentials as of now, by uid, still encrypted. Blocks: iterate in a thread."""

    async def close(self) -> None:
        """Finish what was accepted, then close."""
