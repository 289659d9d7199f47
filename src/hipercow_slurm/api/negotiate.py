"""HTTP Negotiate (RFC 4559): one SPNEGO token in, one out, and the ticket the user delegated. No sockets.

Replayed tokens are refused by libkrb5's own replay cache. Channel bindings are those of our certificate, which need
nothing of the connection itself.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import secrets
from typing import NamedTuple

import gssapi
from gssapi.raw import inquire_sec_context_by_oid
from gssapi.raw.chan_bindings import ChannelBindings
from gssapi.raw.exceptions import BadChannelBindingsError
from gssapi.raw.misc import GSSError

from hipercow_slurm.api.binding import EndPoint
from hipercow_slurm.api.config import Api
from hipercow_slurm.errors import AccessError, ConfigError, CredentialError, Error, RequestError
from hipercow_slurm.krb5 import ccache, codes, enctypes
from hipercow_slurm.values import KrbCred

MAX_TOKEN = 64 * 1024

# GSS_C_INQ_SSPI_SESSION_KEY of MIT's gssapi_ext.h; the answer's second part is an OID that ends in the key's type.
_SESSION_KEY = gssapi.OID.from_int_seq("1.2.840.113554.1.2.2.5.5")
_ENCTYPE = bytes.fromhex("2a864886f71201020204")  # 1.2.840.113554.1.2.2.4


class Negotiated(NamedTuple):
    """Who the client is, what proves us to it (base64), and its ticket if it delegated one."""

    principal: str
    answer: str
    cred: KrbCred | None


class Acceptor:
    """Judges tokens with our keytab, for our TLS certificate."""

    def __init__(self, api: Api, service: str, seen: EndPoint) -> None:
        self._api = api
        self._service = service
        self._seen = seen

    def accept(self, token: str) -> Negotiated:
        """Judge the credentials of an ``Authorization: Negotiate`` header.

        Raises:
            RequestError: not base64, or more than 64 KiB.
            AccessError: 401 ``negotiate-failed``: not a token for us, or one that wants a second round; 403
                ``other-channel``: made for another TLS certificate than ours, or for none where that is required.
            CredentialError: 401 ``expired``, ``clock-skew``, ``not-for-us`` ...: libkrb5's reasons, as everywhere; 403
                ``weak-encryption``.
            ConfigError: our keytab cannot be used.
        """
        try:
            octets = base64.b64decode(token, validate=True)
        except (binascii.Error, ValueError):
            octets = b""
        if not 0 < len(octets) <= MAX_TOKEN:
            raise RequestError("the Negotiate token is not base64, empty or too large", code="bad-token")
        context = gssapi.SecurityContext(creds=self._ours(), usage="accept", channel_bindings=self._channel())
        try:
            answer = context.step(octets)
            complete = context.complete  # python-gssapi raises here what step found, if it had words for the client too
        except BadChannelBindingsError as error:
            raise _other_channel("was made for another TLS certificate than this service's") from error
        except GSSError as error:
            raise _refusal(error) from error
        if not complete:
            raise _failed("it wants more than one round")
        self._check(context)
        client = str(context.initiator_name)
        cred = _delegated(context)
        if cred is not None and cred.client != client:
            raise _failed("the delegated ticket is another principal's")
        return Negotiated(client, base64.b64encode(answer or b"").decode("ascii"), cred)

    def _ours(self) -> gssapi.Credentials:
        name = gssapi.Name(self._service, gssapi.NameType.kerberos_principal)
        try:
            return gssapi.Credentials(usage="accept", name=name, store={"keytab": self._api.keytab})
        except GSSError as error:
            raise ConfigError(
                f"cannot accept tickets for {self._service} with the keytab {self._api.keytab}", code="keytab"
            ) from error

    def _channel(self) -> ChannelBindings | None:
        """What a client must have bound its token to, if it has bound it to anything (MIT 1.19 and newer)."""
        if self._api.channel_binding == "off" or self._seen.data is None:
            return None
        return ChannelBindings(application_data=self._seen.data)

    def _check(self, context: gssapi.SecurityContext) -> None:
        """What the token's exchange rests on."""
        bound = int(context.actual_flags) & gssapi.RequirementFlag.channel_bound
        if self._api.channel_binding == "require" and not bound:
            raise _other_channel("does not say which TLS certificate its sender saw")
        if self._api.weak_enctypes == "refuse":
            _, kind = inquire_sec_context_by_oid(context, _SESSION_KEY)
            enctypes.refuse(
                kind[-1] if kind.startswith(_ENCTYPE) and len(kind) == len(_ENCTYPE) + 1 else 0, "the token"
            )


def _delegated(context: gssapi.SecurityContext) -> KrbCred | None:
    """The delegated TGT, by way of a cache in memory that gssapi and our binding of libkrb5 both see."""
    given = context.delegated_creds
    if given is None:
        return None
    name = f"MEMORY:hipercow-slurm-{secrets.token_hex(16)}"
    try:
        given.store(store={"ccache": name}, usage="initiate", overwrite=True)
    except GSSError as error:
        raise _failed("the delegated ticket cannot be used") from error
    return ccache.take_tgt(name)


def _refusal(error: GSSError) -> Error:
    """libkrb5's reason is the minor status; SPNEGO's own come out as ``negotiate-failed``."""
    minor = int(getattr(error, "min_code", 0))
    number = minor - 2**32 if minor >= 2**31 else minor
    with contextlib.suppress(KeyError):
        row = codes.ERRORS.get((codes.ACCEPT, codes.NAMES[number])) or codes.ERRORS[codes.ANY, codes.NAMES[number]]
        if issubclass(row.family, CredentialError):
            name = codes.NAMES[number]
            return CredentialError(f"the ticket is refused: {name} {number}", code=row.code, hint=row.hint, status=401)
    return _failed("it is not for this service, or damaged")


def _other_channel(why: str) -> AccessError:
    return AccessError(
        f"the Negotiate token {why}",
        code="other-channel",
        hint="somebody may stand between you and the service; an administrator should look at [api] channel_binding",
    )


def _failed(why: str) -> AccessError:
    return AccessError(
        f"the Negotiate token is refused: {why}",
        code="negotiate-failed",
        status=401,
        hint="kinit, then ask again; klist shows the tickets",
    )
