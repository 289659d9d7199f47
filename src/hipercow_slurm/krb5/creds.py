"""Tickets from the KDC: by password, by keytab, by another ticket. Every function here blocks; callers use threads.

cffi releases the interpreter lock around each C call, so a KDC that hangs holds up only the thread that asked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from hipercow_slurm.errors import CredentialError, Error, RequestError
from hipercow_slurm.krb5 import codes, convert, enctypes, krbcred, names, preauth
from hipercow_slurm.krb5 import keytab as keytabs
from hipercow_slurm.krb5.krbcred import FORWARDABLE, Ticket
from hipercow_slurm.krb5.lib import NULL, check, context, error_of, ffi, fresh, lib, own, release, take_data, wipe
from hipercow_slurm.krb5.principal import Principal
from hipercow_slurm.krb5.prompting import AnswersWantedError, Questions
from hipercow_slurm.values import KrbCred

# Ask for more than any site allows; the KDC cuts it down to its own limit.
RENEW_LIFE_S = 365 * 24 * 3600

# MIT's KDC says in the KRB-ERROR's text why a key counts as expired (kdc_util.c, validate_as_request).
MUST_CHANGE = b"REQUIRED PWCHANGE"
_NOT_BY_PASSWORD = {codes.NUMBERS["KRB5_PREAUTH_FAILED"], codes.NUMBERS["KRB5KDC_ERR_ETYPE_NOSUPP"]}


def password_tgt(
    principal: str,
    password: bytearray,
    *,
    keytab: str,
    service: str | None,
    lifetime_s: int | None = None,
    renew_s: int | None = None,
    armor: KrbCred | None = None,
    armor_required: bool = False,
    weak: bool = True,
    answers: Sequence[bytes | bytearray] = (),
) -> KrbCred:
    """Get a TGT with a password, and prove with a keytab that the KDC which gave it is the real one.

    The TGT is forwardable, addressless, and renewable as long as the KDC allows. The caller's ``password`` is not
    changed; the copy made for libkrb5 is overwritten before this returns.

    Args:
        principal: ``alice@REALM``; without a realm the default realm is taken.
        keytab: holds a key of ``service`` that only the genuine KDC knows too.
        service: principal to verify with; None takes the keytab's first.
        lifetime_s, renew_s: seconds to ask for; None asks for krb5.conf's ticket_lifetime, and a year of renewal.
        armor: a TGT of our own that protects the exchange (FAST, RFC 6113), where the KDC offers that: nobody on the
            way can then guess the password from what passed.
        armor_required: do nothing with a KDC that does not offer it.
        weak: False: no DES and RC4, neither for the exchange nor in the ticket (``enctypes``).
        answers: to what the KDC asks beside the password, in its order (``prompting``).

    Raises:
        AnswersWantedError: the KDC asks more than ``answers`` answer; it says what.
        CredentialError: ``login-failed`` (unknown user and wrong password alike), ``password-expired``,
            ``password-must-change``, ``account-locked``, ``account-expired``, ``clock-skew``, ``weak-encryption``.
        AccessError: ``kdc-not-genuine``; ``certificate-wanted``; ``login-unsupported`` (more than a password is wanted,
            and not by prompts); ``kdc-refused``.
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
    client, found = convert.principal(user), empty_creds()
    secret = ffi.new("char[]", len(password) + 1)
    questions = Questions(answers)
    try:
        ffi.memmove(secret, password, len(password))
        with (
            fresh() as own_context,
            armored(own_context, lifetime_s, renew_s, armor, required=armor_required) as options,
            questions.prompter() as (prompter, data),
        ):
            kept = None if weak else enctypes.ask_for_strong(own_context, options)
            # With a prompter libkrb5 would go on to change a password that is too old; that is a step of its own here.
            lib.krb5_get_init_creds_opt_set_change_password_prompt(options, 0)
            code = lib.krb5_get_init_creds_password(
                own_context, found, client, secret, prompter, data, 0, NULL, options
            )
            if code and questions.open:
                raise AnswersWantedError(f"cannot {doing}: the KDC asks for more than a password", questions.open)
            if code == codes.NUMBERS["KRB5KDC_ERR_KEY_EXP"] and _must_change(own_context, client, options):
                raise CredentialError(
                    f"cannot {doing}: the password must be changed first",
                    code="password-must-change",
                    hint="change the password: kpasswd, or ask an administrator",
                )
            if code in _NOT_BY_PASSWORD and (told := _told(own_context, client, doing, weak=weak)):
                raise told
            check(code, doing, codes.LOGIN, own_context)
            del kept
    finally:
        wipe(secret)
    _verify(found, verifier, keytab, user)
    made = krbcred.build([convert.ticket(found)])
    if not weak:
        enctypes.refuse_weak(made)
    return made


def keytab_tgt(principal: str, keytab: str) -> KrbCred:
    """Get a TGT with a key from a keytab (forwardable, addressless, renewable as long as the KDC allows).

    Raises:
        ConfigError: ``keytab``: missing, unreadable, without this principal, or with a key the KDC does not know.
        UnavailableError, CredentialError, AccessError: as ``password_tgt``.
    """
    user = keytabs.check_service(keytab, principal)
    client, found = convert.principal(user), empty_creds()
    with fresh() as own_context, _options(own_context, None, None) as options, keytabs.opened(keytab) as handle:
        code = lib.krb5_get_init_creds_keytab(own_context, found, client, handle, 0, NULL, options)
        check(code, f"get a ticket for {user} with the keytab {keytab}", codes.KEYTAB_LOGIN, own_context)
    return krbcred.build([convert.ticket(found)])


