"""A line to a KDC that stays open: for a thread that renews one ticket after the other.

For each request libkrb5 looks up the KDC's name, opens a socket, connects, asks and closes: a sixth of what a renewal
costs. Its hook before sending (krb5_set_kdc_send_hook) may give the answer itself. ``line_source.py`` does, from a
connected UDP socket that is kept, with requests and answers that are libkrb5's own to make and to read.

Rule 1: anything unusual is libkrb5's own business: it asks in its own way, with all its KDCs, tries and transports,
as if there were no line. That is: no ``kdc =`` for the realm, or one that is no host and port; a request that krb5.conf
wants to go over TCP; a KDC that is silent for ``SILENT_S``, refuses or says no; an answer that yields no ticket.
Rule 2: after anything unusual the socket is closed, so that a late answer to one request is never taken for the answer
to the next; what arrived uninvited is thrown away before each request.
Rule 3: a KDC that was silent is not asked over a line again for some time: our patience would be added to libkrb5's.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any

from hipercow_slurm.krb5 import lib as krb5
from hipercow_slurm.krb5.lib import MODE, NULL, ffi, lib

SILENT_S = 1  # when libkrb5 would ask the next one
AGAIN_S = 10.0  # after that; doubled for each time in a row
AGAIN_MOST_S = 300.0
ADDRESSES_S = 60.0  # how long the addresses of KDCs are good for new lines
PORT = 88
UDP_LIMIT, UDP_MOST = 1465, 32700  # krb5.conf's udp_preference_limit: default, and what libkrb5 takes at most
REALM = 256

# ``host``, ``host:port``, ``[address]:port``; not a URL, a path, or a port alone.
_HOST_AND_PORT = re.compile(r"(?:(?!\d+$)([^\s:/\[\]]+)|\[([^\s/\[\]]+)\])(?::(\d{1,5}))?").fullmatch


class Line:
    """One to a KDC of ``realm``, of one thread and one krb5_context: a new krb5.conf is a new line."""

    __slots__ = ("_again_s", "_kdcs", "_kdcs_until", "_not_before", "_pid", "_realm", "_socket", "_turn", "pointer")

    def __init__(self, realm: str) -> None:
        self.pointer = ffi.new("hipercow_slurm_line *")
        self.pointer.fd = -1
        self.pointer.realm = realm.encode()
        self._realm = realm
        self._socket: socket.socket | None = None
        self._kdcs: list[tuple[int, Any]] = []
        self._kdcs_until = self._not_before = float("-inf")
        self._again_s = AGAIN_S
        self._turn = self._pid = 0

    def ready(self) -> Any:
        """The struct for ``calls.renew``: with a socket in it, if it is time for one."""
        if self.pointer.fd < 0 or self._pid != os.getpid():  # after a fork the other process has it too
            self._close()
            self._open()
        return self.pointer

    def __del__(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _close(self) -> None:
        line, held, self._socket = self.pointer, self._socket, None
        if held is not None:
            held.close()
        if line.answered:
            self._again_s = AGAIN_S
        if line.silent:
            self._turn += 1
            self._kdcs_until = float("-inf")
            self._not_before = time.monotonic() + self._again_s
            self._again_s = min(2 * self._again_s, AGAIN_MOST_S)
        line.fd, line.answered, line.silent = -1, 0, 0

    def _open(self) -> None:
        now = time.monotonic()
        if now < self._not_before:
            return
        if now > self._kdcs_until:
            limit, names = _configured(self._realm)
            self._kdcs, self._kdcs_until = list(_resolved(names)), now + ADDRESSES_S
            self.pointer.limit = limit
        if not self._kdcs:
            self._not_before = self._kdcs_until
            return
        family, address = self._kdcs[self._turn % len(self._kdcs)]
        try:
            made = socket.socket(family, socket.SOCK_DGRAM)
            made.connect(address)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", SILENT_S, 0))
        except OSError:  # no such network just now, no more files: libkrb5 has its own word for that
            self._not_before = now + AGAIN_S
            return
        self._socket, self._pid = made, os.getpid()
        self.pointer.fd = made.fileno()


def ready(client: str) -> Any:
    """The calling thread's line to the realm of a principal, for ``calls.renew``; NULL without compiled module."""
    realm = client.rpartition("@")[2]
    if MODE == "abi" or "\\" in realm or not 0 < len(realm.encode()) < REALM:
        return NULL
    lines = krb5.kept()
    line = lines.get(realm)
    if line is None:
        line = lines[realm] = Line(realm)
    return line.ready()


def _configured(realm: str) -> tuple[int, list[str]]:
    """The longest request for UDP, and the ``kdc`` lines of a realm, as krb5.conf has them."""
    holder = ffi.new("struct _profile_t **")
    if lib.krb5_get_profile(krb5.context(), holder):
        return 0, []
    try:
        (limit, *_) = [*_values(holder[0], "libdefaults", "udp_preference_limit"), str(UDP_LIMIT)]
        return _limit(limit), _values(holder[0], "realms", realm, "kdc")
    finally:
        lib.profile_release(holder[0])


def _limit(text: str) -> int:
    try:
        limit = int(text)
    except ValueError:  # libkrb5 refuses to ask anybody then, and says why
        return 0
    return UDP_LIMIT if limit < 0 else min(limit, UDP_MOST)


def _values(profile: Any, *names: str) -> list[str]:
    keep = [ffi.new("char[]", name.encode()) for name in names]
    found, texts = ffi.new("char ***"), list[str]()
    if lib.profile_get_values(profile, ffi.new("char *[]", [*keep, NULL]), found):
        return []
    values = found[0]
    while values[len(texts)] != NULL:
        texts.append(ffi.string(values[len(texts)]).decode("utf-8", "replace"))
    lib.profile_free_list(values)
    return texts


def _resolved(names: list[str]) -> Iterator[tuple[int, Any]]:
    """Address family and address of each ``kdc`` line that is a host and perhaps a port; the first one it has."""
    for name in names:
        parts = _HOST_AND_PORT(name)
        bare, bracketed, port = parts.groups(str(PORT)) if parts else ("", "", "0")
        if not 0 < int(port) < 65536:
            continue
        host = bracketed if name.startswith("[") else bare
        with contextlib.suppress(OSError, UnicodeError):
            found = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICSERV)
            family, _, _, _, address = found[0]
            yield family, address
