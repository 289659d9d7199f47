"""Many who connect at once are taken in together, and whoever comes alone wakes one listener."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hipercow_slurm.auksd.config import Auksd
from hipercow_slurm.auksd.connection import Connection
from hipercow_slurm.auksd.server import CROWD, Server

uvloop = pytest.importorskip("uvloop")

LATER = 40


def test_a_crowd_is_taken_in_together() -> None:
    """uvloop accepts one per listening socket and look: 40 would have taken 40 looks, and each been served alone."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        looks, left = runner.run(_crowd())
    assert looks <= LATER // 2, f"{LATER} connections were accepted in {looks} looks at the sockets"
    assert left == 0, f"{left} more descriptors than before the crowd"


async def _crowd() -> tuple[int, int]:
    """Looks until all of those that came to the crowd were in, and descriptors that are open when all are gone."""
    nothing: Any = None
    server = Server(Auksd(keytab="", store="", key_file="", listen="127.0.0.1:0"), Connection, nothing)
    address = await server.start()
    files = _files()
    peers: list[socket.socket] = []
    try:
        peers += [socket.create_connection(address) for _ in range(CROWD + 1)]
        await _until(lambda: len(server) == CROWD + 1)
        peers += [socket.create_connection(address) for _ in range(LATER)]
        looks = await _until(lambda: len(server) == len(peers))
        while peers:
            peers.pop().close()
        await _until(lambda: len(server) == 0)
        await _until(lambda: _files() == files, pause_s=0.05)
        return looks, _files() - files
    finally:
        for peer in peers:
            peer.close()
        await server.stop()


async def _until(done: Callable[[], bool], *, pause_s: float = 0) -> int:
    """Turns of the event loop until ``done``."""
    turns = 0
    async with asyncio.timeout(30):
        while not done():
            await asyncio.sleep(pause_s)
            turns += 1
    return turns


def _files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
