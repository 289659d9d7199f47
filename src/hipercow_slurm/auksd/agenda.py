"""When each credential is next looked at: pure arithmetic, and a heap of due times.

A credential is renewed at about half its life, at a moment of its own so that those stored together do not come due
together; after a failure it is tried again, ever more slowly, until it has really expired; then it is dropped.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from hipercow_slurm.values import TicketTimes

SHORTEST_WAIT_S = 0.25
LAST_TRY_S = 0.2  # before endtime


class Act(Enum):
    """What to do when the time has come."""

    RENEW = "renew"
    DROP = "drop"


@dataclass(frozen=True, slots=True)
class Timing:
    """How renewal is spread; fractions are of a ticket's life.

    Attributes:
        at: when to renew.
        jitter: up to this much earlier or later.
        margin_s: never later than this before endtime (a fifth of its life for short tickets).
        retry_first_s, retry_max_s: wait after the first failure, and the longest wait.
    """

    at: float = 0.5
    jitter: float = 0.1
    margin_s: float = 60.0
    retry_first_s: float = 1.0
    retry_max_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """One action at one time (seconds since 1970).

    Attributes:
        endtime: of the credential, as far as it is known.
    """

    act: Act
    at: float
    endtime: int = field(default=0, compare=False)

    def urgency(self, now: float) -> int:
        """Less is more urgent: one more for twice the time to ``endtime``."""
        return max(0, int(self.endtime - now)).bit_length()


def plan(times: TicketTimes, timing: Timing, spread: float) -> Plan:
    """What comes next for a credential with these times.

    Args:
        spread: random, -1 to 1.
    """
    endtime = times.endtime
    if times.renew_till <= endtime:  # not renewable, or nothing left to gain
        return Plan(Act.DROP, endtime, endtime)
    return Plan(Act.RENEW, _when(times, timing, spread), endtime)


def earliest(times: TicketTimes, timing: Timing) -> float:
    """The earliest time that ``plan`` may say."""
    return times.endtime if times.renew_till <= times.endtime else _when(times, timing, -1.0)


def _when(times: TicketTimes, timing: Timing, spread: float) -> float:
    life = times.endtime - times.starttime
    latest = times.endtime - min(timing.margin_s, life / 5)
    return min(times.starttime + life * (timing.at + timing.jitter * spread), latest)


def plan_retry(times: TicketTimes, timing: Timing, spread: float, *, failures: int, now: float) -> Plan:
    """What comes next after the ``failures``-th failure in a row.

    The wait doubles, but some tries always fit into whatever life is left, and one is made right before the end.
    """
    left = times.endtime - now
    if left <= SHORTEST_WAIT_S:
        return Plan(Act.DROP, times.endtime, times.endtime)
    doubled = timing.retry_first_s * 2 ** min(failures - 1, 20)
    wait = min(doubled, timing.retry_max_s, max(SHORTEST_WAIT_S, left / 4)) * (1 + 0.2 * spread)
    return Plan(Act.RENEW, min(now + wait, times.endtime - LAST_TRY_S), times.endtime)


class Agenda:
    """One plan per uid, given back in order of time."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int]] = []  # at, uid, number
        self._current: dict[int, tuple[int, Plan]] = {}  # a heap entry with an older number is void
        self._number = 0

    def __len__(self) -> int:
        return len(self._current)

    def set(self, uid: int, plan: Plan) -> None:
        """Put ``plan`` in place of whatever was planned for ``uid``."""
        self._number += 1
        self._current[uid] = (self._number, plan)
        heapq.heappush(self._heap, (plan.at, uid, self._number))
        if len(self._heap) > 2 * len(self._current) + 1000:
            self._heap = [(plan.at, uid, number) for uid, (number, plan) in self._current.items()]
            heapq.heapify(self._heap)

    def discard(self, uid: int) -> None:
        """Plan nothing for ``uid``."""
        self._current.pop(uid, None)

    def next_at(self) -> float | None:
        """Time of the earliest plan."""
        while self._heap:
            at, uid, number = self._heap[0]
            if self._is_current(uid, number):
                return at
            heapq.heappop(self._heap)
        return None

    def due(self, now: float) -> Iterator[tuple[int, Plan]]:
        """Take out everything whose time has come, earliest first."""
        while (at := self.next_at()) is not None and at <= now:
            _, uid, _ = heapq.heappop(self._heap)
            yield uid, self._current.pop(uid)[1]

    def _is_current(self, uid: int, number: int) -> bool:
        found = self._current.get(uid)
        return found is not None and found[0] == number
