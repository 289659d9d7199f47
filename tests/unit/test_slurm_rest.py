"""The slurmrestd client against a peer that fails in every way a network can: what may be called what.

The peer is a real unix socket server that plays answers recorded from real slurmrestds, of every version that we have
recorded; the real ones are met in tests/e2e/test_slurmrestd.py.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from slurm_recorded import VERSIONS, Recorded

from hipercow_slurm.errors import ConfigError, Error, SchedulerError, UnavailableError
from hipercow_slurm.slurm import link, rest, silence
from hipercow_slurm.slurm.model import JobSpec
from hipercow_slurm.slurm.rest import Identity, SlurmRest

ALICE, BOB = Identity("alice", "SECRET-TOKEN"), Identity("bob", "SECRET-TOKEN")
SPEC = JobSpec(script="#!/bin/sh\n", working_directory="/home/alice")

HANG_UP, SILENCE, HALF, ENDLESS, TWICE = "HANG_UP", "SILENCE", "HALF", "ENDLESS", "TWICE "
SLOW = "SLOW"
NOT_READ = "NOT_READ"  # as 26.05.5 answers it: e2e/test_slurmrestd_reads.py
UNREADABLE = b"HTTP/1.1 500 INTERNAL ERROR\r\nConnection: Close\r\nContent-Length: 25\r\n\r\n" + link.NOT_READ


@pytest.fixture(params=VERSIONS, autouse=True)
def version(request: pytest.FixtureRequest) -> str:
    """Of the API that the peer of a test speaks."""
    Peer.recorded = Recorded(request.param)
    return str(request.param)


class Peer:
    """Answers each request with the next of ``script``: a recorded answer's name, or a fault.

    After the name ``TWICE NAME`` its words follow once more on the same connection, as from slurmrestd 26.05.
    """

    recorded: Recorded

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
        if act == SLOW:
            await asyncio.sleep(1)
            act = "ping"
        if act == NOT_READ:
            writer.write(UNREADABLE)
            return False
        if act == HALF:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{")
            return False
        if act == ENDLESS:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999999999\r\n\r\n")
            while True:
                writer.write(b" " * 65536)
                await writer.drain()
        again = act.startswith(TWICE)
        kept = self.recorded.kept(act.removeprefix(TWICE))
        content = (kept["body"] if isinstance(kept["body"], str) else json.dumps(kept["body"])).encode()
        close = "Connection: Close\r\n" if kept["status"] >= 400 else ""  # as slurmrestd does
        writer.write(
            f"HTTP/1.1 {kept['status']} X\r\nContent-Type: {kept['content_type']}\r\n{close}"
            f"Content-Length: {len(content)}\r\n\r\n".encode()
            + content
            + (b"HTTP/1.1 500 X\r\nConnection: Close\r\nContent-Length: 5\r\n\r\nagain" if again else b"")
        )
        await writer.drain()
        return not close


@asynccontextmanager
async def met(
    peer: Peer, path: Path, *, timeout_s: float = 5.0, known: bool = True, ping_after_s: float = 3.0
) -> AsyncIterator[SlurmRest]:
    server = await asyncio.start_unix_server(peer.serve, path)
    version = peer.recorded.version if known else None
    rest = SlurmRest(str(path), version=version, timeout_s=timeout_s, connections=4, ping_after_s=ping_after_s)
    async with server, rest as slurm:
        yield slurm


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rest.sock"


def script_of(body: bytes) -> str:
    """Beside the job at first, part of it now."""
    sent = json.loads(body)
    return str({**sent, **sent["job"]}["script"])


async def refused(slurm: SlurmRest, act: Callable[[], object]) -> Error:
    with pytest.raises(Error) as caught:
        await act()  # type: ignore[misc]
    assert "SECRET" not in str(caught.value) and "SECRET" not in repr(caught.value.__cause__), caught.value
    return caught.value


async def test_a_submission_on_the_wire(path: Path, version: str) -> None:
    """A chunked body would be a 406; both headers are needed; the connection is kept."""
    peer = Peer("submit-ok", "ping")
    async with met(peer, path) as slurm:
        assert (await slurm.submit(ALICE, SPEC)).job_id == 1
        await slurm.ping(ALICE)
    line, headers, body = peer.requests[0]
    assert line == f"POST /slurm/{version}/job/submit HTTP/1.1"
    assert (headers["x-slurm-user-name"], headers["x-slurm-user-token"]) == ("alice", "SECRET-TOKEN")
    assert "transfer-encoding" not in headers and int(headers["content-length"]) == len(body)
    assert headers["content-type"] == "application/json" and script_of(body) == SPEC.script
    assert peer.most == 1, "the second request used the same connection"


async def test_a_large_script_is_not_chunked_either(path: Path) -> None:
    peer = Peer("submit-ok")
    script = "#!/bin/sh\n" + "#" * (2 << 20)
    async with met(peer, path) as slurm:
        await slurm.submit(ALICE, JobSpec(script=script, working_directory="/"))
    assert script_of(peer.requests[0][2]) == script


@pytest.mark.parametrize("fault", [HANG_UP, HALF, SILENCE])
async def test_a_lost_answer_to_a_submission_is_unknown_and_never_repeated(path: Path, fault: str) -> None:
    peer = Peer(fault)
    async with met(peer, path, timeout_s=0.3) as slurm:
        error = await refused(slurm, lambda: slurm.submit(ALICE, SPEC))
    assert isinstance(error, SchedulerError) and (error.code, error.status) == ("submit-unknown", 504), error
    assert len(peer.requests) == 1


async def test_a_submission_that_was_not_sent_has_plainly_failed(path: Path) -> None:
    async with SlurmRest(str(path), version="v0.0.38") as slurm:
        error = await refused(slurm, lambda: slurm.submit(ALICE, SPEC))
    assert isinstance(error, UnavailableError) and error.code == "scheduler-unreachable", error
    assert "No such file" in error.message, error


async def test_a_submission_that_waited_for_a_connection_was_not_sent(path: Path) -> None:
    """All connections are busy until the deadline: Slurm has not seen a byte of it."""
    peer = Peer(*[SILENCE] * 5)
    async with met(peer, path) as slurm:
        busy = [asyncio.create_task(slurm.ping(ALICE)) for _ in range(4)]
        await asyncio.sleep(0.2)
        slurm._asking._timeout_s = 0.3  # of the submission; the others are still waiting then
        error = await refused(slurm, lambda: slurm.submit(ALICE, SPEC))
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
    assert error.code == "scheduler-unreachable", error
    assert not any(line.startswith("POST") for line, _, _ in peer.requests), peer.requests


async def test_a_hung_up_submission_is_unknown_if_the_token_is_good(path: Path) -> None:
    """22.05: 5005 says both: bad token, and slurmctld died with our request in its hands. A ping tells which."""
    Peer.recorded = Recorded("v0.0.38")
    peer = Peer("token-expired-submit", "ping")
    async with met(peer, path) as slurm:
        assert (await refused(slurm, lambda: slurm.submit(ALICE, SPEC))).code == "submit-unknown"


async def test_a_refused_token_is_not_unknown(path: Path, version: str) -> None:
    """Newer versions say so by 511, and need not be asked again."""
    peer = Peer("token-expired-submit", "token-expired-ping", "token-expired-ping")
    async with met(peer, path) as slurm:
        assert (await refused(slurm, lambda: slurm.submit(ALICE, SPEC))).code == "slurm-token-refused"
    assert len(peer.requests) == (3 if version == "v0.0.38" else 1)


async def test_a_read_is_repeated_once_when_the_token_seems_refused(path: Path) -> None:
    peer = Peer("token-expired-job", "job-done", "token-expired-job", "token-expired-job")
    async with met(peer, path) as slurm:
        assert (await slurm.job(ALICE, 1)).state == "COMPLETED"
        assert (await refused(slurm, lambda: slurm.job(ALICE, 1))).code == "slurm-token-refused"
    assert len(peer.requests) == 4


async def test_the_first_of_two_answers_counts(path: Path) -> None:
    """slurmrestd 26.05 sends two for a refusal. Dropping both, or reading the second next time, loses Slurm's words."""
    peer = Peer("TWICE submit-no-such-partition", "TWICE job-unknown", "ping")
    async with met(peer, path) as slurm:
        error = await refused(slurm, lambda: slurm.submit(ALICE, SPEC))
        assert error.code == "job-rejected" and "Invalid partition name" in error.message, error
        assert (await refused(slurm, lambda: slurm.job(ALICE, 999999))).code == "no-such-job"
        await slurm.ping(ALICE)


