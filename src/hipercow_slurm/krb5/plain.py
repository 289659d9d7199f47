"""The functions of ``glue.py`` for the fallback without compiler: the same names, arguments and results, in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hipercow_slurm.krb5 import codes
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
    flags: int,
    own: Any,
    peer: Any,
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
    client[0] = b"\0"
    given, _keep = _given(data, length)
    code = hipercow_slurm_begin(context, flags, own, peer, auth)
    if code:
        return code
    code = lib.krb5_rd_req(context, auth, given, server, keys, options, NULL)
    code = code or _made(context, out, size, made, lambda answer: lib.krb5_mk_rep(context, auth[0], answer))
    if code:
        lib.krb5_auth_con_free(context, auth[0])
        auth[0] = NULL
    return code


def hipercow_slurm_seal(context: Any, auth: Any, data: bytes, length: int, out: Any, size: int, made: Any) -> int:
    """See ``glue.py``."""
    given, _keep = _given(data, length)
    return _made(context, out, size, made, lambda result: lib.krb5_mk_priv(context, auth, given, result, NULL))


def hipercow_slurm_unseal(context: Any, auth: Any, data: bytes, length: int, out: Any, size: int, made: Any) -> int:
    """See ``glue.py``."""
    given, _keep = _given(data, length)
    return _made(context, out, size, made, lambda result: lib.krb5_rd_priv(context, auth, given, result, NULL))


def hipercow_slurm_renew(
    context: Any, _line: Any, data: bytes, length: int, out: Any, size: int, made: Any, told: Any
) -> int:
    """See ``glue.py``; no line is ever used."""
    auth, found = ffi.new("krb5_auth_context *"), ffi.new("krb5_creds ***")
    code = hipercow_slurm_begin(context, 0, NULL, NULL, auth)
    if code:
        return code
    given, _keep = _given(data, length)
    fresh, answer = ffi.new("krb5_creds *"), ffi.new("krb5_data **")
    code = lib.krb5_rd_cred(context, auth[0], given, found, NULL)
    code = code or _renewed_by(context, found[0][0], fresh)
    code = code or lib.krb5_mk_1cred(context, auth[0], fresh, answer, NULL)
    if not code:
        times, key = fresh.times, fresh.keyblock
        told[0:4] = times.authtime, times.starttime, times.endtime, times.renew_till
        told[4:7] = key.enctype, key.length, int(fresh.addresses != NULL)
        _given_out(context, out, size, made, answer[0])
        lib.krb5_free_data(context, answer[0])
    lib.krb5_free_cred_contents(context, fresh)
    lib.krb5_free_tgt_creds(context, found[0])
    lib.krb5_auth_con_free(context, auth[0])
    return code


def _renewed_by(context: Any, found: Any, fresh: Any) -> int:
    if not found.ticket_flags & lib.TKT_FLG_RENEWABLE:
        return codes.NUMBERS["KRB5KDC_ERR_BADOPTION"]
    ccache = ffi.new("krb5_ccache *")
    code: int = lib.krb5_cc_new_unique(context, b"MEMORY", NULL, ccache)
    if code:
        return code
    code = lib.krb5_cc_initialize(context, ccache[0], found.client)
    code = code or lib.krb5_cc_store_cred(context, ccache[0], found)
    code = code or lib.krb5_get_renewed_creds(context, fresh, found.client, ccache[0], NULL)
    if not code and not (
        lib.krb5_principal_compare(context, found.client, fresh.client)
        and lib.krb5_principal_compare(context, found.server, fresh.server)
    ):
        code = codes.NUMBERS["KRB5_KDCREP_MODIFIED"]
    lib.krb5_cc_destroy(context, ccache[0])
    return code


def _given(data: bytes, length: int) -> tuple[Any, Any]:
    """A krb5_data over bytes, and what must be kept alive while it is used."""
    given, keep = ffi.new("krb5_data *"), ffi.from_buffer(data)
    given.length, given.data = length, keep
    return given, keep


def _made(context: Any, out: Any, size: int, made: Any, call: Callable[[Any], int]) -> int:
    result = ffi.new("krb5_data *")
    code = call(result)
    if not code:
        _given_out(context, out, size, made, result)
    return code


def _given_out(context: Any, out: Any, size: int, made: Any, result: Any) -> None:
    made[0] = result.length
    if 0 < result.length <= size:
        ffi.memmove(out, result.data, result.length)
    lib.krb5_free_data_contents(context, result)
