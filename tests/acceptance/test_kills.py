"""kill -9 in 200 random moments of adds and replaces, on each store; and of PostgreSQL itself."""

from __future__ import annotations

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


async def test_100_kills_of_postgresql_itself(folder: Path, tgt: dict[str, KrbCred], postgres_server: Postgres) -> None:
    url = postgres_server.database()
    with Auksd(folder / "server", folder, renew="enabled = false", store=url) as auksd:
        total = await survive_kills(auksd, tgt, KILLS // 2, postgres_server.kill, postgres_server.start)
        print(f"{KILLS // 2} kills of PostgreSQL amid {total} acknowledged adds: none lost, none half-written")
