"""One request of the signer, from the bytes of an AP-REQ to the bytes of a reply, and its line in the audit log.

Rule 1: nothing here takes a name: who gets the token is who the ticket says. Rule 2: exactly one audit line per
request, ``signer.signed`` or ``signer.refused``; the token is in none. Blocking (keytab, name service): callers
use threads.
"""

from __future__ import annotations

import pwd
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from joserfc import jwt

from hipercow_slurm import log
from hipercow_slurm.errors import AccessError, Error, InternalError
from hipercow_slurm.krb5 import names
from hipercow_slurm.krb5.auth import Acceptor
from hipercow_slurm.signer import messages
from hipercow_slurm.signer.keys import SigningKey
from hipercow_slurm.signer.messages import Signed
from hipercow_slurm.signer.policy import Account, Grant, Rules, decide


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of the socket, as the kernel tells it (SO_PEERCRED)."""

    pid: int
    uid: int


@dataclass(slots=True)
class _Audit:
    """What is known about a request so far, for its audit line."""

    peer: Peer
    principal: str | None = None
    localname: str | None = None
    uid: int | None = None

    def fields(self) -> dict[str, object]:
        known = {"principal": self.principal, "sun": self.localname, "uid": self.uid}
        return {
            **{key: value for key, value in known.items() if value is not None},
            "peer_uid": self.peer.uid,
            "peer_pid": self.peer.pid,
        }


@dataclass(frozen=True, slots=True)
class Service:
    """Everything a decision needs; shared by all threads, never changed.

    Attributes:
        allowed: uids that may ask.
    """

    keytab: str
    service: str
    key: SigningKey
    rules: Rules
    allowed: frozenset[int]
    clock: Callable[[], float] = field(default=time.time)

    def answer(self, ap_req: bytes, peer: Peer) -> bytes:
        """The reply's frame; never raises, and leaves one line in the audit log."""
        audit = _Audit(peer)
        try:
            grant, reply = self._sign(ap_req, audit)
        except Error as error:
            return self._refusal(error, audit)
        except Exception:
            log.get().exception("signer.bug")
            return self._refusal(InternalError("the signer failed on this request", code="bug"), audit)
        log.get().info("signer.signed", **audit.fields(), iat=grant.iat, exp=grant.exp, kid=self.key.kid)
        return reply

    def refuse(self, error: Error, peer: Peer) -> bytes:
        """The reply's frame for a request that was not read to its end; one audit line, too."""
        return self._refusal(error, _Audit(peer))

    def _refusal(self, error: Error, audit: _Audit) -> bytes:
        log.get().warning("signer.refused", **audit.fields(), code=error.code, why=error.message)
        return messages.refused(error)

    def _sign(self, ap_req: bytes, audit: _Audit) -> tuple[Grant, bytes]:
        # No addresses: a unix socket has none, and both ends leave them out alike.
        with Acceptor(self.keytab, self.service, local=None, remote=None) as acceptor:
            ap_rep = acceptor.ap_req(ap_req)
            audit.principal = acceptor.client
            audit.localname = names.localname(acceptor.client)
            account = look_up(audit.localname)
            audit.uid = account.uid if account is not None else None
            grant = decide(acceptor.client, audit.localname, account, self.rules, now=int(self.clock()))
            signed = Signed(token(grant, self.key), grant.localname, grant.uid, grant.exp)
            return grant, messages.granted(ap_rep, acceptor.seal(msgspec.json.encode(signed)))


def may_ask(peer: Peer, allowed: frozenset[int]) -> None:
    """Refuse a process that is not one of ours.

    Raises:
        AccessError: ``peer-denied``.
    """
    if peer.uid not in allowed:
        raise AccessError(f"uid {peer.uid} may not ask this signer", code="peer-denied")


def token(grant: Grant, key: SigningKey) -> str:
    """The JWT slurmctld checks (RS256; the ``kid`` is mandatory, ``exp`` must be an integer)."""
    claims = {"sun": grant.localname, "iat": grant.iat, "exp": grant.exp}
    return jwt.encode({"alg": "RS256", "kid": key.kid}, claims, key.key, algorithms=["RS256"])


def look_up(localname: str) -> Account | None:
    """The account of that name, or None (blocking: LDAP, SSSD)."""
    try:
        row = pwd.getpwnam(localname)
    except (KeyError, ValueError):  # ValueError: an embedded NUL
        return None
    return Account(row.pw_name, row.pw_uid)
