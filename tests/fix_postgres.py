"""A real PostgreSQL server for the tests that need one, and an empty database for each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hipercow_slurm.testing.postgres import Postgres, short_folder


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """One server for the whole run. Whoever stops it starts it again."""
    with short_folder() as folder, Postgres(folder) as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: Postgres) -> str:
    """The URL of an empty database."""
    assert postgres_server.running, "a test before this one left PostgreSQL stopped"
    return postgres_server.database()
