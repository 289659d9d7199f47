"""What a KDC would take from a user who has not proved anything, where a password alone did not do.

The KDC tells it in the METHOD-DATA of its first refusal (RFC 4120 section 5.9.1). libkrb5 keeps that to itself and
says "generic preauthentication failure", which helps nobody: so it is asked once more, without any proof.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from hipercow_slurm.errors import AccessError, CredentialError, Error, ProtocolError
from hipercow_slurm.krb5 import asn1, enctypes
from hipercow_slurm.krb5.lib import NULL, ffi, lib

PK_AS_REQ, ETYPE_INFO2 = 16, 19  # RFC 4556, RFC 4120
_ASKED = (18, 17, 20, 19, 23, 16)  # the account's keys of other types are not shown


@dataclass(frozen=True, slots=True)
class Offer:
    """Types of pre-authentication data, and types of the account's own keys (none: it has no password)."""

    methods: frozenset[int]
    keys: frozenset[int]


def offered(own_context: Any, client: Any, options: Any) -> Offer:
    """Ask the KDC; ``options`` without armour. Nothing where it does not answer, or as it should not."""
    asked, holder, said = ffi.new("int32_t[]", _ASKED), ffi.new("krb5_init_creds_context *"), ffi.new("krb5_error **")
    lib.krb5_get_init_creds_opt_set_etype_list(options, asked, len(_ASKED))
    data = b""
    if not lib.krb5_init_creds_init(own_context, client, NULL, NULL, 0, options, holder):
        lib.krb5_init_creds_get(own_context, holder[0])
        if not lib.krb5_init_creds_get_error(own_context, holder[0], said) and said[0] != NULL:
            data = bytes(ffi.buffer(said[0].e_data.data, said[0].e_data.length)) if said[0].e_data.length else b""
            lib.krb5_free_error(own_context, said[0])
        lib.krb5_init_creds_free(own_context, holder[0])
    return read(data)


def read(data: bytes) -> Offer:
    """The offer in METHOD-DATA."""
    methods, keys = set(), set()
    with contextlib.suppress(ProtocolError):
        for one in asn1.load_list(asn1.PaData, data, "METHOD-DATA"):
            methods.add(one.kind)
            if one.kind == ETYPE_INFO2:
                keys |= {entry.etype for entry in asn1.load_list(asn1.EtypeInfo2Entry, one.value, "ETYPE-INFO2")}
    return Offer(frozenset(methods), frozenset(keys))


def refusal(offer: Offer, doing: str, *, weak: bool) -> Error | None:
    """Why a password did not do, where the offer tells; ``weak``: weak keys were no reason."""
    if not weak and offer.keys and not offer.keys & enctypes.STRONG:
        names = ", ".join(enctypes.name_of(number) for number in sorted(offer.keys))
        return CredentialError(
            f"cannot {doing}: the KDC has only weak keys of the account ({names})",
            code="weak-encryption",
            hint=enctypes.HINT,
        )
    if PK_AS_REQ in offer.methods:
        return AccessError(
            f"cannot {doing}: the KDC wants a certificate (a smart card, say) for this account, and no password",
            code="certificate-wanted",
            hint="get a ticket with it (kinit -X X509_user_identity=...), then: hipercow-slurm login --kerberos",
        )
    return None
