"""What the cache does for a request: asks ``deciding``, does what it says with the store, answers. No sockets.

Each decision is noted (``ledger.py``) before its reply is sent. Source: protocol notes, sections 7, 8 and 10.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

from hipercow_slurm import log
from hipercow_slurm.auksd.acl import Acl, Role
from hipercow_slurm.auksd.deciding import MAY, Reach, Requester, check_cred, check_may, replaces
from hipercow_slurm.auksd.dumping import Dump, measure, slack
from hipercow_slurm.auksd.ledger import Ledger
from hipercow_slurm.auksd.workers import Workers
from hipercow_slurm.errors import AccessError, Error, InternalError, RequestError, UnavailableError
from hipercow_slurm.store.base import Entry, ReadsAtOnce, Sealed, Store
from hipercow_slurm.values import KrbCred
from hipercow_slurm.wire import messages
from hipercow_slurm.wire.messages import Reply, Request
from hipercow_slurm.wire.records import Record


class UidOf(Protocol):
    """``accounts.Accounts``, as far as it is needed here."""

    async def uid(self, principal: str) -> int:
        """The uid of a principal's local account, or AccessError."""


class JobsOn(Protocol):
    """``jobs.Jobs``, as far as it is needed here."""

    async def check_on_node(self, principal: str, uid: int) -> str:
        """Refuse a node that has no job of ``uid`` now; else how we know."""

    def known_on_node(self, principal: str, uid: int) -> str | None:
        """How we know that a node has a job of ``uid``, or None: ask ``check_on_node``."""


class Watcher(Protocol):
    """Who wants to know what is stored: the renewer."""

    def schedule(self, entry: Entry) -> None:
        """``entry`` is now in the store."""

    def forget(self, uid: int) -> None:
        """Nothing is stored for ``uid`` any more."""


_requester = lru_cache(maxsize=4096)(Requester)
_PONG, _ERROR = messages.encode(messages.PingReply()), messages.encode(messages.ErrorReply())
NAMES = {role: role.value for role in Role}  # looked up for each request; an Enum's own way to it is Python code


@dataclass(slots=True)
class _Noted:
    """What a decision's log line will say beside its result."""

    uid: int | None = None
    fields: dict[str, Any] | None = None


