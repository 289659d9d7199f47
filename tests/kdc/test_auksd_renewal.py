"""Tickets of seconds, kept alive by the cache for longer than they live; and what ends them."""

import asyncio
import time

import pytest
from auksd_box import USERS, Auksd, login, uid_of

from hipercow_slurm.client.auks import AuksClient
from hipercow_slurm.krb5 import ccache, creds
from hipercow_slurm.krb5.auth import service_ticket

GAMES, NEWS, BACKUP = map(uid_of, USERS)
TIMING = "margin_s = 1.0\nretry_max_s = 1.0"


@pytest.fixture(scope="module")
def node(folder, realm):
    return creds.keytab_tgt("host/node.test", str(folder / "node.keytab"))


@pytest.fixture(scope="module")
def auksd(folder, realm):
    with Auksd(folder / "daemon", folder, renew=TIMING) as daemon:
        yield daemon
        assert "Traceback" not in daemon.log, daemon.log


@pytest.fixture
async def client(auksd, node) -> AuksClient:
    client = auksd.client()
    for uid in (GAMES, NEWS, BACKUP):
        await client.remove(uid, auth=node)
    return client


async def endtimes(client, uid, node, seconds):
    """The endtimes seen while looking ten times a second; the credential must be valid each time."""
    seen, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        cred = await client.get(uid, auth=node)
        assert cred is not None, f"gone after endtimes {seen}"
        assert cred.times.endtime > time.time(), f"expired at {seen}"
        if not seen or seen[-1] != cred.times.endtime:
            seen.append(cred.times.endtime)
        await asyncio.sleep(0.1)
    return seen


async def test_a_short_ticket_is_kept_alive(auksd, client, node, folder):
    await client.add(login(folder, "games", lifetime_s=4, renew_s=60))
    seen = await endtimes(client, GAMES, node, 5.5)
    assert len(seen) >= 3, f"endtimes {seen}\n{auksd.log[-3000:]}"
    assert seen == sorted(seen)
    cred = await client.get(GAMES, auth=node)
    assert service_ticket(cred, "host/node.test").endtime > time.time(), "the KDC likes what the cache holds"


async def test_an_outage_of_the_kdc_is_survived(auksd, client, node, folder, realm):
    """Stopped until shortly before the ticket expires; every renewal that came due fails and is tried again."""
    cred = login(folder, "games", lifetime_s=8, renew_s=120)
    await client.add(cred)
    realm.stop()
    try:
        await asyncio.sleep(cred.times.endtime - 2.5 - time.time())
        assert auksd.lines("renew.failed", code="kdc-unreachable"), auksd.log[-2000:]
    finally:
        realm._start_kdc()
    seen = await endtimes(client, GAMES, node, 3)
    assert len(seen) >= 2, f"endtimes {seen}\n{auksd.log[-3000:]}"


async def test_a_frozen_kdc_is_survived(auksd, client, node, folder, realm):
    for user in USERS:
        await client.add(login(folder, user, lifetime_s=8, renew_s=120))
    await asyncio.sleep(2)
    realm.pause()
    try:
        await asyncio.sleep(3.5)
        began = time.monotonic()
        assert await client.get(GAMES, auth=node) is not None
        assert time.monotonic() - began < 3, "requests do not wait for the KDC"
    finally:
        realm.resume()
    await asyncio.gather(*(endtimes(client, uid, node, 3.5) for uid in (GAMES, NEWS, BACKUP)))


async def test_what_cannot_be_renewed_goes_when_it_has_expired(auksd, client, node, folder, realm):
    realm.kinit("news", "pass word 1", str(folder / "cc_fixed"), "-l", "2s")
    fixed = ccache.read_tgt(str(folder / "cc_fixed"))
    assert fixed.times.renew_till == 0
    await client.add(fixed)
    await client.add(login(folder, "games", lifetime_s=2, renew_s=3))
    assert len(await client.dump(auth=node)) == 2
    await asyncio.sleep(4.5)
    assert await client.dump(auth=node) == (), auksd.log[-2000:]
    for uid in (GAMES, NEWS):
        assert auksd.lines("renew.dropped", uid=uid), auksd.log[-2000:]


async def test_a_fresh_login_takes_over(auksd, client, node, folder):
    await client.add(login(folder, "games", lifetime_s=4, renew_s=60))
    fresh = login(folder, "games", lifetime_s=3600, renew_s=7200)
    await client.add(fresh)
    before = len(auksd.lines("renew.done", uid=GAMES))
    await asyncio.sleep(3)
    assert len(auksd.lines("renew.done", uid=GAMES)) == before, "the old due time is forgotten"
    assert (await client.get(GAMES, auth=node)).der == fresh.der


async def test_a_removed_credential_stays_removed(auksd, client, node, folder):
    await client.add(login(folder, "games", lifetime_s=3, renew_s=60))
    await client.remove(GAMES, auth=node)
    await asyncio.sleep(2.5)
    assert await client.get(GAMES, auth=node) is None


async def test_renewal_goes_on_after_a_restart(auksd, client, node, folder):
    await client.add(login(folder, "games", lifetime_s=4, renew_s=60))
    auksd.kill()
    auksd.start()
    seen = await endtimes(auksd.client(), GAMES, node, 3)
    assert len(seen) >= 2, f"endtimes {seen}\n{auksd.log[-3000:]}"
