"""From a ticket that is known to be good to a session: the one way, whichever way the ticket came.

Rule: the ticket is in the credential cache before the session exists, so no job is submitted that cannot have it.
"""

from __future__ import annotations

from hipercow_slurm import log
from hipercow_slurm.api import schemas
from hipercow_slurm.api.accounts import Account, Accounts
from hipercow_slurm.api.metrics import ApiMetrics
from hipercow_slurm.api.session import Session
from hipercow_slurm.api.sessions import Sessions
from hipercow_slurm.api.tickets import Tickets
from hipercow_slurm.api.trail import Trail
from hipercow_slurm.values import KrbCred


class Opener:
    """Opens sessions."""

    def __init__(
        self, accounts: Accounts, tickets: Tickets, sessions: Sessions, counted: ApiMetrics, trail: Trail
    ) -> None:
        self._accounts = accounts
        self._tickets = tickets
        self._sessions = sessions
        self._counted = counted
        self._trail = trail

    async def admit(self, cred: KrbCred) -> Account:
        """The account of the ticket's owner, with the ticket filed in the cache.

        Raises:
            AccessError: ``no-such-account``, ``no-localname``, ``uid-too-low``, or the cache refuses.
            UnavailableError: no cache answers.
        """
        account = await self._accounts.of(cred.client)
        await self._tickets.add(account.uid, cred)
        return account

    async def open(
        self, cred: KrbCred, account: Account, address: str, *, way: str, life_s: int | None = None
    ) -> tuple[Session, schemas.SessionCreated]:
        """A session for an admitted user.

        Args:
            way: how the user proved who it is, for the log.
            life_s: the session ends after this time; None: after the configured one.
        """
        await self._trail.note("login", "ok", who=cred.client, peer=address, uid=account.uid, why=f"way={way}")
        session, token = await self._sessions.create(cred, account, address, life_s=life_s)
        self._counted.login(way, "accepted")
        log.get().info(
            "login.accepted",
            way=way,
            principal=session.principal,
            uid=account.uid,
            address=address,
            session_id=session.session_id,
            endtime=cred.times.endtime,
            renew_till=cred.times.renew_till,
        )
        return session, schemas.SessionCreated(
            session_id=session.session_id,
            token=token,
            principal=session.principal,
            localname=account.localname,
            uid=account.uid,
            expires_at=schemas.rfc3339(session.record.expires_at),
            ticket=schemas.Times.of(cred.times),
        )
