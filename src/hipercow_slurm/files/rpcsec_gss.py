"""RPCSEC_GSS (RFC 2203) with the Kerberos mechanism: krb5 (headers signed), krb5i (bodies too), krb5p (bodies sealed).

Rule 1: nothing from the wire is believed before its signature was checked: the server's window at set-up, the
sequence number of every reply, and the body where the service protects it.
Rule 2: every failure of GSS or Kerberos becomes one of our errors here, in ``translate``, and nowhere else.
Rule 3: one call at a time; the sequence number of a reply is therefore the one just sent.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import gssapi
from gssapi.raw import GSSError

from hipercow_slurm.errors import AccessError, CredentialError, Error, ProtocolError, UnavailableError
from hipercow_slurm.files.rpc import Deadline, Transport
from hipercow_slurm.files.xdr import Reader, opaque, uint

# The name an administrator knows (exports' sec=) -> rpc_gss_service_t.
SERVICES = {"krb5": 1, "krb5i": 2, "krb5p": 3}

_DATA, _INIT, _CONTINUE_INIT, _DESTROY = 0, 1, 2, 3
_AUTH_NONE, _FLAVOR_GSS = 0, 6
_MAX_HANDLE, _MAX_VERIFIER, _MAX_TOKEN = 1024, 400, 65536
_AUTH_STATUS = {
    1: "bad credential",
    2: "rejected credential",
    3: "bad verifier",
    4: "rejected verifier",
    5: "security flavour too weak",
    13: "unknown GSS context",
    14: "GSS context has a problem",
}
_ACCEPT_STATUS = {
    1: "does not offer NFS",
    2: "does not offer NFS version 4",
    3: "does not know the procedure",
    4: "could not read our request",
    5: "has a system error",
}

RENEW = "get a new ticket: log in again, or kinit"

# libkrb5's codes (as signed 32 bit), where they say whose turn it is.
_EXPIRED = (-1765328352, -1765328361)  # KRB5KRB_AP_ERR_TKT_EXPIRED, KRB5KDC_ERR_KEY_EXP
_NO_KDC = (-1765328228, -1765328164)  # KRB5_KDC_UNREACH, KRB5_REALM_CANT_RESOLVE
_SKEW = (-1765328347,)  # KRB5KRB_AP_ERR_SKEW
_UNKNOWN_SERVER = (-1765328377,)  # KRB5KDC_ERR_S_PRINCIPAL_UNKNOWN


@contextlib.contextmanager
def translate(what: str) -> Iterator[None]:
    """Turn GSSAPI's errors inside the block into ours; the message starts with ``what``."""
    try:
        yield
    except GSSError as error:
        raise _ours(error, what) from error


def _ours(error: GSSError, what: str) -> Error:
    code = int(error.min_code)
    code -= (code & 0x8000_0000) << 1
    statuses = error.get_all_statuses(error.min_code, False) or error.get_all_statuses(error.maj_code, True)
    message = f"{what}: {' '.join(str(statuses[0]).split())}"
    if code in _EXPIRED or isinstance(
        error, gssapi.exceptions.ExpiredCredentialsError | gssapi.exceptions.ExpiredContextError
    ):
        return CredentialError(message, code="expired", hint=RENEW)
    if code in _NO_KDC:
        return UnavailableError(message, code="kdc-unreachable", hint="try again when the KDC answers")
    if code in _SKEW:
        return CredentialError(message, code="clock-skew", hint="set this machine's clock")
    if code in _UNKNOWN_SERVER:
        return AccessError(
            message,
            code="unknown-service",
            hint="use the server's full host name; it needs a principal nfs/HOST in the realm",
        )
    if isinstance(error, gssapi.exceptions.MissingCredentialsError):
        return CredentialError(message, code="no-tgt", hint="get a ticket: log in, or kinit")
    return AccessError(f"{message} [{code}]", code="auth-failed")


