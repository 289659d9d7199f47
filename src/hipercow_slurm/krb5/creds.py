"""Tickets from the KDC: by password, by keytab, by renewal. Every function here blocks; callers use threads.

cffi releases the interpreter lock around each C call, so a KDC that hangs holds up only the thread that asked.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from hipercow_slurm.errors import CredentialError
from hipercow_slurm.krb5 import codes, convert, krbcred, names
from hipercow_slurm.krb5 import keytab as keytabs
from hipercow_slurm.krb5.krbcred import RENEWABLE, Ticket
from hipercow_slurm.krb5.lib import NULL, check, context, error_of, ffi, fresh, lib, own, release, wipe
from hipercow_slurm.values import KrbCred

# Ask for more than any site allows; the KDC cuts it down to its own limit.
RENEW_LIFE_S = 365 * 24 * 3600

# MIT's KDC says in the KRB-ERROR's text why a key counts as expired (kdc_util.c, validate_as_request).
MUST_CHANGE = b"REQUIRED PWCHANGE"


def password_tgt(
    principal: str,
    password: bytearray,
    *,
    keytab: str,
    service: str | None,
    lifetime_s: int | None = None,
    renew_s: int | None = None,
) -> KrbCred:
    """Get a TGT with a password, and prove with a keytab that the KDC which gave it is the real one.

    The TGT is forwardable, addressless, and renewable as long as the KDC allows. The caller's ``password`` is not
    changed; the copy made for libkrb5 is overwritten before this returns.

    Args:
        principal: ``alice@REALM``; without a realm the default realm is taken.
        keytab: holds a key of ``service`` that only the genuine KDC knows too.
        service: principal to verify with; None takes the keytab's first.
        lifetime_s, renew_s: seconds to ask for; None asks for krb5.conf's ticket_lifetime, and a year of renewal.

    Raises:
        CredentialError: ``login-failed`` (unknown user and wrong password alike), ``password-expired``,
            ``password-must-change``, ``account-locked``, ``account-expired``, ``clock-skew``.
        AccessError: ``kdc-not-genuine``; ``login-unsupported`` (more than a password is wanted); ``kdc-refused``.
        UnavailableError: ``kdc-unreachable``.
        RequestError: ``bad-principal``, ``unknown-realm``.
        ConfigError: ``keytab``, ``krb5-conf``.
    """
    user = names.full(principal)
    verifier = keytabs.check_service(keytab, service)
    doing = f"log in as {user}"
    # libkrb5 takes a C string: it would stop at a NUL, and ask for another password when there is none.
    if not password or 0 in password:
        raise error_of(codes.NUMBERS["KRB5KDC_ERR_PREAUTH_FAILED"], doing, codes.LOGIN)
    client, found = convert.principal(user), _empty_creds()
    secret = ffi.new("char[]", len(password) + 1)
    try:
        ffi.memmove(secret, password, len(password))
        with fresh() as own_context, _options(own_context, lifetime_s, renew_s) as options:
            code = lib.krb5_get_init_creds_password(own_context, found, client, secret, NULL, NULL, 0, NULL, options)
            if code == codes.NUMBERS["KRB5KDC_ERR_KEY_EXP"] and _must_change(own_context, client, options):
                raise CredentialError(
                    f"cannot {doing}: the password must be changed first",
                    code="password-must-change",
                    hint="change the password: kpasswd, or ask an administrator",
                )
            check(code, doing, codes.LOGIN, own_context)
    finally:
        wipe(secret)
    _verify(found, verifier, keytab, user)
    return krbcred.build([convert.ticket(found)])


def keytab_tgt(principal: str, keytab: str) -> KrbCred:
    """Get a TGT with a key from a keytab (forwardable, addressless, renewable as long as the KDC allows).

    Raises:
        ConfigError: ``keytab``: missing, unreadable, without this principal, or with a key the KDC does not know.
        UnavailableError, CredentialError, AccessError: as ``password_tgt``.
    """
    user = keytabs.check_service(keytab, principal)
    client, found = convert.principal(user), _empty_creds()
    with fresh() as own_context, _options(own_context, None, None) as options, keytabs.opened(keytab) as handle:
        code = lib.krb5_get_init_creds_keytab(own_context, found, client, handle, 0, NULL, options)
        check(code, f"get a ticket for {user} with the keytab {keytab}", codes.KEYTAB_LOGIN, own_context)
    return krbcred.build([convert.ticket(found)])


def renew(cred: KrbCred) -> KrbCred:
    """Renew a TGT at the KDC; a cross-realm TGT beside it is kept while it is valid.

    Raises:
        CredentialError: ``not-renewable``, ``renew-exhausted`` (renew_till has passed), ``expired``, ``clock-skew``,
            ``account-locked``.
        UnavailableError: ``kdc-unreachable``.
        AccessError: ``kdc-refused``.
    """
    tgt, *others = krbcred.tickets(cred)
    now = int(time.time())
    doing = f"renew the TGT of {tgt.client}"
    if not tgt.flags & RENEWABLE or not tgt.renew_till:
        raise CredentialError(f"cannot {doing}: it is not renewable", code="not-renewable", hint=codes.EXPIRED.hint)
    if tgt.renew_till <= now:
        raise CredentialError(
            f"cannot {doing}: its renewable time has passed", code="renew-exhausted", hint=codes.EXPIRED.hint
        )
    client, found = convert.principal(tgt.client), _empty_creds()
    with memory_ccache([tgt]) as ccache:
        check(lib.krb5_get_renewed_creds(context(), found, client, ccache, NULL), doing, codes.TGS)
    return krbcred.build([convert.ticket(found), *(one for one in others if one.endtime > now)])


@contextlib.contextmanager
def memory_ccache(tickets: list[Ticket]) -> Iterator[Any]:
    """A krb5_ccache in memory that holds these tickets, gone at the end of the block."""
    holder = ffi.new("krb5_ccache *")
    check(lib.krb5_cc_new_unique(context(), b"MEMORY", NULL, holder), "make a memory ccache", codes.SETUP)
    ccache = own(holder[0], lib.krb5_cc_destroy)
    try:
        client = convert.principal(tickets[0].client)
        check(lib.krb5_cc_initialize(context(), ccache, client), "fill a memory ccache", codes.SETUP)
        for one in tickets:
            creds, _keep = convert.creds(one)
            check(lib.krb5_cc_store_cred(context(), ccache, creds), "fill a memory ccache", codes.SETUP)
        yield ccache
    finally:
        release(ccache)


def _empty_creds() -> Any:
    """A krb5_creds for libkrb5 to fill, freed with its contents."""
    return own(ffi.new("krb5_creds *"), lib.krb5_free_cred_contents)


@contextlib.contextmanager
def _options(own_context: Any, lifetime_s: int | None, renew_s: int | None) -> Iterator[Any]:
    """What we ask of every initial ticket."""
    holder = ffi.new("krb5_get_init_creds_opt **")
    check(lib.krb5_get_init_creds_opt_alloc(own_context, holder), "ask for a ticket", codes.SETUP)
    options = holder[0]
    try:
        lib.krb5_get_init_creds_opt_set_forwardable(options, 1)
        lib.krb5_get_init_creds_opt_set_proxiable(options, 0)
        lib.krb5_get_init_creds_opt_set_canonicalize(options, 0)
        lib.krb5_get_init_creds_opt_set_address_list(options, NULL)
        lib.krb5_get_init_creds_opt_set_renew_life(options, renew_s if renew_s is not None else RENEW_LIFE_S)
        if lifetime_s is not None:
            lib.krb5_get_init_creds_opt_set_tkt_life(options, lifetime_s)
        yield options
    finally:
        lib.krb5_get_init_creds_opt_free(own_context, options)


def _must_change(own_context: Any, client: Any, options: Any) -> bool:
    """Ask once more, without a password, why the key counts as expired: the KDC's text tells."""
    holder, said = ffi.new("krb5_init_creds_context *"), ffi.new("krb5_error **")
    if lib.krb5_init_creds_init(own_context, client, NULL, NULL, 0, options, holder):
        return False
    try:
        lib.krb5_init_creds_get(own_context, holder[0])
        if lib.krb5_init_creds_get_error(own_context, holder[0], said) or said[0] == NULL:
            return False
        text = said[0].text
        found = bytes(ffi.buffer(text.data, text.length)) if text.length else b""
        lib.krb5_free_error(own_context, said[0])
        return MUST_CHANGE in found
    finally:
        lib.krb5_init_creds_free(own_context, holder[0])


def _verify(found: Any, service: str, keytab: str, user: str) -> None:
    """Get a ticket for our own service and open it with our own key: only the genuine KDC could make it.

    In the thread's context, not the one of the AS exchange: that one has taken over the KDC's clock, and here a
    difference between the clocks must come out.
    """
    options = ffi.new("krb5_verify_init_creds_opt *")
    lib.krb5_verify_init_creds_opt_init(options)
    lib.krb5_verify_init_creds_opt_set_ap_req_nofail(options, 1)
    server = convert.principal(service)
    with keytabs.opened(keytab) as handle:
        code = lib.krb5_verify_init_creds(context(), found, server, handle, NULL, options)
    check(code, f"verify the KDC that knows {user}", codes.VERIFY)
