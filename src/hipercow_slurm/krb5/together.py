"""Several TGTs renewed one after the other by one call into C: no interpreter, and no waiting for its lock, in between.

Rule 1: any thread may look at what is finished, and end the turn: what has not begun then never does.
Rule 2: as in ``renewal.py``: no key stays in the thread's buffer, and what comes out is checked by the same values.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from hipercow_slurm.krb5 import calls, line, renewal
from hipercow_slurm.krb5.lib import MODE, context, ffi
from hipercow_slurm.values import KrbCred


class Finished(NamedTuple):
    """What came of one: ``number`` as they were given, ``seconds`` it took."""

    number: int
    outcome: KrbCred | Exception
    seconds: float


def able(creds: Sequence[KrbCred]) -> bool:
    """True if these can be renewed so: TGTs alone that are still renewable, by the compiled module."""
    now = time.time()
    return MODE == "api" and all(cred.tickets == 1 and cred.times.renew_till > now for cred in creds)


class Together:
    """A turn: ``run`` in the thread that shall do it, the rest in any."""

    def __init__(self, creds: Sequence[KrbCred]) -> None:
        count = len(creds)
        self._creds = creds
        self._turn = ffi.new("hipercow_slurm_turn *", {"count": count})
        self._made = ffi.new("size_t[]", count)
        self._told = ffi.new("int32_t[]", calls.TOLD * count)
        self._took = ffi.new("double[]", count)
        self._lock = threading.Lock()  # of the following, and of what is in the thread's buffer
        self._out = calls.own.scratch.out
        self._seen, self._place = 0, 0
        self._found: list[Finished] = []

    def run(self) -> None:
        """Renew them; blocks. ``finished`` tells what came of it."""
        self._out = calls.own.scratch.out
        octets = [ffi.from_buffer(cred.der) for cred in self._creds]
        data, lengths = ffi.new("char *[]", octets), ffi.new("size_t[]", list(map(len, octets)))
        while self._turn.next < self._turn.count:
            try:
                asking = context()
                kept = line.ready(self._creds[self._turn.done].client)
            except Exception as error:  # the configuration is of no use: that one's turn, and perhaps the next one's
                self._failed(calls.claim(self._turn), error)
                continue
            code = calls.renew_each(
                asking, kept, self._turn, data, lengths, self._out, calls.OUT, self._made, self._told, self._took
            )
            self._emptied()
            if code:
                number = self._turn.failed
                self._failed(number, renewal.refused(self._creds[number], code))

    def finished(self) -> list[Finished]:
        """What came of those that are done, each once."""
        with self._lock:
            self._collect()
            found, self._found = self._found, []
            return found

    def end(self) -> int:
        """No further one begins; how many have."""
        return int(calls.end(self._turn))

    def _emptied(self) -> None:
        """Take what is in the buffer, where it does not stay: there are keys in it."""
        with self._lock:
            self._collect()
            ffi.memmove(self._out, bytes(self._place), self._place)
            self._place = 0

    def _collect(self) -> None:
        done = calls.done(self._turn)
        if done <= self._seen:
            return
        out, told = ffi.buffer(self._out), ffi.unpack(self._told, calls.TOLD * done)
        for number in range(self._seen, done):
            begin, first = self._place, calls.TOLD * number
            self._place += self._made[number]
            octets = out[begin : self._place]
            try:
                outcome: KrbCred | Exception = renewal.taken(
                    self._creds[number].client, octets, told[first : first + calls.TOLD]
                )
            except Exception as error:
                outcome = error
            self._found.append(Finished(number, outcome, self._took[number]))
            self._seen = number + 1

    def _failed(self, number: int, error: Exception) -> None:
        if number >= 0:
            with self._lock:
                self._seen = number + 1
                self._found.append(Finished(number, error, self._took[number]))