class Service:
    """Answers requests.

    Args:
        store, accounts, watcher: what to work on, ask and tell.
        acl: the rules; may be replaced while running, and counts from the next request on.
        jobs: who has a job where; may be replaced while running.
        ledger: notes decisions.
        touch: told of a uid before something of its is stored.
        workers: threads for dumps.
        parse: KRB-CRED bytes to a checked credential, or ProtocolError.
        now: seconds since 1970.
    """

    def __init__(
        self,
        store: Store,
        acl: Acl,
        accounts: UidOf,
        watcher: Watcher,
        workers: Workers,
        parse: Callable[[bytes], KrbCred],
        jobs: JobsOn,
        ledger: Ledger,
        *,
        touch: Callable[[int], None] = lambda uid: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.acl = acl
        self.jobs = jobs
        self._ledger = ledger
        self._touch = touch
        self._store = store
        self._at_once = store if isinstance(store, ReadsAtOnce) else None
        self._accounts = accounts
        self._watcher = watcher
        self._workers = workers
        self._parse = parse
        self._now = now
        self._log = log.get()

    def requester(self, principal: str, peer: str) -> Requester | None:
        """The requester with its role, or None if no rule matches: then it is ``turned_away``."""
        role = self.acl.role(principal, peer)
        return None if role is None else _requester(principal, role, peer)

    async def turned_away(self, principal: str, peer: str) -> None:
        """Note that a connection is closed because no rule matches."""
        with contextlib.suppress(UnavailableError):  # a refusal stands, noted or not
            await self._ledger.note(
                "connect", "refused", principal=principal, peer=peer, error=_no_role(principal, peer)
            )

    def answer_now(self, who: Requester, request: Request) -> bytes | None:
        """The encoded reply to a PING or GET that is allowed, needs nobody's answer and could be noted at once.

        None for everything else, which includes all that is refused or fails: ``answer`` it, nothing was noted yet.
        """
        principal, role, peer = who.principal, who.role, who.peer
        if self.acl.role(principal, peer) is not role or self._ledger.waits:
            return None
        verb, uid, fields = "ping", None, None
        if type(request) is messages.Get:
            verb, uid = "get", request.uid
            try:
                if MAY["get"].get(role) is Reach.ON_NODE:
                    job = self.jobs.known_on_node(principal, uid)
                    if job is None:
                        return None
                    fields = {"job": job}
                if self._at_once is None:
                    return None
                cred = _opened(who, uid, self._at_once.get_now(uid))
                reply = messages.encode_get_reply(uid, cred, slack(len(cred.der)))
            except Error:
                return None
        elif type(request) is messages.Ping:
            reply = _PONG
        else:
            return None
        try:
            self._ledger.note_now(verb, "ok", principal, NAMES[role], peer, uid, fields)
        except UnavailableError:
            return _ERROR
        return reply

    async def answer(self, who: Requester, request: Request) -> Reply | Dump:
        """The reply to a request; an ERROR reply for whatever is refused or fails, and for what cannot be noted."""
        verb = type(request).__name__.lower()
        noted = _Noted()
        try:
            who = self._still(who)
            reply, result = await self._do(who, request, noted)
        except Error as error:
            return await self._error(who, verb, noted, error)
        except Exception:
            self._log.exception("auksd.bug", principal=who.principal, peer=who.peer, verb=verb, uid=noted.uid)
            return await self._error(who, verb, noted, InternalError("a bug; see the log"))
        if verb in ("add", "remove"):
            self._ledger.vitals.stored()
        try:
            await self._note(who, verb, noted, result)
        except UnavailableError:
            if isinstance(reply, Dump):
                await self._workers.run(reply.close)
            return messages.ErrorReply()
        return reply

    async def malformed(self, who: Requester, why: str) -> Reply:
        """The reply to a message that is no request."""
        return await self._error(who, "unknown", _Noted(), RequestError(why, code="wire-malformed"))

    async def forgotten(self, entry: Entry) -> None:
        """Retention has removed ``entry``: note it and stop renewing."""
        self._watcher.forget(entry.uid)
        with contextlib.suppress(UnavailableError):  # it is gone; the log has it
            await self._ledger.note("forget", "ok", principal=entry.principal, uid=entry.uid)

    def _still(self, who: Requester) -> Requester:
        """The requester with the role the rules give it now: they may have been replaced since it connected.

        Raises:
            AccessError: ``no-role``.
        """
        role = self.acl.role(who.principal, who.peer)
        if role is who.role:
            return who
        if role is None:
            raise _no_role(who.principal, who.peer)
        return replace(who, role=role)

    async def _do(self, who: Requester, request: Request, noted: _Noted) -> tuple[Reply | Dump, str]:
        match request:
            case messages.Ping() | messages.List():
                return messages.PingReply(), "ok"
            case messages.Add(cred=data):
                return messages.AddReply(), await self._add(who, data, noted)
            case messages.Get(uid=uid):
                noted.uid = uid
                return await self._get(who, uid, noted), "ok"
            case messages.Remove(uid=uid):
                noted.uid = uid
                return await self._remove(who, uid), "ok"
            case messages.Dump():
                return await self._dump(who, noted), "ok"
        raise RequestError(f"no answer to {request}")

    async def _add(self, who: Requester, data: bytes, noted: _Noted) -> str:
        cred = self._parse(data)
        noted.fields = {"owner": cred.client}
        check_may(who, "add", cred.client)
        check_cred(cred, self._now())
        noted.uid = await self._accounts.uid(cred.client)
        self._touch(noted.uid)
        done = await self._store.put(noted.uid, cred, lambda old, new: replaces(old, new, self._now()))
        noted.fields |= {"endtime": cred.times.endtime, "renew_till": cred.times.renew_till}
        assert done.entry is not None, "replaces() takes whatever comes first"
        if done.stored:
            self._watcher.schedule(done.entry)
            return "stored"
        # The protocol wants a success here; the log says why the ticket was not taken.
        noted.fields |= {"stored_endtime": done.entry.times.endtime, "stored_renew_till": done.entry.times.renew_till}
        return "kept-better"

    async def _get(self, who: Requester, uid: int, noted: _Noted) -> Reply:
        if MAY["get"].get(who.role) is Reach.ON_NODE:  # before the store is looked at: a no tells nothing about it
            noted.fields = {"job": await self.jobs.check_on_node(who.principal, uid)}
        cred = _opened(who, uid, await self._store.get(uid))
        return messages.GetReply(Record.of(uid, cred, slack(len(cred.der))))

    async def _remove(self, who: Requester, uid: int) -> Reply:
        def rule(entry: Entry) -> bool:
            check_may(who, "remove", entry.principal)
            return True

        check_may(who, "remove", who.principal)
        if await self._store.remove(uid, rule) is None:
            raise AccessError(f"no credential is stored for uid {uid}", code="not-found")
        self._watcher.forget(uid)
        return messages.RemoveReply()

    async def _dump(self, who: Requester, noted: _Noted) -> Dump:
        check_may(who, "dump", None)
        dump = await self._workers.run(measure, self._store)
        noted.fields = {"count": dump.count}
        return dump

    async def _error(self, who: Requester, verb: str, noted: _Noted, error: Error) -> Reply:
        with contextlib.suppress(UnavailableError):  # an ERROR it is, noted or not
            await self._note(who, verb, noted, "refused" if error.EXIT < 70 else "failed", error)
        return messages.ErrorReply()

    async def _note(self, who: Requester, verb: str, noted: _Noted, result: str, error: Error | None = None) -> None:
        await self._ledger.note(
            verb,
            result,
            principal=who.principal,
            role=NAMES[who.role],
            peer=who.peer,
            uid=noted.uid,
            fields=noted.fields,
            error=error,
        )


def _no_role(principal: str, peer: str) -> AccessError:
    return AccessError(f"no rule gives {principal} at {peer} a role", code="no-role")


def _opened(who: Requester, uid: int, sealed: Sealed | None) -> KrbCred:
    """What the reply to a GET of what is stored for ``uid`` holds.

    Raises:
        AccessError: it is not theirs, or not there.
        InternalError: ``store-corrupt``.
    """
    check_may(who, "get", sealed.entry.principal if sealed else who.principal)
    if sealed is None:
        raise AccessError(f"no credential is stored for uid {uid}", code="not-found")
    return sealed.open()
