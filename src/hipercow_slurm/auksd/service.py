"""What the cache decides: who may do what, what is stored, what is answered. No sockets.

The functions at the top are pure: time is an argument. ``Service`` asks them, does what they say with the store, and
writes one log line per decision. Source: protocol notes, sections 7, 8 and 10.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from hipercow_slurm import log
from hipercow_slurm.auksd.acl import Acl, Role
from hipercow_slurm.auksd.workers import Workers
from hipercow_slurm.errors import AccessError, CredentialError, Error, RequestError
from hipercow_slurm.store.base import Entry, Store
from hipercow_slurm.values import KrbCred
from hipercow_slurm.wire import messages
from hipercow_slurm.wire.messages import MAX_CRED, MAX_PRINCIPAL, Record, Reply, Request


class Reach(Enum):
    """Whose credentials a role may touch with a verb."""

    NONE = 0
    OWN = 1
    ANY = 2


# verb -> role -> reach; verbs that are not here need any role at all
MAY: dict[str, dict[Role, Reach]] = {
    "add": {Role.GUEST: Reach.OWN, Role.USER: Reach.OWN, Role.ADMIN: Reach.ANY},
    "get": {Role.GUEST: Reach.NONE, Role.USER: Reach.OWN, Role.ADMIN: Reach.ANY},
    "remove": {Role.GUEST: Reach.NONE, Role.USER: Reach.OWN, Role.ADMIN: Reach.ANY},
    "dump": {Role.GUEST: Reach.NONE, Role.USER: Reach.NONE, Role.ADMIN: Reach.ANY},
}


@dataclass(frozen=True, slots=True)
class Requester:
    """A proven principal, its role and the address it comes from."""

    principal: str
    role: Role
    peer: str


def check_may(who: Requester, verb: str, owner: str | None) -> None:
    """Refuse ``verb`` on a credential of ``owner`` (None: of everybody).

    Raises:
        AccessError: ``role-denied`` or ``principal-mismatch``.
    """
    reach = MAY[verb][who.role]
    if reach is Reach.NONE:
        raise AccessError(f"role {who.role.value} may not {verb}", code="role-denied")
    if reach is Reach.OWN and owner != who.principal:
        raise AccessError(f"{who.principal} may not {verb} a credential of {owner}", code="principal-mismatch")


def check_cred(cred: KrbCred, now: float) -> None:
    """Refuse a credential no node could use.

    Raises:
        CredentialError: ``addressful`` or ``expired``.
        RequestError: its principal does not fit a record.
    """
    if len(cred.client.encode()) > MAX_PRINCIPAL:
        raise RequestError(f"the principal is longer than {MAX_PRINCIPAL} bytes", code="principal-too-long")
    if not cred.addressless:
        raise CredentialError(
            f"the ticket of {cred.client} is bound to addresses",
            code="addressful",
            hint="get one without: noaddresses = true in krb5.conf",
        )
    if cred.times.endtime <= now:
        raise CredentialError(f"the ticket of {cred.client} has expired", code="expired")


def replaces(old: Entry | None, new: Entry, now: float) -> bool:
    """True if ``new`` takes the place of ``old``.

    The later renew_till wins, then the later endtime. An expired one never keeps its place: the original would have
    cleaned it away by then.
    """
    if old is None or old.times.endtime <= now:
        return True
    if new.times.renew_till != old.times.renew_till:
        return new.times.renew_till > old.times.renew_till
    return new.times.endtime >= old.times.endtime


def compact(length: int) -> int:
    """Field size of a GET reply: small, with room for a stock client to renew in place."""
    return min(MAX_CRED, max(4096, 2 * length))


def slack(length: int) -> int:
    """Field size in a DUMP reply: a stock auksdrenewer fails if the renewed credential does not fit it."""
    return min(MAX_CRED, length + 1024)


class UidOf(Protocol):
    """``accounts.Accounts``, as far as it is needed here."""

    async def uid(self, principal: str) -> int:
        """The uid of a principal's local account, or AccessError."""


class Watcher(Protocol):
    """Who wants to know what is stored: the renewer."""

    def schedule(self, entry: Entry) -> None:
        """``entry`` is now in the store."""

    def forget(self, uid: int) -> None:
        """Nothing is stored for ``uid`` any more."""


@dataclass(slots=True)
class _Noted:
    """What a decision's log line will say beside its result."""

    uid: int | None = None
    fields: dict[str, Any] | None = None


