"""A dump: every credential in one reply, read, encoded and sent some hundred at a time.

Its length comes first on the wire, so the store is gone through twice, in one snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hipercow_slurm import log
from hipercow_slurm.errors import Error
from hipercow_slurm.store.base import Snapshot, Store
from hipercow_slurm.wire.messages import DumpOut
from hipercow_slurm.wire.records import MAX_CRED, Record

PIECE = 256 * 1024  # bytes made at once


@dataclass(frozen=True, slots=True)
class Dump(DumpOut):
    """A dump to be sent; ``close`` it then, in a thread, as its records are read in one."""

    close: Callable[[], None] = field(repr=False)


def slack(length: int) -> int:
    """Field size in a reply: a stock client that renews in place fails if the new ticket does not fit.

    Renewal changes times, not names: it adds a few bytes. Every kilobyte here is encrypted for every GET.
    """
    return min(MAX_CRED, length + 512)


def measure(store: Store) -> Dump:
    """A dump of all that is stored now. Blocks: run it in a thread.

    Each record is opened to know its length, and once more to be sent; one that does not open is logged and left out.
    """
    snapshot = store.snapshot()
    left_out: set[int] = set()
    count = octets = 0
    try:
        for sealed in snapshot:
            try:
                octets += Record.size(slack(len(sealed.open().der)))
                count += 1
            except Error as error:
                log.get().error("store.corrupt", uid=sealed.entry.uid, why=error.message)
                left_out.add(sealed.entry.uid)
    except BaseException:
        snapshot.close()
        raise
    return Dump(count, octets, _records(snapshot, left_out), snapshot.close)


def _records(snapshot: Snapshot, left_out: set[int]) -> Iterator[bytes]:
    """The records, encoded, in pieces."""
    pieces: list[bytes] = []
    size = 0
    for sealed in snapshot:
        uid = sealed.entry.uid
        if uid in left_out:
            continue
        cred = sealed.open()
        pieces.append(Record.of(uid, cred, slack(len(cred.der))).encode())
        size += len(pieces[-1])
        if size >= PIECE:
            yield b"".join(pieces)
            pieces, size = [], 0
    yield b"".join(pieces)
