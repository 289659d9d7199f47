"""Three cache daemons on one PostgreSQL and a real KDC: who renews what, who sees what, and what a death changes."""

import asyncio
import contextlib
import re
import time
from collections import Counter

import pytest
from auksd_box import PASSWORD, Auksd, login, make_realm, uid_of

from hipercow_slurm.errors import Error
from hipercow_slurm.krb5 import creds

# Accounts of every Debian; enough of them for three daemons to share.
OWNERS = ("games", "news", "backup", "daemon", "bin", "sys", "man", "lp", "mail", "uucp", "proxy", "www-data")
# Due after 0.12 to 0.18 of a life: soon, and with most of it left. On a busy machine a claim may be lost for seconds.
TIMING = "at = 0.15\njitter = 0.03\nmargin_s = 1.0\nretry_max_s = 1.0"
LIFE_S = 20
SOONEST_S = 0.12 * LIFE_S - 1  # between two renewals of a ticket; whole seconds are cut off
PATIENT_S = 60.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def realm(folder):
    with make_realm(folder) as realm:
        for owner in OWNERS[3:]:
            realm.add_user(owner, PASSWORD)
        yield realm


@pytest.fixture(scope="module")
def node(folder, realm):
    return creds.keytab_tgt("host/node.test", str(folder / "node.keytab"))


@pytest.fixture
def three(folder, realm, postgres_url, tmp_path):
    """Three running daemons with the same key file and database."""
    with contextlib.ExitStack() as stack:
        made = [
            Auksd(tmp_path / f"d{n}", folder, renew=TIMING, store=postgres_url, key_file=tmp_path / "key")
            for n in range(3)
        ]
        yield [stack.enter_context(one) for one in made]
        for one in made:
            assert "Traceback" not in one.log, one.log


def renewals_at_kdc(realm) -> Counter[str]:
    """How many TGTs the KDC has renewed, by client."""
    lines = re.findall(r"TGS_REQ .*ISSUE: .*\}, (\S+)@REALM\.TEST for krbtgt/", realm.log)
    return Counter(lines)


def renewals_stored(daemons) -> Counter[str]:
    lines = [line for daemon in daemons for line in daemon.lines("renew.done")]
    return Counter(re.search(r"principal=([^@ ]+)@", line)[1] for line in lines)


async def test_an_add_is_seen_by_the_others_at_once_and_so_is_its_removal(three, folder, node):
    first, second, third = (daemon.client() for daemon in three)
    for number in range(5):
        cred = login(folder, "games", lifetime_s=3600 + 60 * number)
        await first.add(cred)
        for other in (second, third):
            seen = await other.get(uid_of("games"), auth=node)
            assert seen is not None
            assert seen.der == cred.der, "a read after the acknowledgement sees what was acknowledged"
    await third.remove(uid_of("games"), auth=node)
    assert await second.get(uid_of("games"), auth=node) is None


async def until_they_agree(realm, before, three, *, lost: int = 0) -> Counter[str]:
    """Wait until what the KDC has renewed is stored but for ``lost``; the log of a renewal comes after the KDC's."""
    end = time.monotonic() + PATIENT_S
    while True:
        stored = renewals_stored(three)  # first: what is stored then was asked for before
        done = renewals_at_kdc(realm) - before
        assert stored - done == Counter(), f"asked the KDC {done}, stored {stored}"
        if sum((done - stored).values()) <= lost:
            return done
        assert time.monotonic() < end, f"asked the KDC {done}, stored {stored}"
        await asyncio.sleep(0.05)


async def until_all_have(realm, before, count: int) -> None:
    """Wait until the KDC has renewed each ticket so often."""
    end = time.monotonic() + PATIENT_S
    while any((done := renewals_at_kdc(realm) - before)[owner] < count for owner in OWNERS):
        assert time.monotonic() < end, f"{done} in {PATIENT_S} s"
        await asyncio.sleep(0.2)


