"""Storing a credential in a credential cache of any type, in place of what was there; which one comes first."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from hipercow_slurm.errors import CredentialError, RequestError
from hipercow_slurm.krb5 import ccache, ccread, codes, convert, krbcred
from hipercow_slurm.krb5.krbcred import Ticket
from hipercow_slurm.krb5.lib import check, ffi, fresh, lib, own
from hipercow_slurm.values import KrbCred

KCM_READ_S = 0.5


def store(name: str | None, cred: KrbCred) -> None:
    """``store_tickets`` of ``cred``."""
    store_tickets(name, krbcred.tickets(cred))


def store_tickets(name: str | None, found: list[Ticket]) -> None:
    """Make tickets of one client, its TGT first, the content of a cache.

    A FILE cache is written aside and renamed: whoever reads it meanwhile finds the old content or the new. It belongs
    to the caller, mode 0600. Others go through libkrb5. In a KEYRING or KCM cache of the same client each ticket takes
    the place of that for the same server, so it is never empty either; what is there for other servers stays until it
    ends. (krb5_cc_move would ask a KCM daemon for KCM_OP_REPLACE, which neither SSSD's nor Heimdal's has.)

    Args:
        name: full name; a path alone means FILE; None is the default cache (KRB5CCNAME, then krb5.conf).

    Raises:
        OSError: the file cannot be written.
        CredentialError: libkrb5 cannot.
    """
    name = name or os.environ.get("KRB5CCNAME")
    if name is not None and (name.startswith("FILE:") or ":" not in name.partition("/")[0]):
        _replace(Path(name.removeprefix("FILE:")), ccache.file_of(found))
        return
    doing = f"store a ticket in {name or 'the default credential cache'}"
    with fresh() as own_context:
        _trust_own_clock(own_context, doing)
        holder = ffi.new("krb5_ccache *")
        if name is None:
            check(lib.krb5_cc_default(own_context, holder), doing, codes.CCACHE, own_context)
        else:
            check(lib.krb5_cc_resolve(own_context, os.fsencode(name), holder), doing, codes.CCACHE, own_context)
        try:
            kind = str(name).partition(":")[0]
            same = kind in ("KEYRING", "KCM") and _client(own_context, holder[0]) == found[0].client
            if kind == "KCM" and same and _replaced_in_kcm(own_context, holder[0], found, doing):
                return
            if kind == "KCM" or not same:
                client = convert.principal(found[0].client)
                check(lib.krb5_cc_initialize(own_context, holder[0], client), doing, codes.CCACHE, own_context)
            # A key of a keyring is named by its ticket's server, and add_key(2) updates it (cc_keyring.c, krcc_store).
            _add(own_context, holder[0], found, doing)
        finally:
            lib.krb5_cc_close(own_context, holder[0])


def _add(own_context: Any, ccache: Any, found: list[Ticket], doing: str) -> None:
    for one in found:
        creds, _keep = convert.creds(one)
        check(lib.krb5_cc_store_cred(own_context, ccache, creds), doing, codes.CCACHE, own_context)


def _replaced_in_kcm(own_context: Any, ccache: Any, found: list[Ticket], doing: str) -> bool:
    """Whether it could be done by adding the new and then removing the old."""
    try:
        _replace_in_kcm(own_context, ccache, found, doing)
    except CredentialError:
        return False
    return True


def _replace_in_kcm(own_context: Any, ccache: Any, found: list[Ticket], doing: str) -> None:
    """SSSD's daemon puts a ticket in the place of that for the same server (kcm_cc_remove_duplicates, since 2.6), and
    knows no removal. Heimdal's appends it, and whoever asks for one is given the first.

    Heimdal's is read in two steps, a list and then each of it. Who holds a list of before must still find what is on
    it, so removal waits for ``KCM_READ_S``; who lists just before it and reads just after it finds none, as ever.
    """

    def run(code: int) -> None:
        check(code, doing, codes.CCACHE, own_context)

    there = {one.ticket_der for _, one in ccread.entries(own_context, ccache, run)}
    _add(own_context, ccache, [one for one in found if one.ticket_der not in there], doing)
    new = {one.ticket_der for one in found}
    kept = {(one.server, _times(one)) for one in found}  # what a removal by server and times would take, too
    servers = {one.server for one in found}

    def old(one: Ticket) -> bool:
        return one.server in servers and one.ticket_der not in new and (one.server, _times(one)) not in kept

    if not any(old(one) for _, one in ccread.entries(own_context, ccache, run)):
        return
    time.sleep(KCM_READ_S)
    for creds, one in ccread.entries(own_context, ccache, run):
        if old(one):
            run(lib.krb5_cc_remove_cred(own_context, ccache, lib.KRB5_TC_MATCH_TIMES_EXACT, creds))


def _times(one: Ticket) -> tuple[int, int, int, int]:
    return one.authtime, one.starttime, one.endtime, one.renew_till


def _client(own_context: Any, ccache: Any) -> str | None:
    """Whose cache it is; None if nobody's yet."""
    pointer = ffi.new("krb5_principal *")
    if lib.krb5_cc_get_principal(own_context, ccache, pointer):
        return None
    try:
        return convert.principal_text(own(pointer[0], lib.krb5_free_principal))
    except RequestError:
        return None  # a name that we would take from nobody


def _trust_own_clock(own_context: Any, doing: str) -> None:
    """The KDC's clock is ours, said aloud: libkrb5 hands that on to a KCM daemon, with the cache.

    Heimdal's takes what lies in its memory for the offset otherwise (kcm/cache.c sets all of a new cache but that):
    klist shows a good ticket then, and rpc.gssd, which goes by the daemon's clock, finds one that has ended.
    """
    now = ffi.new("int32_t *")
    check(lib.krb5_timeofday(own_context, now), doing, codes.CCACHE, own_context)
    check(lib.krb5_set_real_time(own_context, now[0], -1), doing, codes.CCACHE, own_context)


def make_primary(name: str) -> None:
    """Make a cache the one that its collection shows to programs that name none; nothing where there is no collection.

    Raises:
        CredentialError: libkrb5 cannot.
    """
    doing = f"make {name} the primary cache"
    with fresh() as own_context:
        holder = ffi.new("krb5_ccache *")
        check(lib.krb5_cc_resolve(own_context, os.fsencode(name), holder), doing, codes.CCACHE, own_context)
        try:
            check(lib.krb5_cc_switch(own_context, holder[0]), doing, codes.CCACHE, own_context)
        finally:
            lib.krb5_cc_close(own_context, holder[0])


def _replace(path: Path, data: bytes) -> None:
    """Rename a complete file of mode 0600 over ``path``."""
    descriptor, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(aside).rename(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(aside).unlink()
        raise
