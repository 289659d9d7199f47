"""The session table: who logged in, from where, until when, and the ticket sealed under the session's token.

Functions return the work for ``Database.run``; times are arguments, in whole seconds.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, field

from hipercow_slurm.api.database import Act, Transaction


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """One row.

    Attributes:
        token_hash: SHA-256 of the token.
        sealed: the ticket; opens only with a key derived from the token.
        generation: how often the ticket was replaced.
    """

    session_id: str
    token_hash: bytes = field(repr=False)
    principal: str
    localname: str
    uid: int
    address: str
    created_at: int
    expires_at: int
    sealed: bytes = field(repr=False)
    generation: int = 0


LAST = 2**62  # no generation is newer
PER_PRINCIPAL = 100  # scripts that log in and never log out must not fill the disk
_COLUMNS = "session_id, token_hash, principal, localname, uid, address, created_at, expires_at, sealed, generation"


def add(record: SessionRecord) -> Act[None]:
    """File a new session; of more than ``PER_PRINCIPAL`` the oldest go."""

    async def act(transaction: Transaction) -> None:
        await transaction.change(
            f"INSERT INTO session ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",  # noqa: S608
            *astuple(record),
        )
        await transaction.change(
            "DELETE FROM session WHERE principal = $1 AND session_id <> $2 AND session_id NOT IN (SELECT session_id"
            " FROM session WHERE principal = $1 AND session_id <> $2"
            " ORDER BY created_at DESC, session_id DESC LIMIT $3)",
            record.principal,
            record.session_id,
            PER_PRINCIPAL - 1,
        )

    return act


def by_token(token_hash: bytes) -> Act[SessionRecord | None]:
    """The session with this token, expired or not."""

    async def act(transaction: Transaction) -> SessionRecord | None:
        rows = await transaction.rows(f"SELECT {_COLUMNS} FROM session WHERE token_hash = $1", token_hash)  # noqa: S608
        return SessionRecord(*rows[0]) if rows else None

    return act


def generation_of(token_hash: bytes) -> Act[int | None]:
    """How often the ticket of the session with this token was replaced; None: there is no such session."""

    async def act(transaction: Transaction) -> int | None:
        rows = await transaction.rows("SELECT generation FROM session WHERE token_hash = $1", token_hash)
        return rows[0][0] if rows else None

    return act


def of_principal(principal: str, now: int) -> Act[list[SessionRecord]]:
    """The principal's sessions that are still good, oldest first."""

    async def act(transaction: Transaction) -> list[SessionRecord]:
        rows = await transaction.rows(
            f"SELECT {_COLUMNS} FROM session WHERE principal = $1 AND expires_at > $2"  # noqa: S608
            " ORDER BY created_at, session_id",
            principal,
            now,
        )
        return [SessionRecord(*row) for row in rows]

    return act


def still(token_hashes: list[bytes]) -> Act[set[bytes]]:
    """Which of these sessions there are."""

    async def act(transaction: Transaction) -> set[bytes]:
        found: set[bytes] = set()
        for at in range(0, len(token_hashes), 500):
            some = token_hashes[at : at + 500]
            marks = ", ".join(f"${number}" for number in range(1, len(some) + 1))
            sql = f"SELECT token_hash FROM session WHERE token_hash IN ({marks})"  # noqa: S608
            found.update(bytes(row[0]) for row in await transaction.rows(sql, *some))
        return found

    return act


def claim(session_id: str, generation: int, seconds: int) -> Act[bool]:
    """Become the one who renews the ticket of this generation; False: another one is, or has done it."""

    async def act(transaction: Transaction) -> bool:
        sql = (
            f"UPDATE session SET claimed_until = {transaction.NOW} + $1"  # noqa: S608
            f" WHERE session_id = $2 AND generation = $3 AND claimed_until <= {transaction.NOW}"
        )
        return await transaction.change(sql, seconds, session_id, generation) == 1

    return act


def let_go(session_id: str, generation: int, seconds: int) -> Act[int]:
    """The renewal failed: after so many seconds whoever comes first may try."""
    return lambda transaction: transaction.change(
        f"UPDATE session SET claimed_until = {transaction.NOW} + $1 WHERE session_id = $2 AND generation = $3",  # noqa: S608
        *(seconds, session_id, generation),
    )


def reseal(session_id: str, sealed: bytes, expires_at: int, *, generation: int = LAST) -> Act[int | None]:
    """Replace the sealed ticket by another one, if what is there is not newer than ``generation``.

    Returns the new generation; None: the session is gone, or has a newer ticket.
    """

    async def act(transaction: Transaction) -> int | None:
        rows = await transaction.rows(
            "UPDATE session SET sealed = $1, expires_at = $2, generation = generation + 1, claimed_until = 0"
            " WHERE session_id = $3 AND generation <= $4 RETURNING generation",
            *(sealed, expires_at, session_id, generation),
        )
        return int(rows[0][0]) if rows else None

    return act


def revoke(principal: str, session_id: str) -> Act[bool]:
    """Forget one session of the principal; False if the principal has no such session."""

    async def act(transaction: Transaction) -> bool:
        sql = "DELETE FROM session WHERE session_id = $1 AND principal = $2"
        return await transaction.change(sql, session_id, principal) == 1

    return act


def drop_expired(now: int) -> Act[int]:
    """Forget the sessions that are over; how many."""
    return lambda transaction: transaction.change("DELETE FROM session WHERE expires_at <= $1", now)
