"""The same contract for both databases: SQLite in a file, PostgreSQL a real server."""

import pytest

from hipercow_slurm.store.envelope import Keys
from hipercow_slurm.store.postgres import PostgresStore
from hipercow_slurm.store.sqlite import SqliteStore
from hipercow_slurm.testing.store_contract import StoreContract


class TestSqlite(StoreContract):
    @pytest.fixture
    def open_store(self, tmp_path):
        async def open_store(*keys):
            return SqliteStore(tmp_path / "creds.db", Keys(*keys))

        return open_store

    @pytest.fixture
    def raw_bytes(self, tmp_path):
        return lambda: b"".join(path.read_bytes() for path in tmp_path.glob("creds.db*"))


class TestPostgres(StoreContract):
    @pytest.fixture
    def open_store(self, postgres_url):
        async def open_store(*keys):
            return await PostgresStore.open(postgres_url, Keys(*keys))

        return open_store

    @pytest.fixture
    def raw_bytes(self, postgres_server):
        def read():
            postgres_server.sql("CHECKPOINT")
            # WAL and tables of the whole cluster; grep is not enough, the test looks for several things.
            files = [path for part in ("base", "pg_wal") for path in (postgres_server.data / part).rglob("*")]
            return b"".join(path.read_bytes() for path in files if path.is_file())

        return read
