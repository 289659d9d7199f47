"""The binding: the loaded libkrb5, contexts, owned handles, and the border where its errors become ours.

Rule 1: no object keeps a krb5_context. Each call takes ``context()``, the calling thread's own, so an object made in
a worker thread can be used and freed in the event loop's. (MIT's handles do not point back to a context.)
Rule 2: a thread's context never runs an AS exchange: that may shift the clock offset of its context, by what a
KDC says. Those run in a ``fresh()`` one.
Rule 3: every C call is followed by ``check``; every handle is ``own``-ed in the statement after it came to be.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hipercow_slurm.errors import Error
from hipercow_slurm.krb5 import codes


def _load() -> tuple[Any, Any, str]:
    """ffi, lib and how: the compiled module, or the same declarations over dlopen."""
    try:
        compiled = importlib.import_module("hipercow_slurm.krb5._libkrb5")
    except ImportError:
        import cffi

        from hipercow_slurm.krb5.cdef import CDEF

        fallback = cffi.FFI()
        fallback.cdef(CDEF)
        return fallback, fallback.dlopen("libkrb5.so.3"), "abi"
    return compiled.ffi, compiled.lib, "api"


ffi, lib, MODE = _load()

NULL: Any = ffi.NULL
RECHECK_S = 1.0  # how long a thread may go on with a krb5.conf that has changed


class Krb5Error(Exception):
    """What libkrb5 said, for logs: the cause (``__cause__``) of the error of ours that was raised for it."""

    def __init__(self, number: int, text: str) -> None:
        self.number = number
        self.name = codes.name_of(number)
        super().__init__(f"{text} ({self.name + ' ' if self.name else ''}{number})")
        self.text = text


def check(code: int, doing: str, stage: str, own_context: Any = None) -> None:
    """Raise what a libkrb5 result means; does nothing for 0.

    Args:
        doing: what was tried, on what, to stand after "cannot": "renew the TGT of alice@R".
        stage: one of the stages of ``codes``.
        own_context: the context of the call, where it was not the thread's: it knows the details.
    """
    if code:
        raise error_of(code, doing, stage, own_context)


def error_of(code: int, doing: str, stage: str, own_context: Any = None) -> Error:
    """Our error for a libkrb5 result, with a ``Krb5Error`` as its cause."""
    asked = own_context if own_context is not None else context()
    pointer = lib.krb5_get_error_message(asked, code)
    text = ffi.string(pointer).decode("utf-8", "replace")
    lib.krb5_free_error_message(asked, pointer)
    cause = Krb5Error(code, "".join(c if c.isprintable() else "?" for c in text))
    row = codes.row(code, stage)
    error = row.family(f"cannot {doing}: {row.sentence or cause}", code=row.code, hint=row.hint, status=row.status)
    error.__cause__ = cause
    return error


# Contexts


class _Context:
    """A krb5_context that is freed with its Python object."""

    __slots__ = ("kept", "key", "pointer")

    def __init__(self, key: object = None) -> None:
        self.pointer: Any = NULL
        self.key = key
        self.kept: dict[str, Any] = {}
        holder = ffi.new("krb5_context *")
        code = lib.krb5_init_context(holder)
        if code:  # no context to ask for the message with: krb5.conf is missing or not readable as one
            row = codes.row(code, codes.SETUP)
            names = os.environ.get("KRB5_CONFIG", "/etc/krb5.conf")
            name = codes.name_of(code) or "error"
            raise row.family(f"cannot use {names}: {name} {code}", code=row.code, hint=row.hint)
        self.pointer = holder[0]

    def __del__(self) -> None:
        if self.pointer:
            lib.krb5_free_context(self.pointer)
            self.pointer = NULL


class _Local(threading.local):
    context: _Context | None = None
    checked = 0.0
    config: bytes | None = None


_local = _Local()
# CPython's own dict, if it has one: asked for with each connection, and os.environ takes 1 us to say no.
_environ: Mapping[bytes, bytes] = getattr(os.environb, "_data", os.environb)


def context() -> Any:
    """The calling thread's krb5_context; a new one after KRB5_CONFIG or a file it names has changed."""
    config = _environ.get(b"KRB5_CONFIG")
    now = time.monotonic()
    if _local.context is None or config != _local.config or now - _local.checked > RECHECK_S:
        key = _config_key(os.fsdecode(config) if config is not None else None)
        if _local.context is None or _local.context.key != key:
            _local.context = _Context(key)
        _local.config, _local.checked = config, now
    return _local.context.pointer


def kept() -> dict[str, Any]:
    """What is to be thrown away with the calling thread's krb5_context: what was made by its configuration."""
    held = _local.context
    if held is None:
        context()
        return kept()
    return held.kept


def any_context() -> Any:
    """The thread's krb5_context, whatever its configuration: freeing asks for none, and is half of all calls."""
    held = _local.context
    return held.pointer if held is not None else context()


@contextlib.contextmanager
def fresh() -> Iterator[Any]:
    """A krb5_context for one task: newest configuration and environment, and no effect on any other."""
    holder = _Context()
    yield holder.pointer


def _config_key(config: str | None) -> tuple[tuple[str, int], ...]:
    """The configuration files with their change times."""
    found = []
    for name in (config or "/etc/krb5.conf").split(":"):
        try:
            found.append((name, Path(name).stat().st_mtime_ns))
        except OSError:
            found.append((name, 0))
    return tuple(found)


# Handles


def own(pointer: Any, free: Callable[[Any, Any], object]) -> Any:
    """Tie a C handle to a Python object: ``free(context, handle)`` at ``ffi.release`` or garbage collection."""
    return ffi.gc(pointer, lambda handle: free(any_context(), handle))


def release(handle: Any) -> None:
    """Free an owned handle now; harmless for NULL and for the second time."""
    if handle is not None and handle != NULL:
        ffi.release(handle)


def take_data(data: Any) -> bytes:
    """Copy and free the contents of a krb5_data that libkrb5 filled."""
    octets = bytes(ffi.buffer(data.data, data.length)) if data.length else b""
    lib.krb5_free_data_contents(any_context(), data)
    return octets


def wipe(buffer: Any) -> None:
    """Overwrite a cffi buffer that held a secret."""
    ffi.memmove(buffer, b"\0" * ffi.sizeof(buffer), ffi.sizeof(buffer))
