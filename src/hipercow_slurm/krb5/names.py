"""Questions to krb5.conf about names: the default realm, and the local account of a principal.

The text form of principals is in ``principal.py``, which needs no libkrb5.
"""

from __future__ import annotations

from hipercow_slurm.errors import AccessError
from hipercow_slurm.krb5 import codes, convert
from hipercow_slurm.krb5.lib import check, context, error_of, ffi, lib
from hipercow_slurm.krb5.principal import Principal

__all__ = ["Principal", "default_realm", "full", "localname"]

MAX_LOCALNAME = 256


def default_realm() -> str:
    """The default realm of krb5.conf.

    Raises:
        ConfigError: code ``krb5-conf``: there is none.
    """
    holder = ffi.new("char **")
    check(lib.krb5_get_default_realm(context(), holder), "find the default realm", codes.SETUP)
    try:
        return str(ffi.string(holder[0]).decode("utf-8", "replace"))
    finally:
        lib.krb5_free_default_realm(context(), holder[0])


def full(text: str) -> str:
    """A principal's text with its realm, the default one if it names none.

    Raises:
        RequestError: code ``bad-principal``.
    """
    # libkrb5 is asked only when needed; backslash-quoted @ is rare enough to ask in vain.
    return str(Principal.parse(text, default_realm=None if "@" in text and "\\" not in text else default_realm()))


def localname(principal: str) -> str:
    """The local account a principal maps to (krb5_aname_to_localname: auth_to_local in krb5.conf).

    By default only one-component principals of the default realm have one.

    Raises:
        AccessError: code ``no-localname``: no rule maps it, or to something no account is called.
        RequestError: code ``bad-principal``.
    """
    name = convert.principal(str(Principal.parse(principal)))
    buffer = ffi.new("char[]", MAX_LOCALNAME)
    code = lib.krb5_aname_to_localname(context(), name, MAX_LOCALNAME, buffer)
    if code:
        raise error_of(code, f"map {principal} to a local account", codes.NAME)
    try:
        found = str(ffi.string(buffer).decode("utf-8"))
    except UnicodeDecodeError:
        found = ""
    # Rules can rewrite names to anything; what follows goes to getpwnam, into tokens and paths.
    if not found or not found.isprintable() or any(character in found for character in " /:@\\"):
        raise AccessError(
            f"cannot map {principal} to a local account: the rules make {found!r} of it",
            code="no-localname",
            hint=codes.NO_LOCALNAME.hint,
        )
    return found
