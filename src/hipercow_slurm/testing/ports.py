"""Ports for servers of one's own, on a machine where others take some, too."""

from __future__ import annotations

import random
import socket


def free_port(host: str = "127.0.0.1", count: int = 1) -> int:
    """A port free for both TCP and UDP just now; the first of ``count`` such in a row.

    Below those that the kernel gives to outgoing connections: none of those can take it before it is used.
    """
    for _ in range(200):
        first = random.randrange(10_000, 32_000)
        if all(_free(host, first + n) for n in range(count)):
            return first
    raise RuntimeError(f"no port free for both TCP and UDP on {host}")


def _free(host: str, port: int) -> bool:
    try:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            with socket.socket(socket.AF_INET, kind) as sock:
                sock.bind((host, port))
    except OSError:
        return False
    return True
