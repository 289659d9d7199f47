"""A dump costs no memory to speak of, though the protocol makes one message of it: it is made and sealed in pieces."""

import asyncio

from auksd_box import Auksd, login, make_realm

from hipercow_slurm.krb5 import creds
from hipercow_slurm.store.envelope import read_key_file
from hipercow_slurm.store.sqlite import SqliteStore
from hipercow_slurm.testing.bench import process
from hipercow_slurm.testing.store_contract import always

COUNT = 12_000


async def test_a_dump_of_many_takes_hardly_more_memory_than_one_of_few(tmp_path):
    with make_realm(tmp_path):
        cred = login(tmp_path, "games")
        node = creds.keytab_tgt("host/node.test", str(tmp_path / "node.keytab"))
        auksd = Auksd(tmp_path / "d", tmp_path, renew="enabled = false")
        store = SqliteStore(tmp_path / "d" / "creds.db", read_key_file(auksd.key_file))
        for first in range(0, COUNT, 2000):
            await asyncio.gather(*(store.put(10_000 + uid, cred, always) for uid in range(first, first + 2000)))
        await store.close()
        with auksd:
            client, pid = auksd.client(read_s=30.0), auksd.process.pid
            message_mib = COUNT * (173 + len(cred.der) + 512) / process.MIB
            for _ in range(2):
                process.forget_peak(pid)
                before = process.rss_mib(pid)
                assert len(await client.dump(auth=node)) == COUNT
                added = process.peak_mib(pid) - before
                assert added < message_mib / 2, f"{added:.0f} MiB for a message of {message_mib:.0f} MiB"
