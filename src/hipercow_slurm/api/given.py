"""What people hand in to prove who they are, taken apart: nothing of it is believed yet (``judging.py``)."""

from __future__ import annotations

import base64
import binascii
import re

from hipercow_slurm.api.password import checked
from hipercow_slurm.api.problems import not_logged_in
from hipercow_slurm.errors import Error, RequestError
from hipercow_slurm.krb5 import ccfile, krbcred
from hipercow_slurm.values import KrbCred

PASSWORD_BYTES = 512
_USERNAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_BASIC_CHARS = 2048


def principal_of(username: str, realm: str) -> str:
    """The principal that ``username`` means: a local name, or a one-component principal of our realm.

    Raises:
        RequestError: code ``bad-username``: another realm, several components, or characters no name has here.
    """
    name, at, given = username.partition("@")
    if not _USERNAME.fullmatch(name) or (at and given != realm):
        raise RequestError(
            f"the username must be a plain account name, or that name with @{realm}", code="bad-username"
        )
    return f"{name}@{realm}"


def ticket_of(data: bytes | bytearray) -> KrbCred:
    """An uploaded ticket: a KRB-CRED in clear (it begins with 0x76), or the bytes of a FILE credential cache (0x05).

    Raises:
        RequestError: code ``bad-ticket``: neither, or without a TGT.
    """
    try:
        return krbcred.parse(bytes(data)) if data[:1] == b"\x76" else ccfile.read_tgt(bytes(data))
    except Error as error:
        raise RequestError(
            f"this is neither a KRB-CRED nor a FILE credential cache with a TGT: {error.message}",
            code="bad-ticket",
            hint='send the file that klist names after "FILE:"',
        ) from None


def basic_of(credentials: str) -> tuple[str, bytearray]:
    """Username and password of a Basic header (RFC 7617, UTF-8).

    Raises:
        AccessError: 401: malformed. RequestError: as ``password.checked``.
    """
    malformed = not_logged_in("this is not a Basic Authorization of ours: base64 of NAME:PASSWORD, in UTF-8")
    if not 0 < len(credentials) <= _BASIC_CHARS:
        raise malformed
    try:
        name, colon, password = base64.b64decode(credentials, validate=True).partition(b":")
        username = name.decode("utf-8")
    except (binascii.Error, ValueError):
        raise malformed from None
    if not colon:
        raise malformed
    return username, checked(bytearray(password), PASSWORD_BYTES)