def initiate(host: str, *, ccache: str | None) -> gssapi.SecurityContext:
    """A GSS context towards ``nfs@host`` with the ticket in ``ccache`` (None: KRB5CCNAME, then the default).

    Raises:
        CredentialError: there is no ticket ("no-tgt"), or it has expired ("expired").
    """
    residual = ccache or os.environ.get("KRB5CCNAME")
    store: dict[bytes | str, bytes | str] | None = {"ccache": residual} if residual else None
    with translate(f"cannot use the ticket in {residual or 'the default credential cache'}"):
        credentials = gssapi.Credentials(usage="initiate", mechs=[gssapi.MechType.kerberos], store=store)
        flags = gssapi.RequirementFlag
        return gssapi.SecurityContext(
            name=gssapi.Name(f"nfs@{host}", gssapi.NameType.hostbased_service),
            creds=credentials,
            usage="initiate",
            mech=gssapi.MechType.kerberos,
            flags=flags.mutual_authentication | flags.integrity | flags.confidentiality,
        )


class Context:
    """An established RPCSEC_GSS context for one program and version on one transport."""

    def __init__(
        self,
        transport: Transport,
        gss: gssapi.SecurityContext,
        *,
        program: int,
        version: int,
        security: str,
        deadline: Deadline,
    ) -> None:
        self._transport, self._gss = transport, gss
        self._program, self._version = program, version
        self._security, self._service = security, SERVICES[security]
        self._xid = int.from_bytes(os.urandom(4), "big")
        self._sequence = 0
        self._handle = b""
        self._establish(deadline)

    def _establish(self, deadline: Deadline) -> None:
        """RFC 2203 section 5.2: exchange tokens in NULL calls until both sides are satisfied."""
        name = self._transport.name
        with translate(f"cannot authenticate to {name}"):
            token = self._gss.step()
        stage = _INIT
        for _ in range(8):
            reply, verifier = self._exchange(
                stage, 0, uint(_AUTH_NONE) + opaque(b""), opaque(token or b""), deadline, limit=_MAX_TOKEN
            )
            self._handle = reply.opaque(limit=_MAX_HANDLE)
            major, minor, window = reply.uint(), reply.uint(), reply.uint()
            token = reply.opaque(limit=_MAX_TOKEN)
            reply.finish()
            if major > 1:
                raise self._refused(major, minor, token)
            with translate(f"cannot authenticate {name}"):
                if token and not self._gss.complete:
                    token = self._gss.step(token)
                if major == 0:
                    # Only now is it proven that the other side holds the key of nfs/host.
                    if not self._gss.complete:
                        raise ProtocolError(f"{name} ended the authentication too early")
                    self._gss.verify_signature(uint(window), verifier)
                    return
            stage = _CONTINUE_INIT
        raise ProtocolError(f"{name} does not come to an end with authentication")

    def _refused(self, major: int, minor: int, token: bytes) -> Error:
        """The server's GSS library said no; what it knows is in the error token, if it sent one."""
        if token:
            with translate(f"{self._transport.name} refuses the ticket"):
                self._gss.step(token)
        return AccessError(
            f"{self._transport.name} refuses the ticket (GSS status {major:#x}, {minor})", code="auth-failed"
        )

    def call(self, procedure: int, arguments: bytes, *, limit: int, deadline: Deadline) -> Reader:
        """Make one protected call; the results, checked, ready to be read.

        Args:
            limit: greatest size of the results in bytes.

        Raises:
            UnavailableError, CredentialError ("expired"), AccessError, ProtocolError.
        """
        self._sequence += 1
        with translate(f"cannot seal a request to {self._transport.name}"):
            body = self._protect(arguments)
        # Sealing and signing add a few hundred bytes at most.
        reply, verifier = self._exchange(_DATA, procedure, None, body, deadline, limit=limit + 1024)
        with translate(f"{self._transport.name} sent a reply that is not genuine"):
            self._gss.verify_signature(uint(self._sequence), verifier)
            return self._open(reply, limit + 1024)

    def _protect(self, arguments: bytes) -> bytes:
        """RFC 2203 section 5.3.2.2 and 5.3.2.3: the sequence number travels with the arguments, under the seal."""
        if self._service == SERVICES["krb5"]:
            return arguments
        data = uint(self._sequence) + arguments
        if self._service == SERVICES["krb5i"]:
            return opaque(data) + opaque(self._gss.get_signature(data))
        return opaque(self._gss.wrap(data, True).message)

    def _open(self, reply: Reader, limit: int) -> Reader:
        if self._service == SERVICES["krb5"]:
            return reply
        if self._service == SERVICES["krb5i"]:
            data = reply.opaque(limit=limit)
            self._gss.verify_signature(data, reply.opaque(limit=_MAX_VERIFIER))
        else:
            sealed = self._gss.unwrap(reply.opaque(limit=limit))
            if not sealed.encrypted:
                raise ProtocolError(f"{self._transport.name} sent a reply in clear where krb5p was agreed")
            data = sealed.message
        reply.finish()
        results = Reader(data)
        if results.uint() != self._sequence:
            raise ProtocolError(f"{self._transport.name} answered another request than ours")
        return results

    def _exchange(
        self,
        stage: int,
        procedure: int,
        verifier: bytes | None,
        body: bytes,
        deadline: Deadline,
        *,
        limit: int,
    ) -> tuple[Reader, bytes]:
        """Send one call and read the reply's envelope: the reader stands at the results; the verifier is unchecked."""
        self._xid = (self._xid + 1) & 0xFFFF_FFFF
        credential = uint(1) + uint(stage) + uint(self._sequence) + uint(self._service) + opaque(self._handle)
        header = b"".join(
            (
                *(uint(n) for n in (self._xid, 0, 2, self._program, self._version, procedure)),
                uint(_FLAVOR_GSS),
                opaque(credential),
            )
        )
        if verifier is None:
            with translate(f"cannot sign a request to {self._transport.name}"):
                verifier = uint(_FLAVOR_GSS) + opaque(self._gss.get_signature(header))
        record = self._transport.exchange(header + verifier + body, limit=limit + 2048, deadline=deadline)
        return self._envelope(Reader(record))

    def _envelope(self, reply: Reader) -> tuple[Reader, bytes]:
        name = self._transport.name
        if (reply.uint(), reply.uint()) != (self._xid, 1):
            raise ProtocolError(f"{name} sent something that is not the reply to our call")
        if reply.uint():
            raise self._denied(reply)
        flavor = reply.uint()
        verifier = reply.opaque(limit=_MAX_VERIFIER)
        if flavor not in (_AUTH_NONE, _FLAVOR_GSS):
            raise ProtocolError(f"{name} sent a verifier of flavour {flavor}")
        status = reply.uint()
        if status:
            raise ProtocolError(f"{name} {_ACCEPT_STATUS.get(status, f'sent the accept status {status}')}")
        return reply, verifier

    def _denied(self, reply: Reader) -> Error:
        name = self._transport.name
        if reply.uint() == 0:
            return ProtocolError(f"{name} does not speak ONC RPC version 2")
        status = reply.uint()
        why = f"{name} denied the call: {_AUTH_STATUS.get(status, f'status {status}')}"
        if status in (13, 14) and self._expired():
            # A context dies with its ticket; the server forgets it then, and says only this.
            return CredentialError(f"{name} no longer takes the ticket: it has expired", code="expired", hint=RENEW)
        if status in (13, 14):
            return UnavailableError(why, code="file-server-error", hint="try again")
        return AccessError(
            why, code="auth-failed", hint=f"check that the server accepts {self._security} and its keytab"
        )

    def _expired(self) -> bool:
        try:
            return int(self._gss.lifetime) <= 0
        except GSSError:
            return True

    def destroy(self, deadline: Deadline) -> None:
        """Tell the server to forget the context; never raises, the server forgets by itself in the end."""
        with contextlib.suppress(Error, GSSError):
            self._sequence += 1
            # The arguments of a destroy are empty and not sealed (RFC 2203 section 5.4; so does the Linux client).
            self._exchange(_DESTROY, 0, None, b"", deadline, limit=4096)
