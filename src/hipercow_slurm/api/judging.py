"""What is true of what people prove themselves with, and what a try costs: the KDC's verdict, under the throttle.

Rule 1: the KDC must prove itself with our keytab before its word counts. Rule 2: what a ticket says of itself counts
for nothing: the KDC must honour it, and whose it is stands where only the KDC can write (``krb5.prove``). Rule 3: all
of it is throttled, and each refusal stands in log, numbers and audit log. Rule 4: what is asked of the KDC waits at the
desk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from hipercow_slurm import log
from hipercow_slurm.api import naming, negotiate, passwords
from hipercow_slurm.api.binding import EndPoint
from hipercow_slurm.api.config import Config, with_realm
from hipercow_slurm.api.conversations import ConversationError, Conversations
from hipercow_slurm.api.database import Database
from hipercow_slurm.api.desk import Armor, Desk
from hipercow_slurm.api.metrics import ApiMetrics
from hipercow_slurm.api.password import wipe
from hipercow_slurm.api.throttle import Charge, LoginThrottle
from hipercow_slurm.api.throttle_db import Outcome
from hipercow_slurm.api.trail import Trail
from hipercow_slurm.errors import AccessError, CredentialError, Error
from hipercow_slurm.krb5 import enctypes, prove
from hipercow_slurm.krb5.krbcred import Ticket
from hipercow_slurm.values import KrbCred

# These cost a token of the throttle, everything else does not. A KDC may ask for more after a wrong password, too.
_GUESSES = {"login-failed", "account-locked", "answers-wanted"}


class Judge:
    """Gives verdicts; whoever asks opens the session."""

    def __init__(
        self,
        conf: Config,
        database: Database,
        conversations: Conversations,
        counted: ApiMetrics,
        trail: Trail,
        seen: EndPoint,
    ) -> None:
        self._conf = conf
        self._conversations = conversations
        self._counted = counted
        self._trail = trail
        self._service = with_realm(conf.api.service, conf.api.realm)
        self._acceptor = negotiate.Acceptor(conf.api, self._service, seen)
        self._throttle = LoginThrottle(conf.limits, database)
        self._desk = Desk(conf.limits)
        armor = Armor(self._service, conf.api.keytab) if conf.api.fast != "off" else None
        self._passwords = passwords.Passwords(conf.api, self._service, armor)

    def close(self) -> None:
        """Take no more checks."""
        self._desk.close()

    async def negotiated(self, token: str) -> negotiate.Negotiated:
        """What a Negotiate token says; raises as ``negotiate.Acceptor``."""
        return await self._desk.ask(lambda: self._acceptor.accept(token))

    async def change(self, ticket: Ticket, password: bytearray) -> None:
        """Have the KDC set a new password, which is wiped; raises as ``passwords.Passwords.change``."""
        await self._desk.ask(lambda: self._passwords.change(ticket, password), turned_away=lambda: wipe(password))

    async def refused(self, error: Error, address: str, *, way: str, principal: str | None = None) -> None:
        """Tell of a login that was refused."""
        self._counted.login(way, error.code)
        log.get().warning(
            "login.refused", way=way, principal=principal, address=address, code=error.code, why=error.message
        )
        await self._trail.note("login", "refused", who=principal, peer=address, why=f"way={way} {error.code}")

    async def proved(self, cred: KrbCred) -> None:
        """Raise unless the KDC honours this ticket and it is its client's; as ``prove.prove``, or weak."""
        if self._conf.api.weak_enctypes == "refuse":
            enctypes.refuse_weak(cred)
        await self._desk.ask(lambda: prove.prove(cred, keytab=self._conf.api.keytab, service=self._service))

    @asynccontextmanager
    async def refusing(self, address: str, *, way: str) -> AsyncIterator[None]:
        """A refusal of what is tried in the block is logged, and costs the address a token if it was the client's."""
        charge: Charge | None = None
        outcome: Outcome = "undecided"
        try:
            charge = await self._throttle.charge(None, address)
            yield
        except Error as error:
            if isinstance(error, CredentialError | AccessError):
                outcome = "failed"
            await self.refused(error, address, way=way)
            raise
        finally:
            if charge is not None:
                await self._throttle.settle(charge, outcome)

    async def password(
        self, principal: str, counted: str, password: bytearray, address: str, answers: Sequence[bytearray]
    ) -> KrbCred:
        """The KDC's verdict, with the throttle charged before and settled after; ``counted``: whose tries these are."""
        try:
            charge = await self._throttle.charge(naming.one_spelling(principal), address, counted)
        except BaseException:
            wipe(password, *answers)
            raise
        outcome: Outcome = "undecided"
        try:
            verdict = await self._desk.ask(
                lambda: self._passwords.check(principal, password, answers),
                turned_away=lambda: wipe(password, *answers),
            )
            if isinstance(verdict, KrbCred) and verdict.client != principal:
                raise AccessError(f"the KDC answered for another principal than {principal}", code="kdc-not-genuine")
            outcome = "succeeded"
        except Error as error:
            if error.code in _GUESSES:
                outcome = "failed"
            raise
        finally:
            await self._throttle.settle(charge, outcome)
        if isinstance(verdict, passwords.MustChange):
            conversation = await self._conversations.begin(principal, verdict.ticket)
            raise ConversationError(verdict.why, code=verdict.code, conversation=conversation)
        return verdict


def outward(error: Error) -> Error:
    """What the caller is told: libkrb5's words for a failed login would tell unknown users from wrong passwords."""
    if isinstance(error, CredentialError) and error.code == "login-failed":
        return CredentialError(
            "the username or the password is wrong", code="login-failed", status=401, hint="check both and try again"
        )
    return error