def cross_realm_tgt(cred: KrbCred, realm: str) -> KrbCred:
    """The TGT of ``cred`` and, after it, a new ticket krbtgt/REALM with which it asks for services of that realm.

    Raises:
        RequestError: ``bad-realm``: it is the user's own, or no realm's name.
        AccessError: ``unknown-service``: the KDC has no trust in that realm; ``kdc-refused``.
        CredentialError: ``expired``, ``clock-skew``.
        UnavailableError: ``kdc-unreachable``.
    """
    tgt = krbcred.tickets(cred)[0]
    home = Principal.parse(tgt.client).realm
    try:
        wanted = Principal.of(("krbtgt", realm), home)
    except RequestError as error:
        raise RequestError(f"{realm!r} is not the name of a realm", code="bad-realm") from error
    if realm == home:
        raise RequestError(f"{tgt.client} is of realm {realm}: there is nothing to cross", code="bad-realm")
    return krbcred.build([tgt, ticket_for([tgt], str(wanted))])


def addressless(cred: KrbCred) -> KrbCred:
    """Exchange a TGT that is bound to addresses for one that is not; ``cred`` itself if it is not bound.

    The KDC gives a forwarded TGT for it, and asks that the request comes from one of those addresses.

    Raises:
        CredentialError: ``not-forwardable``; ``wrong-address`` (this host is none of them); ``expired``,
            ``clock-skew``.
        AccessError: ``kdc-refused``.
        UnavailableError: ``kdc-unreachable``.
    """
    tgt, *others = krbcred.tickets(cred)
    if not tgt.addresses:
        return cred
    doing = f"get an addressless TGT for {tgt.client}"
    if not tgt.flags & FORWARDABLE:
        raise CredentialError(
            f"cannot {doing}: the TGT is not forwardable",
            code="not-forwardable",
            hint="get a forwardable or an addressless one: kinit -f, or kinit -A",
        )
    client, out = convert.principal(tgt.client), ffi.new("krb5_data *")
    with _plain_auth() as auth, memory_ccache([replace(tgt, addresses=())]) as ccache:
        # libkrb5 asks for an addressless TGT when the one at hand is: so it is told that. The host is not looked at.
        code = lib.krb5_fwd_tgt_creds(context(), auth, b"any", client, NULL, ccache, 1, out)
    check(code, doing, codes.TGS)
    new = krbcred.tickets(krbcred.parse(take_data(out)))[0]
    return krbcred.build([new, *(ticket_for([new], one.server) if one.addresses else one for one in others)])


def ticket_for(found: list[Ticket], server: str) -> Ticket:
    """A ticket for ``server`` (full principal text) from the KDC, by the TGTs at hand, the client's own first.

    Raises:
        CredentialError: ``expired``, ``clock-skew``, ``no-tgt``.
        AccessError: ``unknown-service``, ``kdc-refused``.
        UnavailableError: ``kdc-unreachable``.
    """
    holder, request = ffi.new("krb5_creds **"), ffi.new("krb5_creds *")
    client, service = convert.principal(found[0].client), convert.principal(server)
    request.client, request.server = client, service
    with memory_ccache(found) as ccache:
        code = lib.krb5_get_credentials(context(), 0, ccache, request, holder)
        check(code, f"get a ticket for {server} as {found[0].client}", codes.TGS)
    return convert.ticket(own(holder[0], lib.krb5_free_creds))


@contextlib.contextmanager
def _plain_auth() -> Iterator[Any]:
    """An auth context without key and flags: KRB-CREDs made with it are in clear."""
    holder = ffi.new("krb5_auth_context *")
    check(lib.krb5_auth_con_init(context(), holder), "set up authentication", codes.SETUP)
    auth = own(holder[0], lib.krb5_auth_con_free)
    try:
        check(lib.krb5_auth_con_setflags(context(), auth, 0), "set up authentication", codes.SETUP)
        yield auth
    finally:
        release(auth)


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


def empty_creds() -> Any:
    """A krb5_creds for libkrb5 to fill, freed with its contents."""
    return own(ffi.new("krb5_creds *"), lib.krb5_free_cred_contents)


@contextlib.contextmanager
def armored(
    own_context: Any, lifetime_s: int | None, renew_s: int | None, armor: KrbCred | None, *, required: bool = False
) -> Iterator[Any]:
    """Options of an initial ticket, with FAST armour if there is some; ``required``: no exchange without it."""
    with contextlib.ExitStack() as stack:
        options = stack.enter_context(_options(own_context, lifetime_s, renew_s))
        if armor is not None:
            ccache = stack.enter_context(memory_ccache(krbcred.tickets(armor)))
            code = lib.krb5_get_init_creds_opt_set_fast_ccache(own_context, options, ccache)
            check(code, "armour the exchange", codes.SETUP, own_context)
            if required:
                code = lib.krb5_get_init_creds_opt_set_fast_flags(own_context, options, lib.KRB5_FAST_REQUIRED)
                check(code, "armour the exchange", codes.SETUP, own_context)
        yield options


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


def _told(own_context: Any, client: Any, doing: str, *, weak: bool) -> Error | None:
    """The KDC's own reason why no password will do."""
    with _options(own_context, None, None) as plain:
        return preauth.refusal(preauth.offered(own_context, client, plain), doing, weak=weak)


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
