"""Keytabs: open, and say clearly when one is missing, unreadable or lacks the key that is needed."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hipercow_slurm.errors import ConfigError, RequestError
from hipercow_slurm.krb5 import codes, convert, names
from hipercow_slurm.krb5.lib import check, context, ffi, lib, own, release

SETTLED_S = 2.0  # a file younger than that may change once more without its change time showing it
LOOK_S = 0.1  # keys in memory are good for so long without a look at their file
_Stamp = tuple[int, int, int, int]
_numbers = itertools.count()


@dataclass(slots=True)
class _Copy:
    """A keytab in memory: of the file that looked like ``stamp``, looked at again after ``until`` (monotonic)."""

    stamp: _Stamp
    handle: Any
    until: float


_copies: dict[str, _Copy] = {}  # by keytab name: there are as many as services of this process


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


def loaded(keytab: str, *, look: bool = False) -> Any:
    """A krb5_keytab handle for accepting tickets, shared and in memory: a keytab file costs ten system calls a look.

    The file is read again when it has changed; whether it has is looked at every ``LOOK_S``, or with ``look`` now.
    One that is missing, has just changed or is no file is what ``resolve`` gives.
    """
    now, copy = time.monotonic(), _copies.get(keytab)
    if copy is not None and now < copy.until and not look:
        return copy.handle
    path = keytab.removeprefix("FILE:")
    try:
        found = os.stat(path)  # noqa: PTH116  # per connection; making a Path costs more
    except (OSError, ValueError):
        _copies.pop(keytab, None)
        return resolve(keytab)
    stamp = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)
    if copy is not None and copy.stamp == stamp:
        copy.until = now + LOOK_S
        return copy.handle
    _copies.pop(keytab, None)
    if abs(time.time() - max(found.st_mtime, found.st_ctime)) < SETTLED_S:
        return resolve(keytab)
    try:
        handle = _copy(keytab)
    except ConfigError:  # whoever uses it is told what is wrong with it
        return resolve(keytab)
    _copies[keytab] = _Copy(stamp, handle, now + LOOK_S)
    return handle


def newer(keytab: str, than: Any) -> Any:
    """What ``loaded`` gives now if ``than`` are keys in memory whose file has changed; else None.

    For a ticket they do not open: it may be under a key that came to the file a moment ago.
    """
    copy = _copies.get(keytab)
    if copy is None or copy.handle is not than:
        return None
    found = loaded(keytab, look=True)
    return None if found is than else found


def _copy(keytab: str) -> Any:
    """An owned handle of a keytab in memory with the same keys."""
    copy = resolve(f"MEMORY:hipercow-slurm-{next(_numbers)}")
    with opened(keytab) as handle:
        for entry in _each_entry(keytab, handle):
            check(lib.krb5_kt_add_entry(context(), copy, entry), f"use the keytab {keytab}", codes.KEYTAB)
    return copy


def _each_entry(keytab: str, handle: Any) -> Iterator[Any]:
    cursor, entry = ffi.new("krb5_kt_cursor *"), ffi.new("krb5_keytab_entry *")
    code = lib.krb5_kt_start_seq_get(context(), handle, cursor)
    check(code, f"read the keytab {keytab}", codes.KEYTAB)
    try:
        while not (code := lib.krb5_kt_next_entry(context(), handle, entry, cursor)):
            try:
                yield entry
            finally:
                lib.krb5_free_keytab_entry_contents(context(), entry)
    finally:
        lib.krb5_kt_end_seq_get(context(), handle, cursor)
    if code != codes.NUMBERS["KRB5_KT_END"]:
        check(code, f"read the keytab {keytab}", codes.KEYTAB)


def principals(keytab: str) -> list[str]:
    """The principals whose keys a keytab holds, each once, in its order.

    Raises:
        ConfigError: code ``keytab``: missing, unreadable or not a keytab.
    """
    found: dict[str, None] = {}
    with opened(keytab) as handle:
        for entry in _each_entry(keytab, handle):
            with contextlib.suppress(RequestError):  # a name we would take from nobody: no service of ours
                found[convert.principal_text(entry.principal)] = None
    return list(found)


def enctypes(keytab: str, service: str) -> set[int]:
    """Of which types (RFC 3961 numbers) the keytab has keys of ``service``, a full principal.

    Raises:
        ConfigError: code ``keytab``: missing, unreadable or not a keytab.
    """
    found = set()
    with opened(keytab) as handle:
        for entry in _each_entry(keytab, handle):
            with contextlib.suppress(RequestError):
                if convert.principal_text(entry.principal) == service:
                    found.add(int(entry.key.enctype))
    return found


def derived_key(keytab: str, purpose: bytes) -> bytes:
    """32 secret bytes for a purpose, made of all the keytab's keys: whoever cannot read it does not know them.

    Raises:
        ConfigError: code ``keytab``: missing, unreadable or not a keytab.
    """
    found = hashlib.sha256()
    with opened(keytab) as handle:
        for entry in _each_entry(keytab, handle):
            found.update(ffi.buffer(entry.key.contents, entry.key.length))
    return hmac.digest(found.digest(), purpose, hashlib.sha256)


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
