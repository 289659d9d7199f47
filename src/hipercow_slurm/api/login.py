"""The ways in: a password, HTTP Basic, a Negotiate token, an uploaded ticket; each ends in a session.

Rule 1: wrong password and unknown user look alike: same code, same sentence, same time. Rule 2: nothing of what comes
in is believed here; ``judging.py`` says what is true of it, and counts the tries.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Sequence

from hipercow_slurm import log
from hipercow_slurm.api import naming, schemas
from hipercow_slurm.api.binding import EndPoint
from hipercow_slurm.api.config import Config
from hipercow_slurm.api.conversations import Conversation, Conversations
from hipercow_slurm.api.database import Database
from hipercow_slurm.api.given import PASSWORD_BYTES, basic_of, principal_of, ticket_of
from hipercow_slurm.api.judging import Judge, outward
from hipercow_slurm.api.metrics import ApiMetrics
from hipercow_slurm.api.opening import Opener
from hipercow_slurm.api.password import password_of, wipe
from hipercow_slurm.api.problems import ThrottledError
from hipercow_slurm.api.session import Session
from hipercow_slurm.api.sessions import Sessions
from hipercow_slurm.api.trail import Trail
from hipercow_slurm.errors import AccessError, CredentialError, Error, RequestError
from hipercow_slurm.values import KrbCred

_SLOW = "set [limits] failed_login_s above what the KDC takes: now the time tells whether there is such a user"
_BASIC_KEPT = 1000


class Logins:
    """Judges what people prove themselves with, and opens sessions."""

    def __init__(
        self,
        conf: Config,
        database: Database,
        names: naming.Names,
        opener: Opener,
        sessions: Sessions,
        counted: ApiMetrics,
        trail: Trail,
        seen: EndPoint,
    ) -> None:
        self._conf = conf
        self._names = names
        self._opener = opener
        self._sessions = sessions
        self._trail = trail
        self._conversations = Conversations(database)
        self._judge = Judge(conf, database, self._conversations, counted, trail, seen)
        self._basic_key = secrets.token_bytes(32)
        self._basic: OrderedDict[bytes, tuple[float, Session]] = OrderedDict()
        self._checking: dict[tuple[bytes, str], asyncio.Task[Session]] = {}

    async def login(
        self, body: bytearray, address: str, *, kind: type[schemas.LoginBody] = schemas.LoginBody
    ) -> schemas.SessionCreated:
        """Username and password (JSON), and answers to what the KDC asks beside them, for a session.

        Raises:
            AnswersWantedError: 409: the KDC asks more than was answered.
            RequestError: malformed body or name; ``too-many-failures``, ``too-many-logins`` (429).
            ConversationError: 409: the password is right and must be changed; ``converse`` goes on.
            CredentialError: ``login-failed`` (401), or the KDC's other reasons, each with its own code (403).
            AccessError: ``no-such-account``, ``uid-too-low``, ``kdc-not-genuine``.
            UnavailableError: KDC or credential cache do not answer.
        """
        request = schemas.decode(body, kind)
        given: list[bytearray] = []
        try:
            for raw in (request.password, *request.answers):
                given.append(password_of(raw, PASSWORD_BYTES))
        except RequestError:
            wipe(*given)
            raise
        finally:
            wipe(body)
        password, *answers = given
        _, created = await self._by_password(request.username, password, address, way="password", answers=answers)
        return created

    async def basic(self, credentials: str, address: str) -> Session:
        """The session behind an ``Authorization: Basic`` header: a short one, made once and found again.

        Raises:
            AccessError: 401: malformed. Everything ``login`` raises.
        """
        fingerprint = hmac.digest(self._basic_key, credentials.encode("utf-8", "surrogateescape"), hashlib.sha256)
        while (found := self._basic.get(fingerprint)) is not None and found[0] > time.monotonic():
            try:
                return await self._sessions.resume(found[1])
            except AccessError:  # revoked, or its ticket is over: the password is at hand
                if self._basic.get(fingerprint) is found:
                    del self._basic[fingerprint]
        # A client that begins with ten requests at once is checked once, and what comes of it is told to all of them:
        # one after the other they would be ten guesses at the KDC, or wait ten times for one that hangs.
        key = fingerprint, address
        checking = self._checking.get(key)
        if checking is None:
            checking = asyncio.create_task(self._checked(fingerprint, credentials, address))
            self._checking[key] = checking
            checking.add_done_callback(lambda done: self._check_done(key, done))
        return await asyncio.shield(checking)

    async def _checked(self, fingerprint: bytes, credentials: str, address: str) -> Session:
        """A new session for a Basic header, remembered for as long as it is good."""
        username, password = basic_of(credentials)
        life_s = self._conf.limits.basic_session_s
        session, _ = await self._by_password(username, password, address, way="basic", life_s=life_s)
        self._basic[fingerprint] = time.monotonic() + life_s, session
        self._basic.move_to_end(fingerprint)
        while len(self._basic) > _BASIC_KEPT:
            self._basic.popitem(last=False)
        return session

    def _check_done(self, key: tuple[bytes, str], done: asyncio.Task[Session]) -> None:
        del self._checking[key]
        if not done.cancelled():
            done.exception()  # seen: nobody may be waiting any more

    async def negotiate(self, token: str, address: str) -> tuple[schemas.SessionCreated, str]:
        """A Negotiate token with a delegated ticket for a session; also the token that proves us to the client.

        Raises:
            CredentialError: ``ticket-not-delegated``, and as ``negotiate.Acceptor``. Else as ``upload``.
        """
        async with self._judge.refusing(address, way="negotiate"):
            found = await self._judge.negotiated(token)
            if found.cred is None:
                raise CredentialError(
                    f"{found.principal} is known now, but without a ticket nothing can be done for its jobs",
                    code="ticket-not-delegated",
                    hint="delegate your ticket: kinit -f, then curl --negotiate -u : --delegation always",
                )
            created = await self._by_ticket(found.cred, address, way="negotiate")
            return created, found.answer

    async def upload(self, data: bytearray, address: str) -> schemas.SessionCreated:
        """A ticket (KRB-CRED or FILE cache) for a session.

        Raises:
            RequestError: neither of both. CredentialError, AccessError, UnavailableError: as ``prove``.
        """
        async with self._judge.refusing(address, way="ticket"):
            return await self._by_ticket(ticket_of(data), address, way="ticket")

    async def replace(self, session: Session, data: bytearray, address: str) -> None:
        """An uploaded ticket takes the place of the session's, and of the cache's.

        Raises:
            AccessError: ``principal-mismatch``: it is somebody else's. Else as ``upload``.
        """
        async with self._judge.refusing(address, way="ticket"):
            cred = ticket_of(data)
            if cred.client != session.principal:
                raise AccessError(
                    f"this session is {session.principal}'s, the ticket is not", code="principal-mismatch"
                )
            await self._judge.proved(cred)
            await self._opener.admit(cred)
        await self._sessions.replace(session, cred)

    async def converse(self, body: bytearray, address: str) -> schemas.SessionCreated:
        """The new password (JSON) of a login that needed one.

        Raises:
            RequestError: ``no-such-conversation`` (404); ``password-rejected`` (422): try another one.
            Everything ``login`` raises.
        """
        request = schemas.decode(body, schemas.ConversationBody)
        password = password_of(request.new_password, PASSWORD_BYTES)
        wipe(body)
        try:
            await self._trail.begin("password", address)
            found = await self._conversations.take(request.conversation, time.time())
            await self._change(request.conversation, found, password, address)
        except BaseException:
            wipe(password)
            raise
        username = found.principal.rpartition("@")[0]
        try:
            await self._trail.note("password", "ok", who=found.principal, peer=address, why="changed")
            _, created = await self._by_password(username, password, address, way="conversation")
        except Error as error:
            changed = "the password has been changed: log in with the new one"
            error.hint = f"{changed}; {error.hint}" if error.hint else changed
            raise
        return created

    async def _change(self, conversation: str, found: Conversation, password: bytearray, address: str) -> None:
        """Set the new password, and end the conversation; else it goes on."""
        kept = bytearray(password)
        try:
            async with self._judge.refusing(address, way="conversation"):
                await self._judge.change(found.ticket, kept)
        except Error as error:
            await self._conversations.give_back(conversation, tried=error.code == "password-rejected")
            raise
        await self._conversations.end(conversation)
        log.get().info("password.changed", principal=found.principal, address=address)

    def close(self) -> None:
        """Take no more checks."""
        self._judge.close()

    async def _by_password(
        self,
        username: str,
        password: bytearray,
        address: str,
        *,
        way: str,
        life_s: int | None = None,
        answers: Sequence[bytearray] = (),
    ) -> tuple[Session, schemas.SessionCreated]:
        started, proved = time.monotonic(), False
        try:
            principal = principal_of(username, self._conf.api.realm)
            shown = await self._names.of(principal)
            counted = shown if (same := naming.one_spelling(principal)) == principal else await self._names.of(same)
        except BaseException:
            wipe(password, *answers)
            raise
        try:
            cred = await self._judge.password(principal, counted, password, address, answers)
            shown, proved = principal, True  # the password was right: it is a name
            account = await self._opener.admit(cred)
        except Error as error:
            naming.hide(error, principal, shown)
            await self._judge.refused(error, address, way=way, principal=shown)
            if not proved:  # a name in one answer and a mark in another would tell users from strangers
                naming.hide(error, shown, "this user")
            if not isinstance(error, ThrottledError):
                left_s = started + self._conf.limits.failed_login_s - time.monotonic()
                if left_s < 0 and error.code == "login-failed":  # from here on the time tells users from strangers
                    log.get().warning("login.slow", seconds=round(time.monotonic() - started, 1), hint=_SLOW)
                await asyncio.sleep(left_s)
            raise outward(error) from None
        return await self._opener.open(cred, account, address, way=way, life_s=life_s)

    async def _by_ticket(self, cred: KrbCred, address: str, *, way: str) -> schemas.SessionCreated:
        try:
            principal_of(cred.client, self._conf.api.realm)
        except RequestError as error:
            raise RequestError(
                f"the ticket is not one of a person of {self._conf.api.realm}: it is {cred.client}'s",
                code=error.code,
                hint="klist shows whose ticket it is; kinit gets another one",
            ) from None
        await self._judge.proved(cred)
        account = await self._opener.admit(cred)
        _, created = await self._opener.open(cred, account, address, way=way)
        return created
