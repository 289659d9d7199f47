"""Reading a credential cache of any type through libkrb5."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from hipercow_slurm.errors import RequestError
from hipercow_slurm.krb5 import codes, convert
from hipercow_slurm.krb5.krbcred import Ticket
from hipercow_slurm.krb5.lib import check, ffi, fresh, lib, own


def read_all(ccache: str | None, *, destroy: bool = False) -> tuple[str, list[Ticket]]:
    """The owner of a cache and its tickets; entries whose names we would take from nobody are passed over.

    Args:
        ccache: full name; None is the default cache (KRB5CCNAME, then krb5.conf).
        destroy: the cache is gone afterwards, whatever was found in it.

    Raises:
        CredentialError: code ``no-tgt``: no such cache, or not readable.
    """
    doing = f"read {ccache or 'the default credential cache'}"
    # A fresh context: the thread's own remembers the default cache's name, and could take over a clock offset.
    with fresh() as own_context:

        def run(code: int) -> None:
            check(code, doing, codes.CCACHE, own_context)

        holder = ffi.new("krb5_ccache *")
        if ccache is None:
            run(lib.krb5_cc_default(own_context, holder))
        else:
            run(lib.krb5_cc_resolve(own_context, os.fsencode(ccache), holder))
        try:
            name = ffi.new("krb5_principal *")
            run(lib.krb5_cc_get_principal(own_context, holder[0], name))
            owner = convert.principal_text(own(name[0], lib.krb5_free_principal))
            return owner, _tickets(own_context, holder[0], run)
        finally:
            (lib.krb5_cc_destroy if destroy else lib.krb5_cc_close)(own_context, holder[0])


def names() -> list[str]:
    """Full names of the caches in the default cache's collection (KRB5CCNAME, then krb5.conf)."""
    doing, found = "list the credential caches", []
    with fresh() as own_context:
        cursor, holder = ffi.new("krb5_cccol_cursor *"), ffi.new("krb5_ccache *")
        check(lib.krb5_cccol_cursor_new(own_context, cursor), doing, codes.CCACHE, own_context)
        try:
            while not lib.krb5_cccol_cursor_next(own_context, cursor[0], holder) and holder[0] != ffi.NULL:
                text = ffi.new("char **")
                code = lib.krb5_cc_get_full_name(own_context, holder[0], text)
                lib.krb5_cc_close(own_context, holder[0])
                check(code, doing, codes.CCACHE, own_context)
                found.append(ffi.string(text[0]).decode(errors="replace"))
                lib.krb5_free_string(own_context, text[0])
        finally:
            lib.krb5_cccol_cursor_free(own_context, cursor)
    return found


def entries(own_context: Any, ccache: Any, run: Any) -> Iterator[tuple[Any, Ticket]]:
    """Each credential of an open cache, as libkrb5's (good until the next) and as ours; ``run`` checks codes."""
    cursor, creds = ffi.new("krb5_cc_cursor *"), ffi.new("krb5_creds *")
    run(lib.krb5_cc_start_seq_get(own_context, ccache, cursor))
    code = 0
    try:
        while not (code := lib.krb5_cc_next_cred(own_context, ccache, cursor, creds)):
            try:
                with contextlib.suppress(RequestError):  # MIT keeps settings as credentials with names of its own
                    yield creds, convert.ticket(creds)
            finally:
                lib.krb5_free_cred_contents(own_context, creds)
    finally:
        lib.krb5_cc_end_seq_get(own_context, ccache, cursor)
    if code != codes.NUMBERS["KRB5_CC_END"]:
        run(code)


def _tickets(own_context: Any, ccache: Any, run: Any) -> list[Ticket]:
    return [found for _, found in entries(own_context, ccache, run)]
