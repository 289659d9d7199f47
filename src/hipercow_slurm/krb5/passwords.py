"""Changing a password that must be changed before the KDC gives a ticket (kpasswd, RFC 3244). Blocking, as ``creds``.

Rule 1: no new password goes to a KDC that has not proved itself. The old password alone cannot make it prove
anything, so the exchange is armoured with a ticket of our own, and only the KDC that knows our key can answer.
Rule 2: the ticket for changing proves the old password; whoever holds it needs that no more, so nobody keeps it.
"""

from __future__ import annotations

from hipercow_slurm.errors import RequestError
from hipercow_slurm.krb5 import codes, convert, names
from hipercow_slurm.krb5.creds import armored, empty_creds
from hipercow_slurm.krb5.krbcred import Ticket
from hipercow_slurm.krb5.lib import NULL, check, context, error_of, ffi, fresh, lib, take_data, wipe
from hipercow_slurm.values import KrbCred

SERVICE = b"kadmin/changepw"
LIFE_S = 300


def change_ticket(principal: str, password: bytearray, *, armor: KrbCred) -> Ticket:
    """Get the ticket with which the principal may change its password; the KDC gives it for one that is too old.

    The caller's ``password`` is not changed; the copy made for libkrb5 is overwritten.

    Raises:
        CredentialError: ``login-failed``: the old password is wrong; the others of ``creds.password_tgt``.
        UnavailableError: ``kdc-unreachable``.
        AccessError: the KDC cannot be armoured, or refuses.
    """
    user = names.full(principal)
    doing = f"begin to change the password of {user}"
    if not password or 0 in password:
        raise error_of(codes.NUMBERS["KRB5KDC_ERR_PREAUTH_FAILED"], doing, codes.LOGIN)
    client, found = convert.principal(user), empty_creds()
    secret = ffi.new("char[]", len(password) + 1)
    try:
        ffi.memmove(secret, password, len(password))
        with fresh() as own_context, armored(own_context, LIFE_S, 0, armor, required=True) as options:
            lib.krb5_get_init_creds_opt_set_forwardable(options, 0)
            code = lib.krb5_get_init_creds_password(own_context, found, client, secret, NULL, NULL, 0, SERVICE, options)
            check(code, doing, codes.LOGIN, own_context)
    finally:
        wipe(secret)
    return convert.ticket(found)


def change_password(ticket: Ticket, password: bytearray) -> None:
    """Set the new password of the ticket's owner; the copy made for libkrb5 is overwritten.

    Raises:
        RequestError: ``password-rejected`` (422): the KDC's rules, in its words. The ticket stays good.
        UnavailableError: ``kdc-unreachable``: also for the password service.
    """
    doing = f"change the password of {ticket.client}"
    secret = ffi.new("char[]", len(password) + 1)
    result, kind, said = ffi.new("int *"), ffi.new("krb5_data *"), ffi.new("krb5_data *")
    try:
        ffi.memmove(secret, password, len(password))
        creds, _keep = convert.creds(ticket)
        check(lib.krb5_change_password(context(), creds, secret, result, kind, said), doing, codes.TGS)
    finally:
        wipe(secret)
    why, general = take_data(said), take_data(kind).decode("utf-8", "replace")
    if result[0]:
        raise RequestError(
            f"the new password was refused: {_words(why) or general}",
            code="password-rejected",
            hint="choose another one",
            status=422,
        )


def _words(said: bytes) -> str:
    """The server's words; Active Directory sends its rules as a struct, of which libkrb5 makes words."""
    if not said:
        return ""
    holder, data = ffi.new("char **"), ffi.new("krb5_data *")
    keep = ffi.from_buffer(said)
    data.length, data.data = len(said), ffi.cast("char *", keep)
    if lib.krb5_chpw_message(context(), data, holder):
        return ""
    try:
        text: str = ffi.string(holder[0]).decode("utf-8", "replace")
    finally:
        lib.krb5_free_string(context(), holder[0])
    return " ".join(text.split())
