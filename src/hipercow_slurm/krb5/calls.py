"""The joined calls of ``glue.py``, from the compiled module or as ``plain.py`` has them, and where they put results."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

from hipercow_slurm.krb5 import convert
from hipercow_slurm.krb5.lib import MODE, ffi, lib

OUT = 68 * 1024  # any answer to a frame, and what a frame may hold
CLIENT = 1024
TOLD = 7  # see ``glue.py``
ADDRTYPE_INET = 2

_glue: Any = lib
if MODE == "abi":
    from hipercow_slurm.krb5 import plain as _glue
begin, accept = _glue.hipercow_slurm_begin, _glue.hipercow_slurm_accept
seal, unseal = _glue.hipercow_slurm_seal, _glue.hipercow_slurm_unseal
renew = _glue.hipercow_slurm_renew
if MODE == "api":  # see ``together.py``
    renew_each, claim = _glue.hipercow_slurm_renew_each, _glue.hipercow_slurm_claim
    end, done = _glue.hipercow_slurm_end, _glue.hipercow_slurm_done


class Scratch:
    """What the results of a call are put into, made once per thread; nothing in it is of use after the call."""

    __slots__ = ("auth", "authenticator", "client", "made", "options", "out", "told")

    def __init__(self) -> None:
        self.out = ffi.new_allocator(should_clear_after_alloc=False)("char[]", OUT)
        self.made = ffi.new("size_t *")
        self.client = ffi.new("char[]", CLIENT)
        self.auth = ffi.new("krb5_auth_context *")
        self.options = ffi.new("int32_t *")
        self.told = ffi.new("int32_t[]", TOLD)
        self.authenticator = ffi.new("krb5_authenticator **")

    def room(self, size: int) -> tuple[Any, int]:
        """A buffer of at least ``size`` octets, and how many it has: the thread's own, unless that is too small."""
        return (self.out, OUT) if size <= OUT else (ffi.new("char[]", size), size)


class _PerThread(threading.local):
    def __init__(self) -> None:
        self.scratch = Scratch()


own = _PerThread()


@lru_cache(maxsize=4096)
def addresses(local: bytes, remote: bytes) -> tuple[Any, Any, Any]:
    """Two krb5_addresses of IPv4 addresses, and the buffers they point to; nobody writes to any of them."""
    (own, kept), (peer, kept_too) = convert.address(ADDRTYPE_INET, local), convert.address(ADDRTYPE_INET, remote)
    return own, peer, (kept, kept_too)


@lru_cache(maxsize=64)
def principal(text: str) -> Any:
    """A krb5_principal; nobody writes to it."""
    return convert.principal(text)
