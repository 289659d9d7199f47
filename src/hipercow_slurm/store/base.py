"""What a credential store promises; ``sqlite.py`` and ``postgres.py`` keep it.

Contract, in prose (``testing/store_contract.py`` holds both to it):
- One credential per uid. ``put`` and ``remove`` take a rule that sees what is stored at that instant and decides; rule
  and change are one step, also for two writers of the same uid. A rule may raise: nothing changes and the caller gets
  the exception; nobody else's change is touched.
- When ``put`` or ``remove`` returns, the change survives kill -9 and power loss. When it raises, nothing changed.
- What is stored is encrypted; metadata (``Entry``) is readable without the key, and bound to the ciphertext.
- A store whose records the keys do not open is refused at start and not touched. Keys can be changed while records
  come and go; a retired key never seals again, and is retired only when no record needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from hipercow_slurm.values import KrbCred, TicketTimes

if TYPE_CHECKING:
    from hipercow_slurm.store.envelope import Keys


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


@dataclass(frozen=True, slots=True)
class KeyUse:
    """Which keys a store's records need, by key id.

    Attributes:
        records: number of records each key wraps.
        retired: keys that never seal again.
        sealing: keys that a running process seals new records with.
        known: keys that are or were once sealed with, and not retired.
    """

    records: Mapping[str, int]
    retired: frozenset[str]
    sealing: frozenset[str]
    known: frozenset[str]


class Sealed(Protocol):
    """A stored credential, still encrypted."""

    @property
    def entry(self) -> Entry:
        """Its metadata."""

    def open(self) -> KrbCred:
        """Decrypt it; InternalError ``store-corrupt`` when it was tampered with."""


class Snapshot(Protocol):
    """All credentials as of one moment, by uid, however often one looks. Blocks: use it in threads, one at a time."""

    def __iter__(self) -> Iterator[Sealed]: ...

    def close(self) -> None:
        """It holds back what the database would throw away: close it."""


PutRule = Callable[[Entry | None, Entry], bool]
RemoveRule = Callable[[Entry], bool]


class Store(Protocol):
    """Credentials by uid. All methods raise UnavailableError ``store-full`` or ``store-failed`` when the disk does."""

    async def put(self, uid: int, cred: KrbCred, rule: PutRule) -> Put:
        """Store ``cred`` if ``rule(old, new)`` says so."""

    async def put_all(self, creds: Mapping[int, KrbCred], rule: PutRule) -> Mapping[int, Put]:
        """``put`` for each of these, by uid, for less; when it raises, each is stored or not."""

    async def get(self, uid: int) -> Sealed | None:
        """The credential of ``uid``, or None."""

    async def get_all(self, uids: Sequence[int]) -> Mapping[int, Sealed]:
        """``get`` for each of these, by uid, for less; those that are not there are missing. No more than a few."""

    async def remove(self, uid: int, rule: RemoveRule) -> Entry | None:
        """Remove the credential of ``uid`` if ``rule(entry)`` says so; returns what was removed."""

    async def entries(self) -> list[Entry]:
        """All entries, by uid."""

    def dump(self) -> Iterator[Sealed]:
        """All credentials as of now, by uid, still encrypted. Blocks: iterate in a thread."""

    def snapshot(self) -> Snapshot:
        """The same, to be gone through several times. Blocks as ``dump``."""

    async def adopt(self, keys: Keys) -> None:
        """Seal with ``keys`` from now on.

        Raises:
            ConfigError: ``store-key``: a stored record needs another key, or the active one is retired. Then nothing
                has changed.
        """

    async def rewrap(self, limit: int) -> int:
        """Wrap up to ``limit`` records of other keys with the active one; returns how many that were."""

    async def retire(self, key_id: str) -> bool:
        """Never seal with this key again, if no record needs it and nobody seals with it; False if that is not so."""

    async def key_use(self) -> KeyUse:
        """Which keys are needed."""

    async def close(self) -> None:
        """Finish what was accepted, then close."""


@runtime_checkable
class ReadsAtOnce(Protocol):
    """A ``Store`` that is read without waiting for anybody."""

    def get_now(self, uid: int) -> Sealed | None:
        """As ``Store.get``."""
