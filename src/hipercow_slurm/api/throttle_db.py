"""The throttle's tables: how many guesses are left to a user or an address, and from where users have logged in.

Kept where the sessions are, so that all API processes of a site count together. Functions return the work for
``Database.run``; times are arguments, in epoch seconds. Buckets are locked address first, then user, by everybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hipercow_slurm.api.database import Act, Transaction

UNDECIDED_S = 60.0  # a try whose verdict has not come by then never comes: its process is gone
KNOWN_S = 180 * 86400
KEPT = 100_000  # buckets; of more, those that were touched longest ago go

Outcome = Literal["failed", "succeeded", "undecided"]


@dataclass(frozen=True, slots=True)
class Rule:
    """A bucket of ``burst`` tokens, and how they come back.

    Attributes:
        refill_s: one more every so many seconds; with ``quiet``: all of them, so many seconds after the last try. That
            is how a KDC forgets failures. Tokens that came back one by one would let a patient guesser fill the KDC's
            count, which goes on as long as no pause is long enough.
        spare: tokens that must be left for others when one is taken.
    """

    name: str
    burst: int
    refill_s: float
    quiet: bool = False
    spare: int = 0

    def filled(self, tokens: float, at: float, now: float) -> tuple[float, float]:
        """What is in it now, and since when time counts."""
        if not self.quiet:
            return min(float(self.burst), tokens + max(0.0, now - at) / self.refill_s), now
        return (float(self.burst), now) if now - at > self.refill_s else (min(float(self.burst), tokens), at)

    def wait_s(self, level: Level, now: float) -> float:
        """Seconds until there may be one to take."""
        return level.at + self.refill_s - now if self.quiet else (self.spare + 1 - level.tokens) * self.refill_s


@dataclass(frozen=True, slots=True)
class Level:
    """What is in a bucket, and how many tries have taken a token and wait for their verdict.

    ``at``: when that was so; of a quiet bucket, when it was last tried.
    """

    tokens: float
    at: float
    pending: int = 0
    pending_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Taken:
    """``wait_s`` is 0 if the tokens were taken; else, until there may be one. ``undecided``: others' verdicts are due,
    and may make room sooner."""

    wait_s: float
    undecided: bool = False


def take(rules: Sequence[Rule], now: float) -> Act[Taken]:
    """Take a token from each bucket, or none at all.

    A PostgreSQL connection that breaks between its commit and our hearing of it has this run again, and a second token
    is gone: a try less until the next right login, or until it comes back by itself. Telling the two apart would cost
    every login a round trip.
    """

    async def act(transaction: Transaction) -> Taken:
        after: list[tuple[Rule, Level]] = []
        for rule in rules:
            level = await _locked(transaction, rule, now)
            if level.tokens < rule.spare + 1:
                return Taken(max(0.001, rule.wait_s(level, now)), undecided=level.pending > 0)
            # A process that dies before its verdict leaves a try that the KDC may have counted as a failure now.
            after.append((rule, Level(level.tokens - 1, now, level.pending + 1, now)))
        for rule, level in after:
            await _keep(transaction, rule, level)
        return Taken(0.0)

    return act


def settle(rules: Sequence[Rule], outcome: Outcome, now: float, *, fill: Sequence[Rule] = ()) -> Act[None]:
    """Say what became of a try that took tokens; ``fill`` are the buckets that a success fills to the brim."""

    async def act(transaction: Transaction) -> None:
        for rule in rules:
            level = await _locked(transaction, rule, now)
            others = max(0, level.pending - 1)
            tokens = level.tokens if outcome == "failed" else level.tokens + 1
            if outcome == "succeeded" and rule in fill:
                tokens = rule.burst - others  # what others are trying now is not forgiven beforehand
            await _keep(transaction, rule, Level(min(rule.burst, tokens), now, others, level.pending_at))

    return act


def is_known(principal: str, network: str) -> Act[bool]:
    """Has this user logged in from there?"""

    async def act(transaction: Transaction) -> bool:
        sql = "SELECT 1 FROM known_place WHERE principal = $1 AND network = $2"
        return bool(await transaction.rows(sql, principal, network))

    return act


def know(principal: str, network: str, now: float) -> Act[int]:
    """This user has logged in from there now."""
    return lambda transaction: transaction.change(
        "INSERT INTO known_place (principal, network, at) VALUES ($1, $2, $3)"
        " ON CONFLICT (principal, network) DO UPDATE SET at = excluded.at",
        principal,
        network,
        now,
    )


def clean(now: float, full_after_s: float) -> Act[int]:
    """Forget buckets that are full again, and places not seen for long; how many rows."""

    async def act(transaction: Transaction) -> int:
        gone = await transaction.change("DELETE FROM bucket WHERE at < $1", now - full_after_s)
        gone += await transaction.change(
            "DELETE FROM bucket WHERE name NOT IN (SELECT name FROM bucket ORDER BY at DESC LIMIT $1)", KEPT
        )
        return gone + await transaction.change("DELETE FROM known_place WHERE at < $1", now - KNOWN_S)

    return act


async def _locked(transaction: Transaction, rule: Rule, now: float) -> Level:
    """The bucket as it is now; nobody else changes it before this transaction ends."""
    await transaction.change(
        "INSERT INTO bucket (name, level, at, pending, pending_at) VALUES ($1, $2, $3, 0, 0.0)"
        " ON CONFLICT (name) DO UPDATE SET pending = bucket.pending",
        rule.name,
        float(rule.burst),
        now,
    )
    ((tokens, at, pending, pending_at),) = await transaction.rows(
        "SELECT level, at, pending, pending_at FROM bucket WHERE name = $1", rule.name
    )
    tokens, at = rule.filled(tokens, at, now)
    return Level(tokens, at, pending if now - pending_at < UNDECIDED_S else 0, pending_at)


async def _keep(transaction: Transaction, rule: Rule, level: Level) -> None:
    await transaction.change(
        "UPDATE bucket SET level = $1, at = $2, pending = $3, pending_at = $4 WHERE name = $5",
        float(level.tokens),
        level.at,
        level.pending,
        level.pending_at,
        rule.name,
    )
