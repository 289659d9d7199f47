"""kill -9 in 200 random moments of adds and replaces, on each store; of PostgreSQL; of one process of several."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from auksd_box import USERS, Auksd, login, make_realm
from auksd_kills import survive_kills

from hipercow_slurm.krb5 import creds
from hipercow_slurm.testing.postgres import Postgres
from hipercow_slurm.values import KrbCred

KILLS = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def tgt(folder: Path) -> Iterator[dict[str, KrbCred]]:
    with make_realm(folder):
        found = {user: login(folder, user) for user in USERS}
        found["node"] = creds.keytab_tgt("host/node.test", str(folder / "node.keytab"))
        yield found


async def test_200_kills_on_sqlite(folder: Path, tgt: dict[str, KrbCred]) -> None:
    with Auksd(folder / "sqlite", folder, renew="enabled = false") as auksd:
        total = await survive_kills(auksd, tgt, KILLS, auksd.kill, auksd.start)
        print(f"{KILLS} kills amid {total} acknowledged adds on SQLite: none lost, none half-written")


async def test_200_kills_on_postgresql(folder: Path, tgt: dict[str, KrbCred], postgres_url: str) -> None:
    with Auksd(folder / "postgresql", folder, renew="enabled = false", store=postgres_url) as auksd:
        total = await survive_kills(auksd, tgt, KILLS, auksd.kill, auksd.start)
        print(f"{KILLS} kills amid {total} acknowledged adds on PostgreSQL: none lost, none half-written")


async def test_50_kills_of_one_of_several_processes(folder: Path, tgt: dict[str, KrbCred]) -> None:
    """The one that has the store in every third case, else one of those that have the connections."""
    with Auksd(folder / "processes", folder, extra="processes = 2", renew="enabled = false") as auksd:

        def kill() -> None:
            victim = random.choice([*auksd.fronts(), None])
            if victim is None:
                auksd.kill()
            else:
                os.kill(victim, signal.SIGKILL)

        def start() -> None:
            assert auksd.process is not None
            if auksd.process.poll() is not None:
                auksd.start()
            auksd.fronts()

        total = await survive_kills(auksd, tgt, KILLS // 4, kill, start)
        print(f"{KILLS // 4} kills of processes amid {total} acknowledged adds: none lost, none half-written")


async def test_100_kills_of_postgresql_itself(folder: Path, tgt: dict[str, KrbCred], postgres_server: Postgres) -> None:
    url = postgres_server.database()
    with Auksd(folder / "server", folder, renew="enabled = false", store=url) as auksd:
        total = await survive_kills(auksd, tgt, KILLS // 2, postgres_server.kill, postgres_server.start)
        print(f"{KILLS // 2} kills of PostgreSQL amid {total} acknowledged adds: none lost, none half-written")