async def test_an_answer_too_many_on_a_kept_connection_is_not_taken_for_the_next_one(path: Path) -> None:
    peer = Peer("TWICE ping", "job-done")
    async with met(peer, path) as slurm:
        await slurm.ping(ALICE)
        assert (await slurm.job(ALICE, 1)).state == "COMPLETED"
    assert len(peer.requests) == 2


async def test_a_kept_connection_that_slurmrestd_has_closed_costs_no_answer(path: Path) -> None:
    """It was restarted: a GET on the old connection is sent again on a new one, and a submission goes out at all."""
    peer = Peer("ping", "ping", HANG_UP, "job-done", "submit-ok")
    async with met(peer, path) as slurm:
        await slurm.ping(ALICE)
        await slurm.ping(ALICE)
        assert (await slurm.job(ALICE, 1)).state == "COMPLETED"
        assert (await slurm.submit(ALICE, SPEC)).job_id == 1


async def test_what_slurmrestd_could_not_read_is_sent_again(path: Path) -> None:
    """A submission too: it has not got so far as to be one."""
    peer = Peer(NOT_READ, "submit-ok")
    async with met(peer, path) as slurm:
        assert (await slurm.submit(ALICE, SPEC)).job_id == 1
    assert peer.requests[0] == peer.requests[1]


