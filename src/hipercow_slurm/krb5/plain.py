"""The functions of ``glue.py`` for the fallback without compiler: the same names, arguments and results, in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hipercow_slurm.krb5.lib import NULL, ffi, lib


def hipercow_slurm_begin(context: Any, flags: int, own: Any, peer: Any, auth: Any) -> int:
    """See ``glue.py``."""
    code: int = lib.krb5_auth_con_init(context, auth)
    if code:
        return code
    code = lib.krb5_auth_con_setflags(context, auth[0], flags)
    if not code and own != NULL:
        code = lib.krb5_auth_con_setaddrs(context, auth[0], own, peer)
    if code:
        lib.krb5_auth_con_free(context, auth[0])
        auth[0] = NULL
    return code


def hipercow_slurm_accept(
    context: Any,
    auth: Any,
    data: bytes,
    length: int,
    server: Any,
    keys: Any,
    options: Any,
    out: Any,
    size: int,
    made: Any,
    client: Any,
    client_size: int,
) -> int:
    """See ``glue.py``; there is never room for the client's name."""
    holder = ffi.new("krb5_auth_context *", auth)
    client[0] = b"\0"
    given, _keep = _given(data, length)
    code: int = lib.krb5_rd_req(context, holder, given, server, keys, options, NULL)
    return code or _given_out(context, out, size, made, lambda answer: lib.krb5_mk_rep(context, auth, answer))


def hipercow_slurm_seal(context: Any, auth: Any, data: bytes, length: int, out: Any, size: int, made: Any) -> int:
    """See ``glue.py``."""
    given, _keep = _given(data, length)
    return _given_out(context, out, size, made, lambda result: lib.krb5_mk_priv(context, auth, given, result, NULL))


def hipercow_slurm_unseal(context: Any, auth: Any, data: bytes, length: int, out: Any, size: int, made: Any) -> int:
    """See ``glue.py``."""
    given, _keep = _given(data, length)
    return _given_out(context, out, size, made, lambda result: lib.krb5_rd_priv(context, auth, given, result, NULL))


def _given(data: bytes, length: int) -> tuple[Any, Any]:
    """A krb5_data over bytes, and what must be kept alive while it is used."""
    given, keep = ffi.new("krb5_data *"), ffi.from_buffer(data)
    given.length, given.data = length, keep
    return given, keep


def _given_out(context: Any, out: Any, size: int, made: Any, call: Callable[[Any], int]) -> int:
    result = ffi.new("krb5_data *")
    code = call(result)
    if not code:
        made[0] = result.length
        if 0 < result.length <= size:
            ffi.memmove(out, result.data, result.length)
        lib.krb5_free_data_contents(context, result)
    return code
