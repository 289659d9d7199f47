"""Credential caches: the bytes of a FILE cache, and the TGT of any cache libkrb5 knows (FILE, KEYRING, KCM, ...)."""

from __future__ import annotations

import struct

from hipercow_slurm.krb5 import ccfile, krbcred
from hipercow_slurm.krb5.krbcred import Ticket
from hipercow_slurm.krb5.principal import Principal
from hipercow_slurm.values import KrbCred


def file_v4(cred: KrbCred) -> bytes:
    """``file_of`` its tickets."""
    return file_of(krbcred.tickets(cred))


def file_of(found: list[Ticket]) -> bytes:
    """The bytes of a FILE credential cache, format version 4 (MIT "Credential cache file format"), big-endian.

    Default principal is the client of the first; then the tickets in order. No header fields: the only one defined is a
    clock offset. Composed here, so that the file can be written aside and renamed: krb5_cc_initialize on an existing
    file is not atomic.
    """
    return b"\x05\x04\0\0" + _principal(found[0].client) + b"".join(map(_record, found))


def _record(one: Ticket) -> bytes:
    """One credential: names, key, times, is_skey 0, flags, addresses, no authdata, ticket, no second ticket."""
    return b"".join(
        (
            _principal(one.client),
            _principal(one.server),
            struct.pack(">H", one.keytype & 0xFFFF),
            _data(one.key),
            struct.pack(">IIII", one.authtime, one.starttime, one.endtime, one.renew_till),
            struct.pack(">BII", 0, one.flags, len(one.addresses)),
            *(struct.pack(">H", kind & 0xFFFF) + _data(octets) for kind, octets in one.addresses),
            struct.pack(">I", 0),
            _data(one.ticket_der),
            _data(b""),
        )
    )


def _principal(text: str) -> bytes:
    name = Principal.parse(text)
    head = struct.pack(">II", name.name_type, len(name.components))
    return head + b"".join(_data(part.encode("utf-8")) for part in (name.realm, *name.components))


def _data(octets: bytes) -> bytes:
    return struct.pack(">I", len(octets)) + octets


def read_tgt(ccache: str | None) -> KrbCred:
    """The TGT of a credential cache's owner, and one cross-realm TGT if there is any; of several, the last to end.

    Args:
        ccache: full name (``FILE:/tmp/krb5cc_5001``, ``KCM:``); None is the default cache (KRB5CCNAME).

    Raises:
        CredentialError: code ``no-tgt``: no such cache, not readable, or no TGT in it.
    """
    return _tgt_of(ccache, destroy=False)


def take_tgt(ccache: str) -> KrbCred:
    """As ``read_tgt``, and the cache is gone afterwards."""
    return _tgt_of(ccache, destroy=True)


def _tgt_of(ccache: str | None, *, destroy: bool) -> KrbCred:
    # Imported here: who only composes files should not wait for libkrb5 to load.
    from hipercow_slurm.krb5.ccread import read_all

    owner, found = read_all(ccache, destroy=destroy)
    return ccfile.select_tgt(owner, found, ccache or "the default credential cache")
