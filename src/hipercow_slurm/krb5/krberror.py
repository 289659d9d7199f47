"""KRB-ERROR (RFC 4120 section 5.9): build the one that refuses a handshake, read the one that refuses ours."""

from __future__ import annotations

import time

from hipercow_slurm.errors import Error, ProtocolError
from hipercow_slurm.krb5 import asn1, codes
from hipercow_slurm.krb5.der import check_message
from hipercow_slurm.krb5.principal import Principal

KRB_ERROR = 30
MAX_KRB_ERROR = 64 * 1024
GENERIC = 60  # KRB_ERR_GENERIC: what goes on the wire for errors that are not of the protocol


def build(number: int, service: str) -> bytes:
    """A KRB-ERROR from ``service`` with the protocol error that a libkrb5 number stands for; no text."""
    code = number - codes.KRB5_BASE
    seconds, susec = divmod(time.time_ns() // 1000, 1_000_000)
    server = Principal.parse(service)
    message = asn1.KrbError(
        pvno=5,
        msg_type=KRB_ERROR,
        ctime=None,
        cusec=None,
        stime=asn1.time(seconds),
        susec=susec,
        error_code=code if 0 < code < 128 else GENERIC,
        crealm=None,
        cname=None,
        realm=asn1.string(server.realm),
        sname=asn1.name(server),
        e_text=None,
        e_data=None,
    )
    return asn1.dump(message, application=KRB_ERROR)


def meaning(data: bytes, service: str) -> Error:
    """Our error for a KRB-ERROR that a server answered our AP-REQ with.

    Raises:
        ProtocolError: it is not a KRB-ERROR.
    """
    check_message(data, KRB_ERROR, "KRB-ERROR", limit=MAX_KRB_ERROR)
    code = asn1.load(asn1.KrbError, data, "KRB-ERROR", application=KRB_ERROR).error_code
    if code < 0:
        raise ProtocolError("KRB-ERROR: an error code that is out of range")
    number = codes.KRB5_BASE + code
    row = codes.row(number, codes.ACCEPT)
    name = codes.name_of(number) or "protocol error"
    if row == codes.DEFAULTS[codes.ACCEPT]:
        return ProtocolError(f"{service} refused our ticket: {name} {code}", code="auth-failed")
    return row.family(f"{service} refused our ticket: {name} {code}", code=row.code, hint=row.hint)