class Service:
    """Answers requests.

    Args:
        store, accounts, watcher: what to work on, ask and tell.
        acl: the rules; may be replaced while running.
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
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.acl = acl
        self._store = store
        self._accounts = accounts
        self._watcher = watcher
        self._workers = workers
        self._parse = parse
        self._now = now
        self._log = log.get()

    def admit(self, principal: str, peer: str) -> Requester | None:
        """The requester with its role, or None (and a log line) if no rule matches: then the connection is closed."""
        role = self.acl.role(principal, peer)
        if role is None:
            self._log.warning(
                "auksd.request", principal=principal, peer=peer, verb="connect", result="refused", code="no-role"
            )
            return None
        return Requester(principal, role, peer)

    async def answer(self, who: Requester, request: Request) -> Reply:
        """The reply to a request; an ERROR reply for whatever is refused or fails, and one log line in any case."""
        verb = type(request).__name__.lower()
        noted = _Noted()
        try:
            reply, result = await self._do(who, request, noted)
        except Error as error:
            self._note(who, verb, noted, "refused" if error.EXIT < 70 else "failed", error)
            return messages.ErrorReply()
        except Exception:
            self._log.exception("auksd.bug", principal=who.principal, peer=who.peer, verb=verb, uid=noted.uid)
            return messages.ErrorReply()
        self._note(who, verb, noted, result)
        return reply

    def malformed(self, who: Requester, why: str) -> Reply:
        """The reply to a message that is no request."""
        self._note(who, "unknown", _Noted(), "refused", RequestError(why, code="wire-malformed"))
        return messages.ErrorReply()

    async def _do(self, who: Requester, request: Request, noted: _Noted) -> tuple[Reply, str]:
        match request:
            case messages.Ping() | messages.List():
                return messages.PingReply(), "ok"
            case messages.Add(cred=data):
                return messages.AddReply(), await self._add(who, data, noted)
            case messages.Get(uid=uid):
                noted.uid = uid
                return await self._get(who, uid), "ok"
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
        done = await self._store.put(noted.uid, cred, lambda old, new: replaces(old, new, self._now()))
        noted.fields |= {"endtime": cred.times.endtime, "renew_till": cred.times.renew_till}
        assert done.entry is not None, "replaces() takes whatever comes first"
        if done.stored:
            self._watcher.schedule(done.entry)
            return "stored"
        # The protocol wants a success here; the log says why the ticket was not taken.
        noted.fields |= {"stored_endtime": done.entry.times.endtime, "stored_renew_till": done.entry.times.renew_till}
        return "kept-better"

    async def _get(self, who: Requester, uid: int) -> Reply:
        sealed = await self._store.get(uid)
        check_may(who, "get", sealed.entry.principal if sealed else who.principal)
        if sealed is None:
            raise AccessError(f"no credential is stored for uid {uid}", code="not-found")
        cred = sealed.open()
        return messages.GetReply(Record.of(uid, cred, compact(len(cred.der))))

    async def _remove(self, who: Requester, uid: int) -> Reply:
        def rule(entry: Entry) -> bool:
            check_may(who, "remove", entry.principal)
            return True

        check_may(who, "remove", who.principal)
        if await self._store.remove(uid, rule) is None:
            raise AccessError(f"no credential is stored for uid {uid}", code="not-found")
        self._watcher.forget(uid)
        return messages.RemoveReply()

    async def _dump(self, who: Requester, noted: _Noted) -> Reply:
        check_may(who, "dump", None)
        records = await self._workers.run(self._all_records)
        noted.fields = {"count": len(records)}
        return messages.DumpReply(records)

    def _all_records(self) -> tuple[Record, ...]:
        """Every record that opens; one that does not is logged and left out. Runs in a thread."""
        records = []
        for sealed in self._store.dump():
            try:
                cred = sealed.open()
            except Error as error:
                self._log.error("store.corrupt", uid=sealed.entry.uid, why=error.message)
                continue
            records.append(Record.of(sealed.entry.uid, cred, slack(len(cred.der))))
        return tuple(records)

    def _note(self, who: Requester, verb: str, noted: _Noted, result: str, error: Error | None = None) -> None:
        fields: dict[str, Any] = {"principal": who.principal, "role": who.role.value, "peer": who.peer, "verb": verb}
        if noted.uid is not None:
            fields["uid"] = noted.uid
        fields |= noted.fields or {}
        fields["result"] = result
        if error is None:
            self._log.info("auksd.request", **fields)
        else:
            self._log.warning("auksd.request", **fields, code=error.code, why=error.message)
