"""``auksd --rotate-key`` with the daemon running and under load, stopped, and with several daemons."""

import asyncio
import contextlib
import subprocess
import sys

import pytest
from auksd_box import USERS, Auksd, uid_of

from hipercow_slurm.store.envelope import read_key_file


async def rotate(auksd: Auksd) -> str:
    """Run the command; what it printed."""
    command = [sys.executable, "-m", "hipercow_slurm", "auksd", "--config", str(auksd.config), "--rotate-key"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.asynccontextmanager
async def load(clients, tgt):
    """Adds and GETs all the time, each of which must succeed; yields the number so far."""
    count, ending = [0], asyncio.Event()

    async def one(client, user):
        while not ending.is_set():
            await client.add(tgt[user])
            found = await client.get(uid_of(user), auth=tgt["node"])
            assert found is not None, f"{user} cannot be had after {count} rounds"
            assert found.der == tgt[user].der
            count[0] += 1

    tasks = [asyncio.create_task(one(client, user)) for client in clients for user in USERS]
    try:
        yield count
    finally:
        ending.set()
        await asyncio.gather(*tasks)


async def check_rotated(auksd, old, tgt):
    new = read_key_file(auksd.key_file)
    assert list(new) == [new.active], "the old key is gone from the file"
    assert new.active != old.active
    assert auksd.key_file.stat().st_mode & 0o777 == 0o600
    for user in USERS:
        assert (await auksd.client().get(uid_of(user), auth=tgt["node"])).der == tgt[user].der


async def test_the_key_is_rotated_under_load_and_again_while_stopped(folder, tgt, tmp_path):
    auksd = Auksd(tmp_path / "d", folder, renew="enabled = false").start()
    for user in USERS:
        await auksd.client().add(tgt[user])
    for _ in range(2):
        old = read_key_file(auksd.key_file)
        async with load([auksd.client(), auksd.client()], tgt) as count:
            said = await rotate(auksd)
        assert old.active in said
        assert count[0] > 10, "there was a load"
        assert auksd.lines("store.key_retired", key=old.active), auksd.log[-3000:]
        await check_rotated(auksd, old, tgt)
    auksd.kill()
    old = read_key_file(auksd.key_file)
    await rotate(auksd)
    auksd.start()
    await check_rotated(auksd, old, tgt)
    assert auksd.stop() == 0
    assert "Traceback" not in auksd.log, auksd.log
    assert old.active not in (auksd.folder / "auksd.key").read_text()


async def test_three_daemons_on_postgresql_rotate_together_under_load(folder, tgt, tmp_path, postgres_url):
    with contextlib.ExitStack() as stack:
        three = [Auksd(tmp_path / f"d{n}", folder, store=postgres_url, key_file=tmp_path / "key") for n in range(3)]
        for one in three:
            stack.enter_context(one)
        for user in USERS:
            await three[0].client().add(tgt[user])
        old = read_key_file(tmp_path / "key")
        async with load([one.client() for one in three], tgt) as count:
            await rotate(three[0])
        assert count[0] > 10
        for one in three:
            await check_rotated(one, old, tgt)
            assert one.stop() == 0
            assert "Traceback" not in one.log, one.log
        three[1].start()
        await check_rotated(three[1], old, tgt)


async def test_a_key_file_that_does_not_fit_is_said_and_changes_nothing(folder, tgt, tmp_path):
    """While running: the daemon goes on with the keys it has."""
    auksd = Auksd(tmp_path / "d", folder).start()
    await auksd.client().add(tgt["games"])
    right = auksd.key_file.read_text()
    for wrong in ("ab" * 32, "nonsense", ""):
        before = len(auksd.lines("store.key_refused"))
        auksd.key_file.write_text(wrong)
        for _ in range(60):
            if len(auksd.lines("store.key_refused")) > before:
                break
            await asyncio.sleep(0.05)
        else:
            pytest.fail(f"{wrong!r} was not said to be wrong:\n{auksd.log[-2000:]}")
        assert (await auksd.client().get(uid_of("games"), auth=tgt["node"])).der == tgt["games"].der
        await auksd.client().add(tgt["news"])
    auksd.key_file.write_text(right)
    auksd.kill()
    auksd.start()
    for user in ("games", "news"):
        assert (await auksd.client().get(uid_of(user), auth=tgt["node"])).der == tgt[user].der
    assert auksd.stop() == 0
