"""The AP exchange (RFC 4120 section 3.2): bytes in, bytes out, no sockets. KRB-PRIV, once it is done: ``peer.py``.

Wire-compatible with MIT's krb5_sendauth and krb5_recvauth, whose framing is in ``wire/sendauth.py``.

Rule 1: an ``Acceptor`` trusts nobody on an AP-REQ alone. It answers with a subkey of its own; a recorded session
replayed verbatim gets as far as the AP-REP and fails at its first KRB-PRIV. So no replay cache is needed, and
nothing may be done for a peer before its first ``unseal`` has succeeded.
Rule 2: what a peer sent is checked for size and outer shape before libkrb5 sees it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NoReturn

from hipercow_slurm.errors import ProtocolError
from hipercow_slurm.krb5 import calls, codes, convert, keytab, krberror, names
from hipercow_slurm.krb5 import creds as kdc
from hipercow_slurm.krb5.der import check_message
from hipercow_slurm.krb5.krbcred import Ticket, tickets
from hipercow_slurm.krb5.lib import (
    NULL,
    Krb5Error,
    any_context,
    check,
    context,
    error_of,
    ffi,
    lib,
    take_data,
)
from hipercow_slurm.krb5.peer import FAILED, NEW, SENT, Peer
from hipercow_slurm.values import KrbCred

# A ticket from a large Active Directory carries its groups: 64 KiB of it are legal, and then some room.
MAX_AP_REQ = 128 * 1024
MAX_AP_REP = 4 * 1024

AP_REQ, AP_REP = 14, 15

_NO_KEY = codes.NUMBERS["KRB5KRB_AP_ERR_NOKEY"]
_MUTUAL = lib.AP_OPTS_MUTUAL_REQUIRED

# Names of peers by what krb5_unparse_name makes of them, which tells any two apart; emptied when full.
_clients: dict[bytes, str] = {}
_CLIENTS = 4096


@dataclass(frozen=True, slots=True, eq=False)
class ServiceTicket:
    """A ticket for a service, to make many connections with one visit to the KDC.

    Attributes:
        service: full principal text as asked for.
        endtime: unsigned 32-bit seconds; after it, get another.
    """

    service: str
    ticket: Ticket = field(repr=False)

    @property
    def endtime(self) -> int:
        """When it ends."""
        return self.ticket.endtime

    def __reduce__(self) -> NoReturn:
        raise TypeError("a ServiceTicket is never pickled")


def service_ticket(cred: KrbCred, service: str) -> ServiceTicket:
    """Get a ticket for ``service`` from the KDC with a TGT (blocking).

    Raises:
        CredentialError: ``expired``, ``clock-skew``, ``no-tgt``.
        AccessError: ``unknown-service``, ``kdc-refused``.
        UnavailableError: ``kdc-unreachable``.
    """
    wanted = names.full(service)
    return ServiceTicket(wanted, kdc.ticket_for(tickets(cred), wanted))


_get_service_ticket = service_ticket  # Initiator has an argument of that name


class Initiator(Peer):
    """The client's end: ``ap_req()``, send it, ``ap_rep(answer)``, then ``seal`` and ``unseal``.

    Args:
        cred: TGT to get the service ticket with, unless ``service_ticket`` is given.
        service: principal text of the server.
        local, remote: IPv4 addresses of the connection, 4 bytes each; None where there are none (unix socket).
        service_ticket: from ``service_ticket()``; without it the constructor asks the KDC (blocking).
        nat: put b"dummy" in place of both addresses, as auksd in NAT mode wants it.

    Raises:
        as ``service_ticket()``.
    """

    def __init__(
        self,
        cred: KrbCred | None,
        service: str,
        *,
        local: bytes | None,
        remote: bytes | None,
        service_ticket: ServiceTicket | None = None,
        nat: bool = False,
    ) -> None:
        if service_ticket is None:
            if cred is None:
                raise ValueError("an Initiator needs a TGT or a service ticket")
            service_ticket = _get_service_ticket(cred, service)
        super().__init__(local, remote)
        self.service = service_ticket.service
        self._ticket = service_ticket.ticket
        holder = calls.own.scratch.auth
        own, peer, _keep = self._addresses()
        check(calls.begin(any_context(), self._FLAGS, own, peer, holder), "set up authentication", codes.SETUP)
        self._own(holder[0])
        # After the AP exchange: a ticket's own addresses are compared with the real ones.
        self._real = self._real and not nat

    def ap_req(self) -> bytes:
        """The AP-REQ: mutual authentication, with subkey and sequence number, no checksum."""
        if self._state is not NEW:
            raise self._out_of_order()
        self._state = FAILED
        creds, _keep = convert.creds(self._ticket)
        options = lib.AP_OPTS_MUTUAL_REQUIRED | lib.AP_OPTS_USE_SUBKEY
        holder, out = calls.own.scratch.auth, ffi.new("krb5_data *")
        holder[0] = self._auth
        code = lib.krb5_mk_req_extended(context(), holder, options, NULL, creds, out)
        check(code, f"authenticate to {self.service}", codes.INITIATE)
        self._state = SENT
        return take_data(out)

    def ap_rep(self, data: bytes) -> None:
        """Check the server's AP-REP and take over its subkey.

        Raises:
            ProtocolError: ``wire-malformed`` or ``auth-failed``: it is not from who can open our AP-REQ.
        """
        if self._state is not SENT:
            raise self._out_of_order()
        self._state = FAILED
        check_message(data, AP_REP, "AP-REP", limit=MAX_AP_REP)
        source, keep = ffi.new("krb5_data *"), ffi.from_buffer(data)
        source.length, source.data = len(data), keep
        holder = ffi.new("krb5_ap_rep_enc_part **")
        code = lib.krb5_rd_rep(context(), self._auth, source, holder)
        check(code, f"verify {self.service}", codes.INITIATE)
        lib.krb5_free_ap_rep_enc_part(context(), holder[0])
        self._join()


class Acceptor(Peer):
    """The server's end: ``ap_req(received)`` gives the AP-REP to send, then ``unseal`` and ``seal``.

    Args:
        keytab: name of the keytab; a rotated one is picked up by itself (``keytab.loaded``).
        service: principal text the ticket must be for; None takes any key in the keytab.
        local, remote: IPv4 addresses of the connection, 4 bytes each; None where there are none (unix socket).

    Attributes:
        client: full principal text of the peer, after ``ap_req``.
    """

    _FLAGS = lib.KRB5_AUTH_CONTEXT_DO_SEQUENCE | lib.KRB5_AUTH_CONTEXT_USE_SUBKEY

    def __init__(self, keytab: str, service: str | None, *, local: bytes | None, remote: bytes | None) -> None:
        super().__init__(local, remote)
        self._keytab = keytab
        self._service = service
        self.client = ""

    def ap_req(self, data: bytes) -> bytes:
        """Check the client's AP-REQ; the AP-REP that answers it.

        Raises:
            ProtocolError: ``wire-malformed`` or ``auth-failed``.
            CredentialError: ``expired``, ``clock-skew``, ``not-for-us`` (another service's ticket, or a key we do
                not have), ``wrong-address``, ``ticket-invalid``.
            ConfigError: ``keytab``: it cannot be read.
        """
        if self._state is not NEW:
            raise self._out_of_order()
        self._state = FAILED
        check_message(data, AP_REQ, "AP-REQ", limit=MAX_AP_REQ)
        ctx, scratch, keys = context(), calls.own.scratch, keytab.loaded(self._keytab)
        code = self._accept(ctx, scratch, data, keys)
        if code and (keys := keytab.newer(self._keytab, keys)) is not None:
            code = self._accept(ctx, scratch, data, keys)
        if code:
            if code == _NO_KEY:
                keytab.principals(self._keytab)  # libkrb5 says the same of a keytab it cannot read: ours, then
            raise error_of(code, "accept a ticket", codes.ACCEPT)
        self._own(scratch.auth[0])
        if not scratch.options[0] & _MUTUAL:
            raise ProtocolError("AP-REQ: the client does not want us to prove who we are", code="auth-failed")
        answer: bytes = ffi.unpack(scratch.out, scratch.made[0])
        self.client = self._client(ctx, ffi.string(scratch.client))
        self._join()
        return answer

    def _accept(self, ctx: Any, scratch: calls.Scratch, data: bytes, keys: Any) -> int:
        """Have libkrb5 check an AP-REQ and answer it; what it made of it is in ``scratch``."""
        server = calls.principal(self._service) if self._service is not None else NULL
        own, peer, _keep = self._addresses()
        code: int = calls.accept(
            ctx,
            self._FLAGS,
            own,
            peer,
            scratch.auth,
            data,
            len(data),
            server,
            keys,
            scratch.options,
            scratch.out,
            calls.OUT,
            scratch.made,
            scratch.client,
            calls.CLIENT,
        )
        return code

    def krb_error(self, error: Exception) -> bytes:
        """The KRB-ERROR that tells a refused client why, as krb5_recvauth would; without our own words."""
        cause = error.__cause__
        number = cause.number if isinstance(cause, Krb5Error) else codes.NUMBERS["KRB5KRB_AP_ERR_MSG_TYPE"]
        return krberror.build(number, names.full(self._service or "?"))

    def _client(self, ctx: Any, written: bytes) -> str:
        """The peer's name, which libkrb5 writes as ``written`` (empty: it is not known how), as we do."""
        known = _clients.get(written)
        if known is None:
            known = self._authenticated(ctx)
            if written:
                if len(_clients) >= _CLIENTS:
                    _clients.clear()
                _clients[written] = known
        return known

    def _authenticated(self, ctx: Any) -> str:
        holder = calls.own.scratch.authenticator
        code = lib.krb5_auth_con_getauthenticator(ctx, self._auth, holder)
        check(code, "accept a ticket", codes.ACCEPT)
        try:
            return convert.principal_text(holder[0].client)
        finally:
            lib.krb5_free_authenticator(ctx, holder[0])

    def _try_dummy(self) -> bool:
        if self._proved:
            return False
        self._use_dummy()
        return True
