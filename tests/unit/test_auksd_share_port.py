"""Several instances on one port: only where every one of them was told so."""

from __future__ import annotations

from typing import Any

import pytest

from hipercow_slurm.auksd.config import Auksd
from hipercow_slurm.auksd.server import Server
from hipercow_slurm.errors import UnavailableError


def server(listen: str, *, share_port: bool) -> Server:
    """One that can listen; nobody connects, so nothing behind it is needed."""
    config = Auksd(keytab="", store="", key_file="", listen=listen, share_port=share_port)
    nothing: Any = None
    return Server(config, nothing, nothing)


async def test_instances_share_a_port_when_told_to() -> None:
    """Without SO_REUSEPORT the second one would not start, and a host would serve with one core."""
    first = server("127.0.0.1:0", share_port=True)
    host, port = await first.start()
    second = server(f"{host}:{port}", share_port=True)
    try:
        assert await second.start() == (host, port)
    finally:
        await first.stop()
        await second.stop()


async def test_a_forgotten_instance_takes_no_connections_away() -> None:
    """Sharing by default would split clients between a new daemon and an old one with another store."""
    first = server("127.0.0.1:0", share_port=False)
    host, port = await first.start()
    try:
        for share_port in (False, True):
            with pytest.raises(UnavailableError, match="cannot listen"):
                await server(f"{host}:{port}", share_port=share_port).start()
    finally:
        await first.stop()
