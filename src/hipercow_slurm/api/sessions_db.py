"""The session table: who logged in, from where, until when, and the ticket sealed under the session's token.

Functions return the work for ``Database.run``; times are arguments, in whole seconds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field


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


def add(record: SessionRecord) -> Callable[[sqlite3.Connection], None]:
    """File a new session; of more than ``PER_PRINCIPAL`` the oldest go."""

    def act(connection: sqlite3.Connection) -> None:
        connection.execute(
            f"INSERT INTO session ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?)",  # noqa: S608
            (
                record.session_id,
                record.token_hash,
                record.principal,
                record.localname,
                record.uid,
                record.address,
                record.created_at,
                record.expires_at,
                record.sealed,
            ),
        )
        connection.execute(
            "DELETE FROM session WHERE session_id IN (SELECT session_id FROM session WHERE principal = ?"
            " ORDER BY created_at DESC, rowid DESC LIMIT -1 OFFSET ?)",
            (record.principal, PER_PRINCIPAL),
        )

    return act


def by_token(token_hash: bytes) -> Callable[[sqlite3.Connection], SessionRecord | None]:
    """The session with this token, expired or not."""

    def act(connection: sqlite3.Connection) -> SessionRecord | None:
        row = connection.execute(f"SELECT {_COLUMNS} FROM session WHERE token_hash = ?", (token_hash,)).fetchone()  # noqa: S608
        return SessionRecord(*row) if row else None

    return act


def of_principal(principal: str, now: int) -> Callable[[sqlite3.Connection], list[SessionRecord]]:
    """The principal's sessions that are still good, oldest first."""

    def act(connection: sqlite3.Connection) -> list[SessionRecord]:
        rows = connection.execute(
            f"SELECT {_COLUMNS} FROM session WHERE principal = ? AND expires_at > ? ORDER BY created_at, session_id",  # noqa: S608
            (principal, now),
        )
        return [SessionRecord(*row) for row in rows]

    return act


def reseal(session_id: str, sealed: bytes, expires_at: int) -> Callable[[sqlite3.Connection], bool]:
    """Replace the sealed ticket by another one; False if the session is gone meanwhile."""

    def act(connection: sqlite3.Connection) -> bool:
        done = connection.execute(
            "UPDATE session SET sealed = ?, expires_at = ? WHERE session_id = ?", (sealed, expires_at, session_id)
        )
        return done.rowcount == 1

    return act


def revoke(principal: str, session_id: str) -> Callable[[sqlite3.Connection], bool]:
    """Forget one session of the principal; False if the principal has no such session."""

    def act(connection: sqlite3.Connection) -> bool:
        done = connection.execute("DELETE FROM session WHERE session_id = ? AND principal = ?", (session_id, principal))
        return done.rowcount == 1

    return act


def drop_expired(now: int) -> Callable[[sqlite3.Connection], int]:
    """Forget the sessions that are over; how many."""
    return lambda connection: connection.execute("DELETE FROM session WHERE expires_at <= ?", (now,)).rowcount
