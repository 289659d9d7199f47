"""The session table: who logged in, from where, until when, and the ticket sealed under the session's token.

Functions return the work for ``Database.run``; times are arguments, in whole seconds.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, field

from hipercow_slurm.api.database import Act, Transaction


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """One row. ``token_hash`` is SHA-256 of the token; ``sealed`` opens only with a key derived from the token."""

    session_id: str
    token_hash: bytes = field(repr=False)
    principal: str
    localname: str
    uid: int
    address: str
    created_at: int
    expires_at: int
    sealed: bytes = field(repr=False)


PER_PRINCIPAL = 100  # scripts that log in and never log out must not fill the disk
_COLUMNS = "session_id, token_hash, principal, localname, uid, address, created_at, expires_at, sealed"


def add(record: SessionRecord) -> Act[None]:
    """File a new session; of more than ``PER_PRINCIPAL`` the oldest go."""

    async def act(transaction: Transaction) -> None:
        await transaction.change(
            f"INSERT INTO session ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",  # noqa: S608
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


def reseal(session_id: str, sealed: bytes, expires_at: int) -> Act[bool]:
    """Replace the sealed ticket by another one; False if the session is gone meanwhile."""

    async def act(transaction: Transaction) -> bool:
        sql = "UPDATE session SET sealed = $1, expires_at = $2 WHERE session_id = $3"
        return await transaction.change(sql, sealed, expires_at, session_id) == 1

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
