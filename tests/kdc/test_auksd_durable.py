"""Acknowledged means on disk; stopping is quick and loses nothing; a bad start says why."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
import time

import pytest
from auksd_box import Auksd, uid_of
from auksd_kills import survive_kills

from hipercow_slurm.errors import Error

KILLS = 20


async def test_20_kills_lose_no_acknowledged_credential(folder, tgt):
    """The original lost one in 11 of 40: it unlinks the old file before it writes the new one."""
    with Auksd(folder / "killed", folder, renew="enabled = false") as auksd:
        await survive_kills(auksd, tgt, KILLS, auksd.kill, auksd.start)
        assert auksd.stop() == 0, auksd.log


async def test_kills_of_a_daemon_on_postgresql_and_of_postgresql_lose_none(folder, tgt, postgres_server):
    url = postgres_server.database()
    with Auksd(folder / "killed-pg", folder, renew="enabled = false", store=url) as auksd:
        await survive_kills(auksd, tgt, 5, auksd.kill, auksd.start)
        await survive_kills(auksd, tgt, 5, postgres_server.kill, postgres_server.start)
        assert auksd.stop() == 0, auksd.log


async def test_a_removal_survives_kill_9_too(folder, tgt):
    auksd = Auksd(folder / "removed", folder).start()
    await auksd.client().add(tgt["games"])
    assert await auksd.client().remove(uid_of("games"), auth=tgt["games"])
    auksd.kill()
    auksd.start()
    assert await auksd.client().get(uid_of("games"), auth=tgt["games"]) is None
    auksd.stop()


async def test_stop_does_not_wait_for_idle_peers(folder, tgt):
    """The original needs SIGKILL when anybody is connected."""
    auksd = Auksd(folder / "stopped", folder).start()
    await auksd.client().add(tgt["games"])
    silent = [socket.create_connection(("127.0.0.1", auksd.port)) for _ in range(20)]
    began = time.monotonic()
    assert auksd.stop() == 0, auksd.log
    assert time.monotonic() - began < 3
    assert auksd.lines("auksd.stopped")
    for sock in silent:
        sock.close()
    auksd.start()
    assert (await auksd.client().get(uid_of("games"), auth=tgt["games"])).der == tgt["games"].der
    auksd.stop()


async def test_requests_in_flight_are_answered_before_the_stop(folder, tgt):
    auksd = Auksd(folder / "drained", folder).start()
    client, answers = auksd.client(), []

    async def adds():
        with contextlib.suppress(Error):
            while True:
                await client.add(tgt["games"])
                answers.append("stored")

    adding = asyncio.create_task(adds())
    await asyncio.sleep(0.2)
    auksd.process.send_signal(signal.SIGTERM)
    await adding
    assert auksd.process.wait(5) == 0
    assert len(auksd.lines("auksd.request", verb="add")) - len(answers) in (0, 1), "none was answered twice"
    assert answers
    assert "Traceback" not in auksd.log, auksd.log


def run(auksd: Auksd, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "hipercow_slurm", "auksd", "--config", str(auksd.config), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=20)


async def test_wrong_key_serves_nothing_and_loses_nothing(folder, tgt):
    auksd = Auksd(folder / "key", folder).start()
    await auksd.client().add(tgt["games"])
    auksd.stop()
    right = auksd.key_file.read_text()
    auksd.key_file.write_text("ab" * 32)
    done = run(auksd)
    assert done.returncode == 78, done.stderr
    assert "which is not in the key file" in done.stderr
    auksd.key_file.write_text(right)
    auksd.start()
    assert (await auksd.client().get(uid_of("games"), auth=tgt["games"])).der == tgt["games"].der
    second = run(auksd)
    assert second.returncode == 78, "a second daemon on the same store"
    assert "in use" in second.stderr
    auksd.stop()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('listen = "127', 'listn = "127'), "listn"),
        (("[renew]", "[renew]\nthreads = 0"), "renew.threads"),
        (('listen = "127.0.0.1', 'listen = "localhost'), "IPv4"),
        (("auksd.acl", "missing.acl"), "missing.acl"),
        (("auksd.keytab", "missing.keytab"), "missing.keytab"),
        (('auksd.key"', 'missing.key"'), "missing.key"),
        (("[auksd]", "[auksd"), "not valid TOML"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_configuration_is_said_at_start(folder, tgt, tmp_path, change, said):
    auksd = Auksd(tmp_path / "bad", folder)
    good = auksd.config.read_text()
    assert run(auksd, "--check-config").returncode == 0
    auksd.config.write_text(good.replace(*change))
    for options in ((), ("--check-config",)):
        done = run(auksd, *options)
        assert done.returncode == 78, (options, done.stderr)
        assert said in done.stderr, (options, done.stderr)


def test_an_address_in_use_is_said(folder, tgt, tmp_path):
    auksd = Auksd(tmp_path / "taken", folder)
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", auksd.port))
        sock.listen()
        done = run(auksd)
    assert done.returncode == 75, done.stderr
    assert "cannot listen" in done.stderr


def test_acl_warnings_are_shown(folder, tgt, tmp_path):
    auksd = Auksd(tmp_path / "warned", folder)
    with (auksd.folder / "auksd.acl").open("a") as acl:
        acl.write("rule { principal = games ; host = * ; role = user ; }\n")
    done = run(auksd, "--check-config")
    assert done.returncode == 0
    assert "auksd.acl:5: principal 'games' is not anchored" in done.stderr
