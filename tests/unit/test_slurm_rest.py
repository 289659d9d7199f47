"""The slurmrestd client against a peer that fails in every way a network can: what may be called what.

The peer is a real unix socket server that plays answers recorded from a real slurmrestd; the real one itself is
met in tests/e2e/test_slurmrestd.py.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from hipercow_slurm.errors import ConfigError, Error, RequestError, SchedulerError, UnavailableError
from hipercow_slurm.slurm import rest
from hipercow_slurm.slurm.model import JobSpec
from hipercow_slurm.slurm.rest import Identity, SlurmRest

RECORDED = Path(__file__).parent.parent / "slurm_answers" / "v0.0.38"
ALICE = Identity("alice", "SECRET-TOKEN")
SPEC = JobSpec(script="#!/bin/sh\n", working_directory="/home/alice")

HANG_UP, SILENCE, HALF, ENDLESS = "HANG_UP", "SILENCE", "HALF", "ENDLESS"


class Peer:
    """Answers each request with the next of ``script``: a recorded answer's name, or a fault."""

    def __init__(self, *script: str) -> None:
        self.script = list(script)
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = self.most = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.most = max(self.most, self.connections)
        try:
            while await self.one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connections -= 1
            writer.close()

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append((head[0], headers, body))
        act = self.script.pop(0) if self.script else "ping"
        if act == HANG_UP:
            return False
        if act == SILENCE:
            await asyncio.sleep(30)
        if act == HALF:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{")
            return False
        if act == ENDLESS:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999999999\r\n\r\n")
            while True:
                writer.write(b" " * 65536)
                await writer.drain()
        kept = json.loads((RECORDED / f"{act}.json").read_text())
        content = (kept["body"] if isinstance(kept["body"], str) else json.dumps(kept["body"])).encode()
        close = "Connection: Close\r\n" if kept["status"] >= 400 else ""  # as slurmrestd does
        writer.write(
            f"HTTP/1.1 {kept['status']} X\r\nContent-Type: {kept['content_type']}\r\n{close}"
            f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content
        )
        await writer.drain()
        return not close


@asynccontextmanager
async def met(peer: Peer, path: Path, **options: float) -> AsyncIterator[SlurmRest]:
    server = await asyncio.start_unix_server(peer.serve, path)
    async with server, SlurmRest(str(path), timeout_s=options.get("timeout_s", 5.0), connections=4) as slurm:
        yield slurm


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rest.sock"


async def refused(slurm: SlurmRest, act: Callable[[], object]) -> Error:
    with pytest.raises(Error) as caught:
        await act()  # type: ignore[misc]
    assert "SECRET" not in str(caught.value) and "SECRET" not in repr(caught.value.__cause__), caught.value
    return caught.value


async def test_a_submission_on_the_wire(path: Path) -> None:
    """A chunked body would be a 406; both headers are needed; the connection is kept."""
    peer = Peer("submit-ok", "ping")
    async with met(peer, path) as slurm:
        assert (await slurm.submit(ALICE, SPEC)).job_id == 1
        await slurm.ping(ALICE)
    line, headers, body = peer.requests[0]
    assert line == "POST /slurm/v0.0.38/job/submit HTTP/1.1"
    assert (headers["x-slurm-user-name"], headers["x-slurm-user-token"]) == ("alice", "SECRET-TOKEN")
    assert "transfer-encoding" not in headers and int(headers["content-length"]) == len(body)
    assert headers["content-type"] == "application/json" and json.loads(body)["script"] == SPEC.script
    assert peer.most == 1, "the second request used the same connection"


async def test_a_large_script_is_not_chunked_either(path: Path) -> None:
    peer = Peer("submit-ok")
    script = "#!/bin/sh\n" + "#" * (2 << 20)
    async with met(peer, path) as slurm:
        await slurm.submit(ALICE, JobSpec(script=script, working_directory="/"))
    assert json.loads(peer.requests[0][2])["script"] == script


@pytest.mark.parametrize("fault", [HANG_UP, HALF, SILENCE])
async def test_a_lost_answer_to_a_submission_is_unknown_and_never_repeated(path: Path, fault: str) -> None:
    peer = Peer(fault)
    async with met(peer, path, timeout_s=0.3) as slurm:
        error = await refused(slurm, lambda: slurm.submit(ALICE, SPEC))
    assert isinstance(error, SchedulerError) and (error.code, error.status) == ("submit-unknown", 504), error
    assert len(peer.requests) == 1


async def test_a_submission_that_was_not_sent_has_plainly_failed(path: Path) -> None:
    async with SlurmRest(str(path)) as slurm:
        error = await refused(slurm, lambda: slurm.submit(ALICE, SPEC))
    assert isinstance(error, UnavailableError) and error.code == "scheduler-unreachable", error
    assert "No such file" in error.message, error


async def test_a_submission_that_waited_for_a_connection_was_not_sent(path: Path) -> None:
    """All connections are busy until the deadline: Slurm has not seen a byte of it."""
    peer = Peer(*[SILENCE] * 5)
    async with met(peer, path) as slurm:
        busy = [asyncio.create_task(slurm.ping(ALICE)) for _ in range(4)]
        await asyncio.sleep(0.2)
        slurm._timeout_s = 0.3  # of the submission; the others are still waiting then
        error = await refused(slurm, lambda: slurm.submit(ALICE, SPEC))
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
    assert error.code == "scheduler-unreachable", error
    assert not any(line.startswith("POST") for line, _, _ in peer.requests), peer.requests


async def test_an_impossible_job_is_not_sent(path: Path) -> None:
    peer = Peer()
    async with met(peer, path) as slurm:
        error = await refused(slurm, lambda: slurm.submit(ALICE, JobSpec(script="id\n", working_directory="/")))
    assert isinstance(error, RequestError) and not peer.requests


async def test_a_hung_up_submission_is_unknown_if_the_token_is_good(path: Path) -> None:
    """5005 says both: bad token, and slurmctld died with our request in its hands. A ping tells which."""
    peer = Peer("token-expired-submit", "ping")
    async with met(peer, path) as slurm:
        assert (await refused(slurm, lambda: slurm.submit(ALICE, SPEC))).code == "submit-unknown"


async def test_a_refused_token_is_not_unknown(path: Path) -> None:
    peer = Peer("token-expired-submit", "token-expired-ping", "token-expired-ping")
    async with met(peer, path) as slurm:
        assert (await refused(slurm, lambda: slurm.submit(ALICE, SPEC))).code == "slurm-token-refused"


async def test_a_read_is_repeated_once_when_the_token_seems_refused(path: Path) -> None:
    peer = Peer("token-expired-job", "job-done", "token-expired-job", "token-expired-job")
    async with met(peer, path) as slurm:
        assert (await slurm.job(ALICE, 1)).state == "COMPLETED"
        assert (await refused(slurm, lambda: slurm.job(ALICE, 1))).code == "slurm-token-refused"
    assert len(peer.requests) == 4


@pytest.mark.parametrize("fault", [HALF, SILENCE])
async def test_a_read_that_fails_is_worth_another_try(path: Path, fault: str) -> None:
    peer = Peer(*[fault] * 3)
    begin = time.monotonic()
    async with met(peer, path, timeout_s=0.3) as slurm:
        error = await refused(slurm, lambda: slurm.jobs(ALICE))
    assert isinstance(error, UnavailableError) and error.code == "scheduler-unreachable", error
    assert time.monotonic() - begin < 2


async def test_answers_have_a_limit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "JOB_LIMIT", 1 << 20)
    peer = Peer(ENDLESS)
    async with met(peer, path) as slurm:
        error = await refused(slurm, lambda: slurm.job(ALICE, 1))
    assert error.code == "slurm-answer" and "1048576" in error.message, error


