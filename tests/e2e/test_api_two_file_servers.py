"""One file server hangs; what is on another is read as before. On the real parts."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

import pytest

from hipercow_slurm.testing.sandbox import Sandbox, layout
from hipercow_slurm.testing.story import eventually
from person import URL, Person

pytestmark = pytest.mark.e2e

API_TOML = f"{layout.CONFIG}/api.toml"
PORT = 20490
ROW = f"""
[[files]]
prefix = "/far"
server = "{layout.fqdn(layout.FILES)}"
port = {PORT}
export = "/far"
"""

# What a file server that hangs is to who asks it: the kernel takes connections, and nobody says a word on them.
HANGS = f"""
import os, signal, socket
listening = socket.create_server(("", {PORT}), backlog=100)
print("listens", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""

# So many requests at once for a path, each on a connection of its own, so that all API processes have their part.
CROWD = """
import asyncio, httpx, json, sys
ask = json.load(sys.stdin)
async def one():
    async with httpx.AsyncClient(verify="/etc/hipercow-slurm/ca.pem", timeout=60, trust_env=False) as client:
        return (await client.get(ask["url"], headers=ask["headers"])).json().get("code")
async def crowd():
    print(json.dumps(await asyncio.gather(*[one() for _ in range(ask["at_once"])], return_exceptions=True)))
asyncio.run(crowd())
"""


@pytest.fixture
def far(sandbox: Sandbox) -> Iterator[None]:
    """The API reads what is below /far from a second file server, and that one hangs."""
    before = sandbox.read(layout.HEAD, API_TOML)
    configure(sandbox, before + ROW)
    hanging = sandbox.popen("files", ["hipercow-python", "-c", HANGS], stdout=subprocess.PIPE, text=True)
    try:
        assert hanging.stdout is not None and hanging.stdout.readline() == "listens\n"
        yield
    finally:
        hanging.kill()
        hanging.wait()
        configure(sandbox, before)


def configure(sandbox: Sandbox, text: str) -> None:
    """The API starts anew with this ``api.toml``."""
    sandbox.run(layout.HEAD, ["sh", "-c", f"cat > {API_TOML}"], input=text)
    sandbox.service("api").restart()


def test_a_hanging_file_server_holds_up_none_but_its_own_files(sandbox: Sandbox, far: None) -> None:
    """Would have caught: eight threads for the files of all servers, and nobody's output was read for minutes."""
    alice, bob = Person(sandbox, "alice"), Person(sandbox, "bob")
    asked = {"url": f"{URL}/v1/files?path=/far/data", "headers": alice.headers, "at_once": 40}
    crowd = sandbox.popen(
        "laptop",
        ["hipercow-python", "-c", CROWD],
        user="laptop",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert crowd.stdin is not None and crowd.stdout is not None
    with crowd.stdin as typed:
        typed.write(json.dumps(asked))
    connected = ["sh", "-c", f"ss -Htn state established '( sport = :{PORT} )' | wc -l"]
    eventually("both processes wait for it", lambda: int(sandbox.run("files", connected).stdout) >= 16, within_s=15)
    for _ in range(6):  # they meet both processes of the API
        begin = time.monotonic()
        answer = bob.ask("GET", "/v1/files", params={"path": "/home/bob"})
        took_s = time.monotonic() - begin
        assert answer.status == 200 and took_s < 5, (took_s, answer)
    assert crowd.poll() is None, crowd.stdout.read()
    assert set(json.loads(crowd.stdout.read())) == {"file-server-timeout"}, "and who asks for its files is told why"
    assert crowd.wait() == 0
