"""The credential cache as its clients meet it: a real auksd, a real KDC, our client."""

import dataclasses

import pytest
from auksd_box import NOBODY, USERS, Auksd, login, uid_of

from hipercow_slurm.errors import AccessError
from hipercow_slurm.krb5 import ccache, krbcred
from hipercow_slurm.wire.records import MAX_CRED

GAMES, NEWS = uid_of("games"), uid_of("news")


@pytest.fixture(scope="module")
def auksd(folder, realm):
    with Auksd(folder / "main", folder) as daemon:
        yield daemon
        assert "Traceback" not in daemon.log, daemon.log
        assert "auksd.bug" not in daemon.log, daemon.log


@pytest.fixture
async def client(auksd, tgt):
    client = auksd.client()
    for uid in map(uid_of, USERS):
        await client.remove(uid, auth=tgt["node"])
    return client


async def test_a_user_adds_gets_and_removes(auksd, client, tgt):
    await client.ping(auth=tgt["games"])
    assert await client.get(GAMES, auth=tgt["games"]) is None
    await client.add(tgt["games"])
    got = await client.get(GAMES, auth=tgt["games"])
    assert got.der == tgt["games"].der
    assert got.times == tgt["games"].times
    assert await client.remove(GAMES, auth=tgt["games"])
    assert await client.get(GAMES, auth=tgt["games"]) is None
    assert not await client.remove(GAMES, auth=tgt["games"])


async def test_nobody_gets_or_removes_anothers(auksd, client, tgt):
    await client.add(tgt["games"])
    assert await client.get(GAMES, auth=tgt["news"]) is None
    assert not await client.remove(GAMES, auth=tgt["news"])
    with pytest.raises(AccessError) as caught:
        await client.add(tgt["games"], auth=tgt["news"])
    assert caught.value.code == "cache-refused"
    assert (await client.get(GAMES, auth=tgt["node"])).der == tgt["games"].der


async def test_an_admin_may_do_it_for_others(auksd, client, tgt):
    await client.add(tgt["games"], auth=tgt["node"])
    await client.add(tgt["news"], auth=tgt["node"])
    records = {record.uid: record for record in await client.dump(auth=tgt["node"])}
    assert set(records) == {GAMES, NEWS}
    record = records[NEWS]
    assert (record.principal, record.data) == ("news@REALM.TEST", tgt["news"].der)
    assert len(record.data) + 512 <= record.max_length < MAX_CRED, "room for a stock renewer, and no 32 KiB"
    assert await client.remove(GAMES, auth=tgt["node"])
    assert [record.uid for record in await client.dump(auth=tgt["node"])] == [NEWS]


async def test_only_an_admin_dumps(client, tgt):
    for user in ("games", "backup"):
        with pytest.raises(AccessError):
            await client.dump(auth=tgt[user])


async def test_a_guest_adds_but_does_not_get_back(client, tgt):
    await client.ping(auth=tgt["backup"])
    await client.add(tgt["backup"])
    assert await client.get(uid_of("backup"), auth=tgt["backup"]) is None
    assert not await client.remove(uid_of("backup"), auth=tgt["backup"])
    assert await client.get(uid_of("backup"), auth=tgt["node"])


async def test_no_rule_is_a_closed_connection_and_the_client_says_why(auksd, client, tgt):
    with pytest.raises(AccessError) as caught:
        await client.ping(auth=tgt["stranger"])
    assert caught.value.code == "no-role"
    assert auksd.lines("auksd.request", principal="stranger@REALM.TEST", result="refused", code="no-role")


async def test_a_principal_without_account_is_refused_and_files_nothing(auksd, client, tgt):
    """The original stores such a credential under the uid of the last line of /etc/passwd."""
    with pytest.raises(AccessError):
        await client.add(tgt[NOBODY])
    assert await client.dump(auth=tgt["node"]) == ()
    assert auksd.lines("auksd.request", principal=f"{NOBODY}@REALM.TEST", code="no-such-user")


async def test_a_principal_without_localname_is_refused(auksd, client, tgt):
    with pytest.raises(AccessError):
        await client.add(tgt["node"])
    assert auksd.lines("auksd.request", principal="host/node.test@REALM.TEST", verb="add", code="no-localname")


async def test_the_later_renew_till_wins_and_a_worse_one_is_kept_out_quietly(auksd, client, tgt, folder):
    short, long = (login(folder, "games", renew_s=seconds) for seconds in (100_000, 200_000))
    await client.add(short)
    await client.add(long)
    assert (await client.get(GAMES, auth=long)).der == long.der
    before = len(auksd.lines("auksd.request", verb="add", result="kept-better"))
    await client.add(short)
    assert (await client.get(GAMES, auth=long)).der == long.der
    assert len(auksd.lines("auksd.request", verb="add", result="kept-better")) == before + 1


async def test_useless_credentials_are_refused(auksd, client, tgt, folder, realm):
    realm.kinit("games", "pass word 1", str(folder / "cc_addresses"), "-a")
    addressful = ccache.read_tgt(str(folder / "cc_addresses"))
    assert not addressful.addressless
    one = krbcred.tickets(tgt["games"])[0]
    past = {"starttime": 1000, "authtime": 1000, "endtime": 2000, "renew_till": 3000}
    expired = krbcred.build([dataclasses.replace(one, **past)])
    for cred, code in ((addressful, "addressful"), (expired, "expired")):
        with pytest.raises(AccessError):
            await client.add(cred, auth=tgt["games"])
        assert auksd.lines("auksd.request", verb="add", code=code), f"{code}:\n{auksd.log[-2000:]}"
    assert await client.get(GAMES, auth=tgt["games"]) is None


async def test_no_secret_in_the_log(auksd, client, tgt):
    await client.add(tgt["games"])
    for ticket in krbcred.tickets(tgt["games"]):
        assert ticket.key.hex() not in auksd.log
        assert repr(ticket.key)[2:-1] not in auksd.log
    (line,) = auksd.lines("auksd.request", verb="add", principal="games@REALM.TEST", result="stored")[-1:]
    for field in ("peer=127.0.0.1", f"uid={GAMES}", "role=user", "level=info"):
        assert field in line, line


async def test_files_are_private(auksd):
    for name in ("creds.db", "creds.db-wal", "creds.db.lock"):
        assert (auksd.folder / name).stat().st_mode & 0o077 == 0, name
