"""The credentials that were stored or asked for last, opened: when a job starts, each of its nodes asks for the same.

In memory as plain as they are on their way to each of those nodes; the key that opens all of them is there as well.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from hipercow_slurm.store.base import Entry
from hipercow_slurm.values import KrbCred

# Some 18 000 usual ones. More of them asked for in turn, and each is opened anew: 0.03 to 0.05 ms in place of nothing.
LIMIT_BYTES = 24 * 1024 * 1024
_EACH_BYTES = 600  # of objects around a ticket


@dataclass(frozen=True, slots=True)
class Opened:
    """A ``Sealed`` that was opened before."""

    entry: Entry
    cred: KrbCred

    def open(self) -> KrbCred:
        """What is in it."""
        return self.cred


class Recent:
    """Opened credentials by uid; the ones longest in it make room. One event loop's.

    Args:
        limit_bytes: how much it may hold.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._bytes = 0
        # Of a plain dict the first key is slow to find: those dropped before it are stepped over.
        self._known: OrderedDict[int, Opened] = OrderedDict()
        self.get = self._known.get

    def __len__(self) -> int:
        return len(self._known)

    def put(self, uid: int, opened: Opened) -> None:
        """Hold this one, in place of what was held for ``uid``."""
        self.drop(uid)
        self._known[uid] = opened
        self._bytes += _size(opened)
        while self._bytes > self._limit_bytes:
            self._bytes -= _size(self._known.popitem(last=False)[1])

    def refresh(self, uid: int, opened: Opened) -> None:
        """Hold this one if there is one to be replaced."""
        if uid in self._known:
            self.put(uid, opened)

    def drop(self, uid: int) -> None:
        """Hold nothing for ``uid``."""
        known = self._known.pop(uid, None)
        if known is not None:
            self._bytes -= _size(known)

    def clear(self) -> None:
        """Hold nothing."""
        self._known.clear()
        self._bytes = 0


def _size(opened: Opened) -> int:
    return _EACH_BYTES + len(opened.cred.der)
