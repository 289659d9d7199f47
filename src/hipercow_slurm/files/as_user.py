"""Reading a user's file as the user, with a ticket that is in our memory and nowhere else.

libkrb5 wants a credential cache with a name. The one made here is an anonymous memory file (memfd): no disk holds
it, no other uid can open it, and it is gone with its descriptor, also if the process is killed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from hipercow_slurm.files.nfs4_attributes import Attributes, Entry
from hipercow_slurm.files.nfs4_client import Client, Server
from hipercow_slurm.values import KrbCred


@contextlib.contextmanager
def memory_ccache(cred: KrbCred) -> Iterator[str]:
    """The name of a credential cache that holds ``cred`` inside the block, for this process only."""
    from hipercow_slurm.krb5.ccache import file_v4

    descriptor = os.memfd_create("ccache", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(file_v4(cred))
        yield f"FILE:/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def read_file(
    server: Server, path: str, cred: KrbCred, offset: int, limit: int, *, timeout_s: float = 15.0
) -> tuple[bytes, int]:
    """Up to ``limit`` bytes of ``path`` on ``server`` from ``offset`` on, read as the client of ``cred``.

    Blocking (server, and the KDC for the ticket to the server): call it in a thread. Needs the whole file's path as
    the server exports it.

    Returns:
        The bytes, and the file's size when reading began; no bytes at or after the end.

    Raises:
        RequestError: "no-such-file" (404), "is-a-directory", "is-a-symlink", "bad-path".
        AccessError: "access-denied" for this user, "unknown-service", "auth-failed".
        CredentialError: "expired", "no-tgt". UnavailableError: the server or the KDC. ProtocolError.
    """
    with memory_ccache(cred) as ccache, Client(server, ccache=ccache, timeout_s=timeout_s) as client:
        return client.read(path, offset=offset, limit=limit)


def look_at(server: Server, path: str, cred: KrbCred, *, timeout_s: float = 15.0) -> tuple[Attributes, list[Entry]]:
    """What ``path`` is, and what is in it if it is a directory. Blocking; errors as ``read_file``."""
    with memory_ccache(cred) as ccache, Client(server, ccache=ccache, timeout_s=timeout_s) as client:
        found = client.stat(path)
        return found, client.listdir(path) if found.type == "directory" else []


def write_file(
    server: Server, path: str, cred: KrbCred, data: bytes, *, mode: int = 0o600, timeout_s: float = 60.0
) -> int:
    """Replace the content of ``path`` by ``data``, creating it with ``mode`` if need be; its size now.

    Blocking. On stable storage when it returns; errors as ``read_file``.
    """
    with memory_ccache(cred) as ccache, Client(server, ccache=ccache, timeout_s=timeout_s) as client:
        return client.write(path, data, mode=mode)


def make_directory(server: Server, path: str, cred: KrbCred, *, mode: int = 0o700, timeout_s: float = 15.0) -> bool:
    """Create the directory ``path``; False: there is one already. Blocking; errors as ``Client.make_directory``."""
    with memory_ccache(cred) as ccache, Client(server, ccache=ccache, timeout_s=timeout_s) as client:
        return client.make_directory(path, mode=mode)