async def test_each_renewal_is_done_once_and_a_dead_daemons_work_is_taken_over(three, realm, folder, node):
    before = renewals_at_kdc(realm)
    began = time.monotonic()
    for number, owner in enumerate(OWNERS):
        cred = login(folder, owner, lifetime_s=LIFE_S, renew_s=600)
        await three[number % 3].client().add(cred, auth=node)
    await until_all_have(realm, before, 3)
    done = await until_they_agree(realm, before, three)
    elapsed = time.monotonic() - began
    for owner in OWNERS:
        assert done[owner] <= elapsed / SOONEST_S + 1, f"{owner}: {done[owner]} renewals in {elapsed:.1f} s"
    shares = [len(daemon.lines("renew.done")) for daemon in three]
    assert all(shares), f"one did nothing: {shares}"

    three[0].kill()
    died, alive, at_death = time.time(), three[1].client(), max(done.values())
    renewed = asyncio.create_task(until_all_have(realm, before, at_death + 2))
    while not renewed.done():
        for owner in OWNERS:
            cred = await alive.get(uid_of(owner), auth=node)
            assert cred is not None, f"{owner} gone {time.time() - died:.1f} s after the death"
            assert cred.times.endtime > time.time(), f"{owner} expired {time.time() - died:.1f} s after the death"
        await asyncio.sleep(0.3)
    await renewed
    # Only what the dead one was at, in four threads, may have been asked for twice.
    await until_they_agree(realm, before, three, lost=4)


async def test_a_claim_of_one_that_died_in_the_middle_is_taken_over_within_seconds(three, realm, folder, node):
    """Frozen KDC: all that is due is claimed by somebody; two die with their claims; the KDC comes back."""
    life_s = 40
    tickets = {owner: login(folder, owner, lifetime_s=life_s, renew_s=300) for owner in OWNERS}
    for cred in tickets.values():
        await three[0].client().add(cred, auth=node)
    realm.pause()
    try:
        latest = max(cred.times.starttime for cred in tickets.values()) + 0.18 * life_s
        await asyncio.sleep(latest + 1.5 - time.time())
        for one in three[:2]:
            one.kill()
    finally:
        realm.resume()
    killed = time.time()
    old = {owner: cred.times.endtime for owner, cred in tickets.items()}
    while old:
        # 4 s until a claim runs out and 1 s until that is noticed, on a machine that has nothing else to do.
        assert time.time() < killed + 25, f"not renewed {time.time() - killed:.1f} s after the death: {old}"
        for owner in list(old):
            cred = await three[2].client().get(uid_of(owner), auth=node)
            assert cred is not None, owner
            if cred.times.endtime > old[owner]:
                del old[owner]
        await asyncio.sleep(0.2)


async def test_postgresql_down_is_an_error_and_all_goes_on_when_it_is_back(three, folder, node, postgres_server):
    client = three[0].client(read_s=10.0)
    cred = login(folder, "games", lifetime_s=3600)
    await client.add(cred)
    postgres_server.stop()
    try:
        began = time.monotonic()
        with pytest.raises(Error):
            await client.add(login(folder, "games", lifetime_s=7200))
        assert await client.get(uid_of("games"), auth=node) is None  # the protocol has one ERROR for everything
        assert three[0].lines("auksd.request", verb="get", code="store-unreachable"), three[0].log[-2000:]
        assert time.monotonic() - began < 15, "the refusal has a deadline"
        assert three[0].lines("auksd.request", verb="add", code="store-unreachable"), three[0].log[-2000:]
        await client.ping(auth=node)
    finally:
        postgres_server.start()
    assert (await client.get(uid_of("games"), auth=node)).der == cred.der, "what was refused is not there"
    later = login(folder, "games", lifetime_s=7200)
    await client.add(later)
    assert (await three[1].client().get(uid_of("games"), auth=node)).der == later.der


async def test_a_restart_of_postgresql_is_not_noticed_by_clients(three, folder, node, postgres_server):
    client = three[1].client(read_s=10.0)
    answered, stop = 0, asyncio.Event()

    async def traffic():
        nonlocal answered
        while not stop.is_set():
            await client.add(login(folder, "games", lifetime_s=3600 + answered))
            assert await client.get(uid_of("games"), auth=node) is not None
            answered += 1

    load = asyncio.create_task(traffic())
    for how in (postgres_server.stop, postgres_server.kill):
        await asyncio.sleep(0.3)
        await asyncio.to_thread(how)
        await asyncio.to_thread(postgres_server.start)
    before = answered
    while answered < before + 3:
        await asyncio.sleep(0.05)
        assert not load.done(), load
    stop.set()
    await load