async def test_but_not_for_ever(path: Path) -> None:
    peer = Peer(*[NOT_READ] * 9)
    async with met(peer, path) as slurm:
        error = await refused(slurm, lambda: slurm.job(ALICE, 1))
    assert (error.code, len(peer.requests)) == ("slurm-answer", 1 + link.UNREAD), error


async def test_a_new_connection_that_is_closed_is_not_tried_for_ever(path: Path) -> None:
    peer = Peer(*[HANG_UP] * 3)
    async with met(peer, path) as slurm:
        assert (await refused(slurm, lambda: slurm.job(ALICE, 1))).code == "scheduler-unreachable"
    assert len(peer.requests) == 1


async def test_another_users_job_is_not_even_asked_to_end(path: Path, version: str) -> None:
    """slurmctld of 24.11 and 26.05 stands still for ever after such a DELETE: any user could stop the cluster."""
    eve = Identity("eve", "t")
    for act in (lambda slurm: slurm.cancel(eve, 6), lambda slurm: slurm.signal(eve, 6, "USR1")):
        peer = Peer("job-running" if version != "v0.0.38" else "cancel-of-another")
        async with met(peer, path) as slurm:
            assert (await refused(slurm, lambda act=act, slurm=slurm: act(slurm))).code == "no-such-job"
        deletes = [line for line, _, _ in peer.requests if line.startswith("DELETE")]
        assert bool(deletes) == (version == "v0.0.38"), peer.requests


# -- which version -------------------------------------------------------------------------------------------------


class Served(Peer):
    """Knows its own version and older ones, and answers in full."""

    versions: tuple[str, ...] = ()

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        path = head[0].split()[1]
        self.requests.append((head[0], {}, b""))
        served = path.split("/")[2] in (*self.versions, "v3")
        paths = {f"/slurm/{version}/job/submit": {} for version in self.versions}
        body = json.dumps({"paths": paths}) if path == "/openapi/v3" else '{"pings": [{"ping": "UP"}], "licenses": []}'
        kind, status = ("application/json", 200) if served else ("text/plain", 404)
        body = body.replace("/", "\\/") if self.versions == ("v0.0.38",) else body  # as json-c writes it
        answer = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        writer.write(answer.encode())
        await writer.drain()
        return True


