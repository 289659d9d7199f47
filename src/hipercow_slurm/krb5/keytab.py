"""Keytabs: open, and say clearly when one is missing, unreadable or lacks the key that is needed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from hipercow_slurm.errors import ConfigError, RequestError
from hipercow_slurm.krb5 import codes, convert, names
from hipercow_slurm.krb5.lib import check, context, ffi, lib, own, release


@contextlib.contextmanager
def opened(keytab: str) -> Iterator[Any]:
    """A krb5_keytab handle; resolving a name reads no file yet, so a rotated keytab is picked up by itself."""
    handle = resolve(keytab)
    try:
        yield handle
    finally:
        release(handle)


def resolve(keytab: str) -> Any:
    """An owned krb5_keytab handle."""
    holder = ffi.new("krb5_keytab *")
    code = lib.krb5_kt_resolve(context(), keytab.encode("utf-8", "surrogateescape"), holder)
    check(code, f"use the keytab {keytab}", codes.KEYTAB)
    return own(holder[0], lib.krb5_kt_close)


def principals(keytab: str) -> list[str]:
    """The principals whose keys a keytab holds, each once, in its order.

    Raises:
        ConfigError: code ``keytab``: missing, unreadable or not a keytab.
    """
    found: dict[str, None] = {}
    with opened(keytab) as handle:
        cursor, entry = ffi.new("krb5_kt_cursor *"), ffi.new("krb5_keytab_entry *")
        code = lib.krb5_kt_start_seq_get(context(), handle, cursor)
        check(code, f"read the keytab {keytab}", codes.KEYTAB)
        while not (code := lib.krb5_kt_next_entry(context(), handle, entry, cursor)):
            with contextlib.suppress(RequestError):  # a name we would take from nobody: no service of ours
                found[convert.principal_text(entry.principal)] = None
            lib.krb5_free_keytab_entry_contents(context(), entry)
        lib.krb5_kt_end_seq_get(context(), handle, cursor)
        if code != codes.NUMBERS["KRB5_KT_END"]:
            check(code, f"read the keytab {keytab}", codes.KEYTAB)
    return list(found)


def check_service(keytab: str, service: str | None) -> str:
    """Make sure a keytab can serve ``service`` (None: its first principal); the full principal text.

    For a daemon's start, and before trusting the keytab to tell a genuine KDC from another.

    Raises:
        ConfigError: code ``keytab``.
    """
    found = principals(keytab)
    wanted = names.full(service) if service is not None else (found[0] if found else "anybody")
    if wanted not in found:
        raise ConfigError(f"the keytab {keytab} has no key of {wanted}", code="keytab", hint=codes.KEYTAB_ROW.hint)
    return wanted