async def test_the_pool_is_bounded(path: Path) -> None:
    """slurmrestd stops accepting at 124 connections, idle ones included."""
    peer = Peer()
    async with met(peer, path) as slurm:
        await asyncio.gather(*(slurm.ping(ALICE) for _ in range(50)))
    assert len(peer.requests) == 50 and peer.most <= 4, peer.most


@pytest.mark.parametrize("job_id", [0, -1, 0xFFFFFFFE, 2**40])
async def test_ids_no_job_can_have_are_not_asked_for(path: Path, job_id: int) -> None:
    async with SlurmRest(str(path)) as slurm:
        assert (await refused(slurm, lambda: slurm.job(ALICE, job_id))).code == "no-such-job"
        assert (await refused(slurm, lambda: slurm.cancel(ALICE, job_id))).code == "no-such-job"


async def test_a_name_cannot_smuggle_headers(path: Path) -> None:
    peer = Peer()
    async with met(peer, path) as slurm:
        with pytest.raises(ValueError):
            await slurm.ping(Identity("alice\r\nX-SLURM-USER-NAME: root", "t"))
    assert not peer.requests


def test_an_unknown_version_is_refused_at_start(path: Path) -> None:
    with pytest.raises(ConfigError):
        SlurmRest(str(path), version="v0.0.99")


def test_an_identity_does_not_print_its_token() -> None:
    assert "SECRET" not in repr(ALICE) + str(ALICE)