@pytest.mark.parametrize(
    ("versions", "chosen"),
    [
        (("v0.0.36", "v0.0.38"), "v0.0.38"),
        (("v0.0.38",), "v0.0.38"),
        (("v0.0.40", "v0.0.42", "v0.0.41"), "v0.0.42"),
        (("v0.0.42", "v0.0.45", "v0.0.99"), "v0.0.45"),
    ],
)
async def test_the_newest_version_both_know_is_used_and_asked_for_once(
    path: Path, versions: tuple[str, ...], chosen: str
) -> None:
    peer = Served()
    peer.versions = versions
    async with met(peer, path, known=False) as slurm:
        await asyncio.gather(*(slurm.ping(ALICE) for _ in range(4)))
        assert await slurm.version(ALICE) == chosen
    lines = [line.split()[1] for line, _, _ in peer.requests]
    assert lines.count("/openapi/v3") == 1 and all(f"/{chosen}/" in line for line in lines[1:]), lines


async def test_a_slurmrestd_of_none_of_our_versions_is_an_operators_business(path: Path) -> None:
    peer = Served()
    peer.versions = ("v0.0.39", "v0.0.99")
    async with met(peer, path, known=False) as slurm:
        error = await refused(slurm, lambda: slurm.ping(ALICE))
    assert error.code == "slurm-version" and "v0.0.39, v0.0.99" in error.message, error
    assert "v0.0.38" in error.message and "openapi/slurmctld" in (error.hint or "")


async def test_after_an_upgrade_the_version_is_asked_for_again(path: Path) -> None:
    """slurmrestd was replaced while we ran: nothing may be restarted for that, and no request lost."""
    peer = Served()
    peer.versions = ("v0.0.38",)
    async with met(peer, path, known=False) as slurm:
        await slurm.ping(ALICE)
        peer.versions = ("v0.0.41", "v0.0.42")
        await slurm.ping(ALICE)
        assert await slurm.version(ALICE) == "v0.0.42"


@pytest.mark.parametrize("fault", [HALF, SILENCE])
async def test_a_read_that_fails_is_worth_another_try(path: Path, fault: str) -> None:
    peer = Peer(*[fault] * 3)
    begin = time.monotonic()
    async with met(peer, path, timeout_s=0.3) as slurm:
        error = await refused(slurm, lambda: slurm.jobs(ALICE))
    assert isinstance(error, UnavailableError) and error.code == "scheduler-unreachable", error
    assert time.monotonic() - begin < 2


async def test_a_silent_slurmctld_is_known_soon_and_to_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would have caught: 15 s for each read of each person while slurmctld hangs, and a submission lost in it."""
    monkeypatch.setattr(silence, "PING_S", 0.2)
    monkeypatch.setattr(silence, "AGAIN_S", 0.2)
    monkeypatch.setattr(silence, "RESTART_S", 0.0)
    peer = Peer(SILENCE, SILENCE)
    begin = time.monotonic()
    async with met(peer, path, timeout_s=20, ping_after_s=0.2) as slurm:
        assert (await refused(slurm, lambda: slurm.job(ALICE, 1))).code == "scheduler-unreachable"
        for _ in range(20):
            assert (await refused(slurm, lambda: slurm.jobs(BOB))).code == "scheduler-unreachable"
            error = await refused(slurm, lambda: slurm.submit(BOB, SPEC))
            assert error.code == "scheduler-unreachable", "nothing was sent, and nothing is uncertain"
        assert len(peer.requests) == 2, "one read and one question, and no more while that has no answer"
        assert time.monotonic() - begin < 3 and slurm.silent_at is not None


async def test_who_comes_while_slurmctld_is_silent_finds_out_that_it_is_back(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "PING_S", 0.2)
    peer = Peer(SILENCE)
    async with met(peer, path, timeout_s=0.4) as slurm:
        assert (await refused(slurm, lambda: slurm.ping(ALICE))).code == "scheduler-unreachable"
        assert slurm.silent_at is not None
        peer.script = ["ping", "ping"]
        await slurm.ping(BOB)
        assert slurm.silent_at is None


async def test_a_slurmctld_that_is_busy_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would have caught: a long list refused after a few seconds though slurmctld works on it."""
    monkeypatch.setattr(silence, "PING_S", 0.3)
    peer = Peer(SLOW, "ping")
    async with met(peer, path, timeout_s=10, ping_after_s=0.2) as slurm:
        await slurm.ping(ALICE)
    assert len(peer.requests) == 2


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
