"""The password out of the request body, without ever making a Python string of it: a string could not be wiped.

What Python cannot promise: other copies' memory is freed, and overwritten only when it is used again.
"""

from __future__ import annotations

from hipercow_slurm.errors import RequestError


def password_of(raw: bytes | memoryview, limit_bytes: int) -> bytearray:
    """The password from its raw JSON string, without ever making a Python string of it; the caller wipes it.

    Raises:
        RequestError: not a string, or as ``check``.
    """
    view = memoryview(raw)
    if len(view) < 2 or view[0] != 0x22:
        raise RequestError("password must be a string")
    password = bytearray()
    try:
        _unescape(view[1:-1], password)
    except RequestError:
        wipe(password)
        raise
    return checked(password, limit_bytes)


def checked(password: bytearray, limit_bytes: int) -> bytearray:
    """The password itself, if it can be one; else it is wiped.

    Raises:
        RequestError: empty, longer than ``limit_bytes``, not UTF-8, or with control characters (a NUL would cut the
            password short in C).
    """
    why = None
    if not 0 < len(password) <= limit_bytes:
        why = f"the password must have 1 to {limit_bytes} bytes"
    elif min(password) < 0x20 or 0x7F in password:
        why = "the password has control characters"
    elif not _is_utf8(password):
        why = "the password is not UTF-8"
    if why is not None:
        wipe(password)
        raise RequestError(why)
    return password


def wipe(*secrets: bytearray) -> None:
    """Overwrite in place; a Python program cannot promise that no copy was made elsewhere."""
    for secret in secrets:
        secret[:] = bytes(len(secret))


_ESCAPES = {ord(k): v for k, v in {'"': 0x22, "\\": 0x5C, "/": 0x2F, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9}.items()}


def _unescape(view: memoryview, out: bytearray) -> None:
    """Undo JSON's backslashes; the decoder has already checked that they are well formed."""
    at = 0
    while at < len(view):
        if view[at] != 0x5C:
            out.append(view[at])
            at += 1
        elif view[at + 1] != ord("u"):
            out.append(_ESCAPES[view[at + 1]])
            at += 2
        else:
            unit = int(bytes(view[at + 2 : at + 6]), 16)
            at += 6
            if 0xD800 <= unit < 0xDC00 and bytes(view[at : at + 2]) == b"\\u":
                low = int(bytes(view[at + 2 : at + 6]), 16)
                at += 6
                unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00)
            if 0xD800 <= unit < 0xE000 or unit > 0x10FFFF:
                raise RequestError("the password is not UTF-8")
            out += chr(unit).encode()


def _is_utf8(data: bytearray) -> bool:
    try:
        # The string made here is one character long at a time: nothing of the password stays behind as a whole.
        at = 0
        while at < len(data):
            lead = data[at]
            size = 1 if lead < 0x80 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            data[at : at + size].decode("utf-8")
            at += size
    except UnicodeDecodeError:
        return False
    return True
