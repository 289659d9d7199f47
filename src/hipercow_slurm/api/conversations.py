"""Logins that need one more answer: a password that must be changed first.

Rule 1: a conversation begins only after the old password was right; what is kept of it is the KDC's ticket for
changing it, for as long as that ticket is good. Rule 2: the id is a secret (whoever has it may set the password), so
it travels in bodies only, and the database keeps its hash and what is sealed under it, as of sessions: any API
process can go on with it, and a stolen database opens nothing. Rule 3: one at a time goes on with a conversation: of
two new passwords sent at once both would be set, and one sender be told to log in with the one that is not it.
"""

from __future__ import annotations

import msgspec

from hipercow_slurm.api import sealing
from hipercow_slurm.api.database import Act, Database, Transaction
from hipercow_slurm.errors import CredentialError, RequestError
from hipercow_slurm.krb5.krbcred import Ticket

_TRIES = 5
_INFO = "conversation"


class ConversationError(CredentialError):
    """409: the login goes on with ``POST /v1/conversations``."""

    CODE, HTTP = "password-must-change", 409

    def __init__(self, message: str, *, code: str, conversation: str) -> None:
        super().__init__(
            message, code=code, hint="choose a new password: POST /v1/conversations, or kpasswd on a login node"
        )
        self.conversation = conversation


class Conversation(msgspec.Struct, frozen=True):
    """One unfinished login."""

    principal: str
    ticket: Ticket

    def __repr__(self) -> str:
        return f"<Conversation of {self.principal}>"


class Conversations:
    """The unfinished logins of the site; time is an argument, in epoch seconds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, principal: str, ticket: Ticket) -> str:
        """Remember; the id."""
        made = sealing.new_token()
        bits = sealing.token_bits(made)
        assert bits is not None
        plain = msgspec.msgpack.encode(Conversation(principal, ticket))
        sealed = sealing.seal(sealing.derive_key(bits, _INFO), plain, session_id=_INFO, principal="")
        await self._database.run(_add(sealing.fingerprint(bits), ticket.endtime, sealed))
        return made

    async def take(self, conversation: str, now: float) -> Conversation:
        """The conversation, for the caller alone until ``give_back`` or ``end``.

        Raises:
            RequestError: ``no-such-conversation`` (404): not known, over, or somebody else goes on with it now.
        """
        bits = sealing.token_bits(conversation)
        sealed = None if bits is None else await self._database.run(_take(sealing.fingerprint(bits), int(now)))
        if bits is None or sealed is None:
            raise RequestError(
                "there is no such conversation (any more)", code="no-such-conversation", status=404, hint="log in again"
            )
        plain = sealing.unseal(sealing.derive_key(bits, _INFO), sealed, session_id=_INFO, principal="")
        return msgspec.msgpack.decode(plain, type=Conversation)

    async def give_back(self, conversation: str, *, tried: bool) -> None:
        """The password was not changed; ``tried``: the KDC has refused one, which is a try less."""
        bits = sealing.token_bits(conversation)
        if bits is not None:
            await self._database.run(_give_back(sealing.fingerprint(bits), tried=tried))

    async def end(self, conversation: str) -> None:
        """The login is through."""
        bits = sealing.token_bits(conversation)
        if bits is not None:
            await self._database.run(_end(sealing.fingerprint(bits)))


def drop_expired(now: int) -> Act[int]:
    """Forget what nobody can go on with; how many."""
    return lambda transaction: transaction.change("DELETE FROM conversation WHERE expires_at <= $1", now)


def _add(id_hash: bytes, expires_at: int, sealed: bytes) -> Act[int]:
    return lambda transaction: transaction.change(
        "INSERT INTO conversation (id_hash, tries, expires_at, sealed) VALUES ($1, $2, $3, $4)"
        " ON CONFLICT (id_hash) DO NOTHING",
        id_hash,
        _TRIES,
        expires_at,
        sealed,
    )


def _take(id_hash: bytes, now: int) -> Act[bytes | None]:
    """While somebody has it, ``tries`` is what will be left, below zero; so it is over if nobody gives it back."""

    async def act(transaction: Transaction) -> bytes | None:
        taken = await transaction.change(
            "UPDATE conversation SET tries = 1 - tries WHERE id_hash = $1 AND tries > 0 AND expires_at > $2",
            id_hash,
            now,
        )
        rows = await transaction.rows("SELECT sealed FROM conversation WHERE id_hash = $1", id_hash) if taken else []
        return bytes(rows[0][0]) if rows else None

    return act


def _give_back(id_hash: bytes, *, tried: bool) -> Act[int]:
    left = "-tries" if tried else "1 - tries"
    sql = f"UPDATE conversation SET tries = {left} WHERE id_hash = $1 AND tries <= 0"  # noqa: S608
    return lambda transaction: transaction.change(sql, id_hash)


def _end(id_hash: bytes) -> Act[int]:
    return lambda transaction: transaction.change("DELETE FROM conversation WHERE id_hash = $1", id_hash)
