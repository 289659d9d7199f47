"""Connections to PostgreSQL: what they promise whatever the site has set."""

from hipercow_slurm.store.pg_link import Link


async def test_a_commit_is_synced_where_the_site_has_switched_that_off(postgres_server):
    """Would have caught: the pool reset a connection after its first use, and acknowledged tickets with it went back to
    what the site had set; a power cut would have lost them."""
    url = postgres_server.database()
    name = url.partition("///")[2].partition("?")[0]
    postgres_server.sql(f"ALTER DATABASE {name} SET synchronous_commit = off")

    async def nothing(connection, name):
        assert await connection.fetchval("SHOW synchronous_commit") == "on"

    link = Link(url, 8.0, prepare=nothing)
    await link.open()
    try:
        shown = [await link.run(lambda connection: connection.fetchval("SHOW synchronous_commit")) for _ in range(3)]
    finally:
        await link.close()
    assert shown == ["on"] * 3
    assert postgres_server.sql("SHOW synchronous_commit", url) == "off", "the database was not what this test wants"


async def test_a_site_that_waits_for_its_replica_keeps_that(postgres_server):
    url = postgres_server.database()
    name = url.partition("///")[2].partition("?")[0]
    postgres_server.sql(f"ALTER DATABASE {name} SET synchronous_commit = remote_apply")

    async def nothing(connection, name):
        pass

    link = Link(url, 8.0, prepare=nothing)
    await link.open()
    try:
        shown = await link.run(lambda connection: connection.fetchval("SHOW synchronous_commit"))
    finally:
        await link.close()
    assert shown == "remote_apply"
