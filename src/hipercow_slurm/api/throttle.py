"""Failed logins cost tokens: a bucket per user and one per address, in memory, refilled with time.

Rule 1: the token is taken before the password is checked and given back when the check did not fail, so parallel
guesses cannot overrun the bucket. Rule 2: an address from which this user has logged in before has a bucket of its
own for that user, so a stranger who burns alice's bucket does not lock alice out. Time is an argument.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

from hipercow_slurm.api.config import Limits
from hipercow_slurm.api.problems import ThrottledError

_KEPT = 10_000  # buckets and known pairs; the oldest are forgotten first


@dataclass
class Buckets:
    """Token buckets by key: ``burst`` at once, then one more every ``refill_s`` seconds."""

    burst: int
    refill_s: float
    _levels: OrderedDict[Hashable, tuple[float, float]] = field(default_factory=OrderedDict)

    def take(self, key: Hashable, now: float) -> float:
        """Take one token; 0 on success, else the seconds until there is one."""
        level = self._level(key, now)
        if level < 1:
            return (1 - level) * self.refill_s
        self._keep(key, level - 1, now)
        return 0.0

    def give_back(self, key: Hashable, now: float) -> None:
        self._keep(key, self._level(key, now) + 1, now)

    def fill(self, key: Hashable) -> None:
        self._levels.pop(key, None)

    def _level(self, key: Hashable, now: float) -> float:
        level, at = self._levels.get(key, (float(self.burst), now))
        return min(float(self.burst), level + (now - at) / self.refill_s)

    def _keep(self, key: Hashable, level: float, now: float) -> None:
        self._levels.pop(key, None)
        if level < self.burst:
            self._levels[key] = (level, now)
        while len(self._levels) > _KEPT:
            self._levels.popitem(last=False)


class LoginThrottle:
    """Decides whether a login may be tried now; ``charge``, then exactly one of ``failed/succeeded/undecided``."""

    def __init__(self, limits: Limits) -> None:
        self._users = Buckets(limits.failures_per_user, limits.failure_user_refill_s)
        self._addresses = Buckets(limits.failures_per_address, limits.failure_address_refill_s)
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()

    def charge(self, principal: str, address: str, now: float) -> None:
        """Take a token from both buckets.

        Raises:
            ThrottledError: one of them is empty (code ``too-many-failures``); nothing was taken.
        """
        user, network = self._keys(principal, address)
        wait = self._addresses.take(network, now)
        if not wait:
            wait = self._users.take(user, now)
            if not wait:
                return
            self._addresses.give_back(network, now)
        raise ThrottledError(
            "too many failed logins", code="too-many-failures", retry_after_s=wait, hint="wait, then try again"
        )

    def charge_address(self, address: str, now: float) -> None:
        """Take a token from the address's bucket alone, where the user is not known yet.

        Raises:
            ThrottledError: it is empty (code ``too-many-failures``).
        """
        wait = self._addresses.take(network_of(address), now)
        if wait:
            raise ThrottledError(
                "too many failed logins", code="too-many-failures", retry_after_s=wait, hint="wait, then try again"
            )

    def excuse_address(self, address: str, now: float) -> None:
        """It was no failed login: the token comes back."""
        self._addresses.give_back(network_of(address), now)

    def undecided(self, principal: str, address: str, now: float) -> None:
        """The password was not judged (KDC down, say): the tokens come back."""
        user, network = self._keys(principal, address)
        self._users.give_back(user, now)
        self._addresses.give_back(network, now)

    def succeeded(self, principal: str, address: str, now: float) -> None:
        """The password was right: the user's bucket is full again, and the address is one of the user's."""
        user, network = self._keys(principal, address)
        self._users.fill(user)
        self._addresses.give_back(network, now)
        self._known[principal, network] = None
        self._known.move_to_end((principal, network))
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)

    def _keys(self, principal: str, address: str) -> tuple[Hashable, str]:
        network = network_of(address)
        return ((principal, network) if (principal, network) in self._known else principal), network


def network_of(address: str) -> str:
    """What counts as one address: an IPv4 address, or an IPv6 /64 (one customer has 2**64 of those)."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
