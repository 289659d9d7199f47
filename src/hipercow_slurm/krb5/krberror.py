"""KRB-ERROR (RFC 4120 section 5.9): build the one that refuses a handshake, read the one that refuses ours."""

from __future__ import annotations

import time

from hipercow_slurm.errors import Error, ProtocolError
from hipercow_slurm.krb5 import codes, der, fields
from hipercow_slurm.krb5.der import Reader
from hipercow_slurm.krb5.principal import Principal

KRB_ERROR = 30
MAX_KRB_ERROR = 64 * 1024
GENERIC = 60  # KRB_ERR_GENERIC: what goes on the wire for errors that are not of the protocol


def build(number: int, service: str) -> bytes:
    """A KRB-ERROR from ``service`` with the protocol error that a libkrb5 number stands for; no text."""
    code = number - codes.KRB5_BASE
    now = time.time_ns() // 1000
    server = Principal.parse(service)
    body = der.sequence(
        der.integer(5),
        der.integer(KRB_ERROR),
        None,
        None,
        fields.time(now // 1_000_000),
        der.integer(now % 1_000_000),
        der.integer(code if 0 < code < 128 else GENERIC),
        None,
        None,
        fields.text(server.realm),
        fields.principal(server),
    )
    return der.value(der.application(KRB_ERROR), body)


def meaning(data: bytes, service: str) -> Error:
    """Our error for a KRB-ERROR that a server answered our AP-REQ with.

    Raises:
        ProtocolError: it is not a KRB-ERROR.
    """
    der.check_message(data, KRB_ERROR, "KRB-ERROR", limit=MAX_KRB_ERROR)
    body = Reader(data, "KRB-ERROR").enter(der.application(KRB_ERROR)).enter(der.SEQUENCE)
    for tag in range(6):  # pvno and msg-type are checked; ctime, cusec, stime, susec are of no interest here
        if body.next_is(der.context(tag)):
            body.content(der.context(tag))
    code = fields.read_integer(body.enter(der.context(6)), 0, 2**31 - 1)
    number = codes.KRB5_BASE + code
    row = codes.row(number, codes.ACCEPT)
    name = codes.name_of(number) or "protocol error"
    if row == codes.DEFAULTS[codes.ACCEPT]:
        return ProtocolError(f"{service} refused our ticket: {name} {code}", code="auth-failed")
    return row.family(f"{service} refused our ticket: {name} {code}", code=row.code, hint=row.hint)
