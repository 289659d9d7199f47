"""Login: username and password in, a session out; the password lives for one check at the KDC.

Rule 1: wrong password and unknown user look alike: same code, same sentence, same time. Rule 2: the KDC must prove
itself with our keytab before its word counts. Rule 3: the check runs in as many threads as there are cores, with a
bounded queue. Rule 4: the ticket is in the credential cache before the session exists.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor

from hipercow_slurm import log
from hipercow_slurm.api import schemas
from hipercow_slurm.api.accounts import Accounts
from hipercow_slurm.api.config import Config, with_realm
from hipercow_slurm.api.password import password_of, wipe
from hipercow_slurm.api.problems import ThrottledError
from hipercow_slurm.api.sessions import Sessions
from hipercow_slurm.api.throttle import LoginThrottle
from hipercow_slurm.api.tickets import Tickets
from hipercow_slurm.errors import AccessError, CredentialError, Error, RequestError, UnavailableError
from hipercow_slurm.krb5 import creds
from hipercow_slurm.values import KrbCred

_PASSWORD_BYTES = 512
_CHECK_S = 30.0
_GUESSES = {"login-failed", "account-locked"}  # these cost a token of the throttle; everything else does not
_USERNAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


class Logins:
    """Checks passwords and opens sessions."""

    def __init__(self, conf: Config, accounts: Accounts, tickets: Tickets, sessions: Sessions) -> None:
        self._conf = conf
        self._accounts = accounts
        self._tickets = tickets
        self._sessions = sessions
        self._throttle = LoginThrottle(conf.limits)
        workers = conf.limits.login_workers or os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="login")
        self._places = workers + conf.limits.login_queue
        self._service = with_realm(conf.api.service, conf.api.realm)

    async def login(self, body: bytearray, address: str) -> schemas.SessionCreated:
        """Check a login body (JSON) and open a session.

        Raises:
            RequestError: malformed body or name; ``too-many-failures``, ``too-many-logins`` (429).
            CredentialError: ``login-failed`` (401), or the KDC's other reasons, each with its own code (403).
            AccessError: ``no-such-account``, ``uid-too-low``, ``kdc-not-genuine``.
            UnavailableError: KDC or credential cache do not answer.
        """
        request = schemas.decode(body, schemas.LoginBody)
        principal = principal_of(request.username, self._conf.api.realm)
        password = password_of(request.password, _PASSWORD_BYTES)
        wipe(body)
        started = time.monotonic()
        try:
            cred = await self._judged(principal, password, address)
            account = await self._accounts.of(principal)
            await self._tickets.add(account.uid, cred)
        except Error as error:
            log.get().warning("login.refused", principal=principal, address=address, code=error.code, why=error.message)
            if not isinstance(error, ThrottledError):
                await asyncio.sleep(started + self._conf.limits.failed_login_s - time.monotonic())
            raise _outward(error) from None
        session, token = await self._sessions.create(cred, account, address)
        log.get().info(
            "login.accepted",
            principal=principal,
            uid=account.uid,
            address=address,
            session_id=session.session_id,
            endtime=cred.times.endtime,
            renew_till=cred.times.renew_till,
        )
        return schemas.SessionCreated(
            session_id=session.session_id,
            token=token,
            principal=principal,
            localname=account.localname,
            uid=account.uid,
            expires_at=schemas.rfc3339(session.record.expires_at),
            ticket=schemas.Times.of(cred.times),
        )

    def close(self) -> None:
        """Take no more checks."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _judged(self, principal: str, password: bytearray, address: str) -> KrbCred:
        """The KDC's verdict, with the throttle charged before and settled after."""
        try:
            self._throttle.charge(principal, address, time.monotonic())
        except ThrottledError:
            wipe(password)
            raise
        try:
            cred = await self._checked(principal, password)
        except BaseException as error:
            if not (isinstance(error, Error) and error.code in _GUESSES):
                self._throttle.undecided(principal, address, time.monotonic())
            raise
        self._throttle.succeeded(principal, address, time.monotonic())
        return cred

    async def _checked(self, principal: str, password: bytearray) -> KrbCred:
        """Ask the KDC in a thread; the thread wipes the password when it is done, whoever still waits."""
        if self._places <= 0:
            wipe(password)
            raise ThrottledError("too many logins at this moment", code="too-many-logins", retry_after_s=2)
        self._places -= 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, self._ask_kdc, principal, password)
        future.add_done_callback(self._free_place)
        try:
            async with asyncio.timeout(_CHECK_S):
                cred = await asyncio.shield(future)
        except TimeoutError:
            raise UnavailableError(
                f"the KDC did not judge the password within {_CHECK_S:.0f} s", code="kdc-unreachable"
            ) from None
        if cred.client != principal:
            raise AccessError(f"the KDC answered for another principal than {principal}", code="kdc-not-genuine")
        return cred

    def _free_place(self, future: asyncio.Future[KrbCred]) -> None:
        self._places += 1
        if not future.cancelled():
            future.exception()  # seen: nobody may be waiting any more

    def _ask_kdc(self, principal: str, password: bytearray) -> KrbCred:
        try:
            return creds.password_tgt(
                principal,
                password,
                keytab=self._conf.api.keytab,
                service=self._service,
                lifetime_s=self._conf.api.ticket_life_s,
                renew_s=self._conf.api.ticket_renew_s,
            )
        finally:
            wipe(password)


def principal_of(username: str, realm: str) -> str:
    """The principal that ``username`` means: a local name, or a one-component principal of our realm.

    Raises:
        RequestError: code ``bad-username``: another realm, several components, or characters no name has here.
    """
    name, at, given = username.partition("@")
    if not _USERNAME.fullmatch(name) or (at and given != realm):
        raise RequestError(
            f"the username must be a plain account name, or that name with @{realm}", code="bad-username"
        )
    return f"{name}@{realm}"


def _outward(error: Error) -> Error:
    """What the caller is told: libkrb5's words for a failed login would tell unknown users from wrong passwords."""
    if isinstance(error, CredentialError) and error.code == "login-failed":
        return CredentialError(
            "the username or the password is wrong", code="login-failed", status=401, hint="check both and try again"
        )
    return error
