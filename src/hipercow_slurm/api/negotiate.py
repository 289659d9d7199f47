"""HTTP Negotiate (RFC 4559): one SPNEGO token in, one out, and the ticket the user delegated. No sockets.

Replayed tokens are refused by libkrb5's own replay cache. Channel bindings are not compared: Python's TLS server
does not show them, and clients that send none would be locked out.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import secrets
from typing import NamedTuple

import gssapi
from gssapi.raw.misc import GSSError

from hipercow_slurm.errors import AccessError, ConfigError, CredentialError, Error, RequestError
from hipercow_slurm.krb5 import ccache, codes
from hipercow_slurm.values import KrbCred

MAX_TOKEN = 64 * 1024


class Negotiated(NamedTuple):
    """Who the client is, what proves us to it (base64), and its ticket if it delegated one."""

    principal: str
    answer: str
    cred: KrbCred | None


def accept(token: str, *, keytab: str, service: str) -> Negotiated:
    """Judge the credentials of an ``Authorization: Negotiate`` header.

    Raises:
        RequestError: not base64, or more than 64 KiB.
        AccessError: 401 ``negotiate-failed``: not a token for us, or one that wants a second round.
        CredentialError: 401 ``expired``, ``clock-skew``, ``not-for-us`` ...: libkrb5's reasons, as everywhere.
        ConfigError: our keytab cannot be used.
    """
    try:
        octets = base64.b64decode(token, validate=True)
    except (binascii.Error, ValueError):
        octets = b""
    if not 0 < len(octets) <= MAX_TOKEN:
        raise RequestError("the Negotiate token is not base64, empty or too large", code="bad-token")
    name = gssapi.Name(service, gssapi.NameType.kerberos_principal)
    try:
        ours = gssapi.Credentials(usage="accept", name=name, store={"keytab": keytab})
    except GSSError as error:
        raise ConfigError(f"cannot accept tickets for {service} with the keytab {keytab}", code="keytab") from error
    context = gssapi.SecurityContext(creds=ours, usage="accept")
    try:
        answer = context.step(octets)
        complete = context.complete  # python-gssapi raises here what step found, if it had words for the client too
    except GSSError as error:
        raise _refusal(error) from error
    if not complete:
        raise _failed("it wants more than one round")
    client = str(context.initiator_name)
    cred = _delegated(context)
    if cred is not None and cred.client != client:
        raise _failed("the delegated ticket is another principal's")
    return Negotiated(client, base64.b64encode(answer or b"").decode("ascii"), cred)


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


def _failed(why: str) -> AccessError:
    return AccessError(
        f"the Negotiate token is refused: {why}",
        code="negotiate-failed",
        status=401,
        hint="kinit, then ask again; klist shows the tickets",
    )
