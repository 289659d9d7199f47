"""POSIX extended regular expressions, by the C library's own regcomp.

Existing ACL files are written in them; Python's ``re`` differs where it matters (``[[:alnum:]]``, a backslash inside
brackets, ``\\d``), and an access rule must not change its meaning because the daemon changed.
"""

from __future__ import annotations

import ctypes
import threading

_REG_EXTENDED, _REG_NOSUB = 1, 8  # the same numbers in glibc and musl
_REGEX_T_BYTES = 512  # glibc needs 64

_libc = ctypes.CDLL(None)
_libc.regcomp.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
_libc.regexec.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int]
_libc.regerror.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
_libc.regerror.restype = ctypes.c_size_t
_libc.regfree.argtypes = [ctypes.c_void_p]
_libc.regfree.restype = None


class PosixRegex:
    """A compiled expression, case-sensitive.

    Raises:
        ValueError: it does not compile; the text is the C library's.
    """

    def __init__(self, pattern: str) -> None:
        self._compiled: ctypes.Array[ctypes.c_char] | None = None
        self._lock = threading.Lock()  # glibc's matcher keeps state in the compiled expression
        compiled = ctypes.create_string_buffer(_REGEX_T_BYTES)
        if "\0" in pattern:
            raise ValueError("it contains a NUL")
        status = _libc.regcomp(compiled, pattern.encode(), _REG_EXTENDED | _REG_NOSUB)
        if status:
            text = ctypes.create_string_buffer(256)
            _libc.regerror(status, compiled, text, len(text))
            raise ValueError(text.value.decode(errors="replace"))
        self._compiled = compiled

    def search(self, text: str) -> bool:
        """True if the expression matches anywhere in ``text``."""
        with self._lock:
            return bool(_libc.regexec(self._compiled, text.encode(errors="replace"), 0, None, 0) == 0)

    def __del__(self) -> None:
        if self._compiled is not None:
            _libc.regfree(self._compiled)
