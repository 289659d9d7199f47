"""Sessions: a random token for the user, a sealed ticket for the database, an open one in memory while in use.

Rule 1: the token exists here only while its request is served; what stays in memory is the key derived from it,
so that the ticket can be renewed and sealed again without the user. Rule 2: after a restart a session is closed
until its next request brings the token. Rule 3: a session ends when it is revoked, at ``expires_at``, or when its
ticket has expired, whichever is first. Rule 4: of all processes and hosts that have a session open one renews its
ticket, who claims that in the database; each request asks the database whether its session still is, and in which
generation of its ticket.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import secrets
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hipercow_slurm import log
from hipercow_slurm.api import sealing, sessions_db
from hipercow_slurm.api.accounts import Account
from hipercow_slurm.api.database import Database
from hipercow_slurm.api.problems import not_logged_in
from hipercow_slurm.api.session import Session, last_good, nearly_over, renewal_due, spread_of, unsealed
from hipercow_slurm.api.sessions_db import SessionRecord
from hipercow_slurm.errors import Error, UnavailableError
from hipercow_slurm.krb5 import renewal
from hipercow_slurm.values import KrbCred

_TICK_S = 1.0
_SWEEP_S = 10.0  # how often sessions that were revoked elsewhere are looked for, and what is in memory of them dropped
_CLAIM_S = 30  # for one renewal; if its process dies, another one may try then
_ANOTHERS_S = 3.0  # when another process renews: look again
_RENEW_THREADS = 2
_RETRY_MAX_S = 60.0


class Sessions:
    """All sessions of this process; ``run`` renews their tickets until it is cancelled.

    Attributes:
        welcome: called with each session that begins or gets a fresh ticket; must not raise.
    """

    def __init__(self, database: Database, *, session_max_s: int) -> None:
        self._database = database
        self._session_max_s = session_max_s
        self._open: dict[bytes, Session] = {}
        self._threads = ThreadPoolExecutor(_RENEW_THREADS, thread_name_prefix="renew")
        self._tasks: set[asyncio.Task[None]] = set()
        self.welcome: Callable[[Session], Awaitable[None]] | None = None

    @property
    def opened(self) -> int:
        """How many this process has open."""
        return len(self._open)

    async def create(
        self, cred: KrbCred, account: Account, address: str, *, life_s: int | None = None
    ) -> tuple[Session, str]:
        """Open a session for the holder of ``cred``, for at most ``life_s``; the token is returned this once."""
        now = int(time.time())
        token, session_id = sealing.new_token(), secrets.token_hex(8)
        bits = sealing.token_bits(token)
        assert bits is not None
        key = sealing.derive_key(bits, session_id)
        record = SessionRecord(
            session_id=session_id,
            token_hash=sealing.fingerprint(bits),
            principal=cred.client,
            localname=account.localname,
            uid=account.uid,
            address=address,
            created_at=now,
            expires_at=min(last_good(cred.times), now + min(life_s or self._session_max_s, self._session_max_s)),
            sealed=sealing.seal(key, cred.der, session_id=session_id, principal=cred.client),
        )
        await self._database.run(sessions_db.add(record))
        session = Session(record, key, cred)
        self._open[record.token_hash] = session
        self._welcome(session)
        return session, token

    async def authenticate(self, token: str) -> Session:
        """The session of a token, with a ticket that is good now.

        Raises:
            AccessError: status 401, code ``not-authenticated`` (no such session) or ``session-expired``.
        """
        bits = sealing.token_bits(token)
        if bits is None:
            raise not_logged_in("this is not a session token")
        return await self._good(await self._look_up(sealing.fingerprint(bits), bits))

    async def resume(self, session: Session) -> Session:
        """A session that this process has open, for somebody who has proved again to be its user.

        Raises:
            AccessError: as ``authenticate``.
        """
        token_hash = session.record.token_hash
        if self._open.get(token_hash) is not session:
            raise not_logged_in("there is no such session (any more)")
        return await self._good(await self._look_up(token_hash, None))

    async def _good(self, session: Session) -> Session:
        now = time.time()
        if session.record.expires_at > now and nearly_over(session.cred.times, now):
            with contextlib.suppress(Error):  # the ticket is still good, or the next lines say that it is not
                await self._renew(session)
        if min(session.record.expires_at, session.cred.times.endtime) <= now:
            await self._forget(session)
            what = "session" if session.cred.times.endtime > now else "session's ticket"
            raise not_logged_in(f"the {what} has expired", code="session-expired")
        return session

    async def replace(self, session: Session, cred: KrbCred) -> None:
        """Give the session another ticket of its user; it may last as long as if it began now with that ticket."""
        async with session.renewing:
            now = int(time.time())
            expires_at = min(last_good(cred.times), now + self._session_max_s)
            await self._keep(session, cred, expires_at=max(expires_at, session.record.expires_at))
        session.identity = None
        self._welcome(session)
        log.get().info("session.ticket-replaced", session_id=session.session_id, principal=session.principal)

    async def listing(self, principal: str) -> list[SessionRecord]:
        """The principal's sessions that are still good."""
        return await self._database.run(sessions_db.of_principal(principal, int(time.time())))

    async def revoke(self, principal: str, session_id: str) -> bool:
        """End one of the principal's sessions; False if there is no such."""
        for token_hash, session in list(self._open.items()):
            if session.session_id == session_id and session.principal == principal:
                del self._open[token_hash]
        return await self._database.run(sessions_db.revoke(principal, session_id))

    async def run(self) -> None:
        """Renew tickets around half their life; let go of sessions that are over."""
        swept = time.monotonic()
        while True:
            now = time.time()
            if time.monotonic() - swept > _SWEEP_S:
                swept = time.monotonic()
                self._start(self._sweep())
            for session in list(self._open.values()):
                if min(session.record.expires_at, session.cred.times.endtime) <= now:
                    self._open.pop(session.record.token_hash, None)
                elif renewal_due(session.cred.times, now, spread=spread_of(session)) and now >= session.retry_at:
                    self._start(self._renew_or_log(session))
            await asyncio.sleep(_TICK_S)

    def close(self) -> None:
        """Drop what is in memory; sealed tickets stay for the next start."""
        for task in self._tasks:
            task.cancel()
        self._open.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _look_up(self, token_hash: bytes, bits: bytes | None) -> Session:
        """What the database says; ``bits``, the token's, are needed only for a session not open here."""
        session = self._open.get(token_hash)
        if session is None:
            return await self._open_again(token_hash, bits)
        generation = await self._database.look(sessions_db.generation_of(token_hash))
        if generation is None:
            self._open.pop(token_hash, None)
            raise not_logged_in("there is no such session (any more)")
        if session.record.generation < generation and not session.renewing.locked():
            await self._take_over(session)  # another process renewed it
        return session

    async def _open_again(self, token_hash: bytes, bits: bytes | None) -> Session:
        """A session of the database that this process has not open."""
        record = await self._database.look(sessions_db.by_token(token_hash))
        if record is None or bits is None:
            raise not_logged_in("there is no such session (any more)")
        key = sealing.derive_key(bits, record.session_id)
        return self._open.setdefault(token_hash, Session(record, key, unsealed(key, record)))

    async def _keep(
        self, session: Session, cred: KrbCred, *, expires_at: int, generation: int = sessions_db.LAST
    ) -> None:
        """Seal a ticket into the database, where nothing newer than ``generation`` is, and use it."""
        sealed = sealing.seal(session.key, cred.der, session_id=session.session_id, principal=session.principal)
        session.cred, session.failures = cred, 0  # it is the better one, also if the database is out of order
        act = sessions_db.reseal(session.session_id, sealed, expires_at, generation=generation)
        made = await self._database.run(act)
        if made is None:
            await self._take_over(session)  # revoked, or the user logged in again elsewhere: that ticket lasts longer
        else:
            session.record = dataclasses.replace(session.record, sealed=sealed, expires_at=expires_at, generation=made)

    async def _take_over(self, session: Session) -> None:
        """Use the ticket that the database has; forget a session that is not there any more."""
        record = await self._database.look(sessions_db.by_token(session.record.token_hash))
        if record is None:
            self._open.pop(session.record.token_hash, None)
        elif session.record.generation < record.generation:
            session.cred, session.record, session.failures = unsealed(session.key, record), record, 0

    async def _sweep(self) -> None:
        """Drop what is in memory of sessions that were revoked through another process."""
        asked = list(self._open)
        with contextlib.suppress(UnavailableError):
            there = await self._database.run(sessions_db.still(asked), durable=False)
            for token_hash in asked:
                if token_hash not in there:
                    self._open.pop(token_hash, None)

    async def _forget(self, session: Session) -> None:
        self._open.pop(session.record.token_hash, None)
        await self._database.run(sessions_db.revoke(session.principal, session.session_id))

    def _welcome(self, session: Session) -> None:
        """Do in the background what waited for this user's fresh ticket; nobody's login waits for it."""
        if self.welcome is not None:
            self._start(self.welcome(session))

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _renew_or_log(self, session: Session) -> None:
        session.retry_at = time.time() + _RETRY_MAX_S  # not started twice while it runs
        try:
            await self._renew(session)
            session.retry_at = time.time() + _ANOTHERS_S
        except Exception as error:  # also a fault of ours: the loop that started this must go on, and try again
            session.failures += 1
            left = session.cred.times.endtime - time.time()
            pause = max(1.0, min(_RETRY_MAX_S, 2.0**session.failures, left / 4))
            session.retry_at = time.time() + pause
            log.get().warning(
                "session.renewal-failed",
                session_id=session.session_id,
                principal=session.principal,
                code=error.code if isinstance(error, Error) else "bug",
                why=error.message if isinstance(error, Error) else type(error).__name__,
                endtime=session.cred.times.endtime,
            )
            with contextlib.suppress(UnavailableError):
                # Nobody else tries sooner either: a KDC in trouble sees one of us, not each process.
                act = sessions_db.let_go(session.session_id, session.record.generation, int(pause))
                await self._database.run(act, durable=False)

    async def _renew(self, session: Session) -> None:
        """Renew the ticket and seal it again, unless another task or process just did, or does."""
        async with session.renewing:
            due = renewal_due(session.cred.times, time.time(), spread=spread_of(session))
            if not due or not await self._claim(session):
                return
            loop = asyncio.get_running_loop()
            cred = await loop.run_in_executor(self._threads, renewal.renew, session.cred)
            record = session.record
            await self._keep(session, cred, expires_at=record.expires_at, generation=record.generation)
            log.get().info(
                "session.renewed",
                session_id=session.session_id,
                principal=session.principal,
                endtime=cred.times.endtime,
                renew_till=cred.times.renew_till,
            )

    async def _claim(self, session: Session) -> bool:
        """True if this process is to renew the ticket; else its new one is used, as soon as there is one."""
        try:
            act = sessions_db.claim(session.session_id, session.record.generation, _CLAIM_S)
            if await self._database.run(act, durable=False):
                return True
            await self._take_over(session)
        except UnavailableError:
            if not nearly_over(session.cred.times, time.time()):
                raise
            return True  # renewed twice rather than not at all
        return False
