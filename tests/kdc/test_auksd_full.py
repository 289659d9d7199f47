"""A disk that is really full (a small tmpfs): what is refused is nowhere, what was acknowledged stays, and it goes on.

The original answers ERROR but serves the credential from memory until its next restart (and leaves a file of 0 bytes).
"""

import asyncio
import contextlib
import os
import subprocess

import pytest
from auksd_box import USERS, Auksd, uid_of
from auksd_kills import rising

from hipercow_slurm.errors import Error, UnavailableError
from hipercow_slurm.store.envelope import Keys
from hipercow_slurm.store.postgres import PostgresStore
from hipercow_slurm.testing.store_contract import always, cred


@contextlib.contextmanager
def small_disk(path, megabytes):
    path.mkdir(mode=0o755, parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def fill(path):
    """Take every free byte of the disk."""
    with (path / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert os.statvfs(path).f_bavail == 0


async def test_a_full_disk_refuses_forgets_nothing_and_recovers(folder, tgt, tmp_path):
    with small_disk(tmp_path / "disk", 2) as disk:
        store = str(disk / "creds.db")
        auksd = Auksd(tmp_path / "d", folder, store=store, renew="enabled = false").start()
        client, node = auksd.client(), tgt["node"]
        await client.add(tgt["games"])
        fill(disk)
        acknowledged, refused = {"games": 0}, 0

        async def held():
            """What the daemon serves: user to the number that ``rising`` gave it."""
            found = {user: await client.get(uid_of(user), auth=node) for user in USERS}
            return {
                user: one.times.renew_till - tgt[user].times.renew_till
                for user, one in found.items()
                if one is not None
            }

        for number in range(1, 3000):
            user = USERS[number % len(USERS)]
            try:
                await client.add(rising(tgt[user], number), auth=node)
                acknowledged[user] = number
            except Error:
                refused += 1
                assert await held() == acknowledged, "memory and disk disagree"
                if refused == 5:
                    break
        assert refused == 5, "the disk was never full"
        assert auksd.lines("auksd.request", verb="add", code="store-full"), auksd.log[-2000:]
        await client.ping(auth=node)
        with contextlib.suppress(Error):
            await client.remove(uid_of("news"), auth=node)
        (disk / "filler").unlink()
        await client.add(rising(tgt["backup"], 5000), auth=node)
        expected = {**(await held())}
        assert expected["backup"] == 5000
        assert expected["games"] == acknowledged["games"]
        fill(disk)
        auksd.kill()
        (disk / "filler").unlink()
        auksd.start()
        assert await held() == expected, "after kill -9 on a full disk"
        await client.add(rising(tgt["news"], 6000), auth=node)
        assert (await held())["news"] == 6000
        assert auksd.stop() == 0
        assert "Traceback" not in auksd.log, auksd.log


async def test_starting_on_a_full_disk_serves_what_is_there_or_says_why_not(folder, tgt, tmp_path):
    with small_disk(tmp_path / "disk", 2) as disk:
        auksd = Auksd(tmp_path / "d", folder, store=str(disk / "creds.db"), renew="enabled = false").start()
        await auksd.client().add(tgt["games"])
        assert auksd.stop() == 0
        fill(disk)
        with contextlib.suppress(AssertionError):
            auksd.start()
        if auksd.process.poll() is not None:
            assert auksd.process.returncode == 78, auksd.log
            assert "cannot use the store" in auksd.log
        (disk / "filler").unlink()
        if auksd.process.poll() is not None:
            auksd.start()
        assert (await auksd.client().get(uid_of("games"), auth=tgt["node"])).der == tgt["games"].der
        assert auksd.stop() == 0


async def test_a_full_postgresql_refuses_forgets_nothing_and_recovers(postgres_server):
    """A database in a tablespace on a small disk: the server goes on, its tables cannot grow."""
    with small_disk(postgres_server.folder / "small", 16) as disk:
        place = disk / "space"
        place.mkdir()
        account = postgres_server.data.stat()
        os.chown(place, account.st_uid, account.st_gid)
        postgres_server.sql(f"CREATE TABLESPACE small LOCATION '{place}'")
        url = postgres_server.database(tablespace="small")
        store = await PostgresStore.open(url, Keys(b"k" * 32))
        try:
            await store.put(0, cred(), always)
            await asyncio.to_thread(fill, disk)
            acknowledged = {0}
            with pytest.raises(UnavailableError) as caught:
                for uid in range(1, 2000):
                    await store.put(uid, cred(data=os.urandom(1800)), always)
                    acknowledged.add(uid)
            assert caught.value.code == "store-full", caught.value
            assert {entry.uid for entry in await store.entries()} == acknowledged
            (disk / "filler").unlink()
            assert (await store.put(5000, cred(), always)).stored
            assert {entry.uid for entry in await store.entries()} == acknowledged | {5000}
        finally:
            await store.close()
            postgres_server.sql(f"DROP DATABASE {url.split('/')[3].split('?')[0]} WITH (FORCE)")
            postgres_server.sql("DROP TABLESPACE small")
