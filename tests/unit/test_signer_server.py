"""The signer's server when its decisions hang, as they do when a name service does: callers are told, others served."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from hipercow_slurm.errors import ConfigError
from hipercow_slurm.signer import keys, messages
from hipercow_slurm.signer.policy import Rules
from hipercow_slurm.signer.server import Server, listen
from hipercow_slurm.signer.service import Peer, Service

released = threading.Event()


@dataclass(frozen=True, slots=True)
class HangingService(Service):
    """A request of one byte hangs in its thread; every other is answered as usual."""

    def answer(self, ap_req: bytes, peer: Peer) -> bytes:
        if len(ap_req) == 1:
            released.wait(10)
        return messages.granted(b"rep", b"sealed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


def hanging_server(folder: Path) -> Server:
    key = keys.generate(folder / "key.pem", folder / "jwks.json")
    service = HangingService("FILE:none", "s/h@R", key, Rules(60, 1000), frozenset({os.getuid()}))
    return Server(service, folder / "sock", deadline_s=1.5, connections=100)


async def ask(path: Path, body: bytes) -> dict[str, object]:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(messages.frame(body))
    async with asyncio.timeout(5):
        reply: dict[str, object] = json.loads((await reader.read(10_000))[4:])
    writer.close()
    return reply


async def test_a_hanging_name_service_is_told_and_holds_up_nobody_else(folder: Path) -> None:
    released.clear()
    try:
        async with hanging_server(folder):
            begin = time.monotonic()
            slow = [asyncio.create_task(ask(folder / "sock", b"x")) for _ in range(3)]
            await asyncio.sleep(0.05)
            assert (await ask(folder / "sock", b"quick"))["ok"] is True
            assert time.monotonic() - begin < 1.4, "the quick one waited for the slow ones"
            replies = await asyncio.gather(*slow)
            assert {reply["code"] for reply in replies} == {"signer-slow"}, replies
            assert {reply["family"] for reply in replies} == {"UnavailableError"}
            released.set()
            assert (await ask(folder / "sock", b"again"))["ok"] is True
    finally:
        released.set()
    assert not (folder / "sock").exists()


def test_the_sockets_folder_must_be_closed_to_others(folder: Path) -> None:
    for mode in (0o755, 0o751, 0o777):
        folder.chmod(mode)
        with pytest.raises(ConfigError) as caught:
            listen(folder / "sock")
        assert caught.value.code == "socket-unsafe" and f"{mode:04o}" in caught.value.message, caught.value
        assert not (folder / "sock").exists()


def test_something_else_in_the_sockets_place_is_left_alone(folder: Path) -> None:
    (folder / "sock").write_text("precious")
    with pytest.raises(ConfigError):
        listen(folder / "sock")
    assert (folder / "sock").read_text() == "precious"
