"""Encryption types that nothing should rest on any more: DES, triple DES and RC4 (RFC 6649, RFC 8429).

Rule: what is not known to be strong is weak. Names are libkrb5's.
"""

from __future__ import annotations

from typing import Any

from hipercow_slurm.errors import ConfigError, CredentialError
from hipercow_slurm.krb5 import asn1, codes, keytab, krbcred
from hipercow_slurm.krb5.lib import check, ffi, lib
from hipercow_slurm.values import KrbCred

STRONG = frozenset({17, 18, 19, 20, 25, 26})  # AES with SHA-1 (RFC 3962) and SHA-2 (RFC 8009), Camellia (RFC 6803)
_NAMES = {1: "des-cbc-crc", 2: "des-cbc-md4", 3: "des-cbc-md5", 16: "des3-cbc-sha1", 23: "arcfour-hmac"}
_NAMES |= {24: "arcfour-hmac-exp"}

HINT = (
    "change the password, then the KDC makes keys of today's types (AES); if that does not help, an administrator"
    " should look at the account's keys and at krb5.conf"
)


def name_of(number: int) -> str:
    """For people."""
    return _NAMES.get(number, f"type {number}")


def refuse(number: int, what: str) -> None:
    """Raise CredentialError ``weak-encryption`` if ``what`` is of a weak type."""
    if number not in STRONG:
        raise CredentialError(
            f"{what} is encrypted with {name_of(number)}, which is too weak", code="weak-encryption", hint=HINT
        )


def refuse_weak(cred: KrbCred) -> None:
    """Judge a TGT by its session key and by the key the KDC sealed it with.

    Raises:
        CredentialError: ``weak-encryption``.
    """
    for one in krbcred.tickets(cred):
        refuse(one.keytype, f"the session of {one.client}'s ticket")
        sealed = asn1.load(asn1.Ticket, one.ticket_der, "Ticket", application=krbcred.TICKET)
        refuse(sealed.enc_part.etype, f"{one.client}'s ticket")


def refuse_weak_keytab(name: str, service: str) -> None:
    """Raise ConfigError ``keytab`` if the keytab has weak keys of ``service`` and no other."""
    found = keytab.enctypes(name, service)
    if not found & STRONG:
        weak = ", ".join(name_of(number) for number in sorted(found))
        raise ConfigError(
            f"the keytab {name} has only weak keys of {service} ({weak})",
            code="keytab",
            hint="make new keys: kadmin ktadd, or in Active Directory msDS-SupportedEncryptionTypes = 24 first",
        )


def ask_for_strong(own_context: Any, options: Any) -> Any:
    """Ask for an initial ticket with strong types only, of those that krb5.conf permits; keep what is returned until
    the exchange is over.

    Raises:
        ConfigError: ``krb5-conf``: it permits none.
    """
    holder = ffi.new("int32_t **")
    check(lib.krb5_get_permitted_enctypes(own_context, holder), "ask for a ticket", codes.SETUP, own_context)
    try:
        permitted: list[int] = []
        while (number := holder[0][len(permitted)]) != 0:
            permitted.append(number)
    finally:
        lib.krb5_free_enctypes(own_context, holder[0])
    strong = [number for number in permitted if number in STRONG]
    if not strong:
        raise ConfigError("krb5.conf permits no encryption type that is not weak", code="krb5-conf")
    asked = ffi.new("int32_t[]", strong)
    lib.krb5_get_init_creds_opt_set_etype_list(options, asked, len(strong))
    return asked
