"""Logins that need one more answer: a password that must be changed first.

Rule 1: a conversation begins only after the old password was right; what is kept of it is the KDC's ticket for
changing it, in memory, for as long as that ticket is good. Rule 2: the id is a secret (whoever has it may set the
password), so it travels in bodies only. Rule 3: it belongs to the process that began it; another one, or a restart,
means to begin again.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import dataclass, field

from hipercow_slurm.errors import CredentialError, RequestError
from hipercow_slurm.krb5.krbcred import Ticket

_KEPT = 1000
_TRIES = 5


class ConversationError(CredentialError):
    """409: the login goes on with ``POST /v1/conversations``."""

    CODE, HTTP = "password-must-change", 409

    def __init__(self, message: str, *, code: str, conversation: str) -> None:
        super().__init__(
            message, code=code, hint="choose a new password: POST /v1/conversations, or kpasswd on a login node"
        )
        self.conversation = conversation


@dataclass(slots=True)
class Conversation:
    """One unfinished login."""

    principal: str
    ticket: Ticket = field(repr=False)
    tries: int = _TRIES


class Conversations:
    """The unfinished logins of this process; time is an argument, in epoch seconds."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Conversation] = OrderedDict()

    def begin(self, principal: str, ticket: Ticket) -> str:
        """Remember; the id."""
        made = secrets.token_urlsafe(32)
        self._open[made] = Conversation(principal, ticket)
        while len(self._open) > _KEPT:
            self._open.popitem(last=False)
        return made

    def take(self, conversation: str, now: float) -> Conversation:
        """The conversation, with one try less.

        Raises:
            RequestError: ``no-such-conversation`` (404): not known, over, or of another process.
        """
        found = self._open.get(conversation)
        if found is None or found.ticket.endtime <= now or found.tries <= 0:
            self._open.pop(conversation, None)
            raise RequestError(
                "there is no such conversation (any more)", code="no-such-conversation", status=404, hint="log in again"
            )
        found.tries -= 1
        return found

    def end(self, conversation: str) -> None:
        """The login is through."""
        self._open.pop(conversation, None)
