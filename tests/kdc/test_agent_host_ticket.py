"""The agent's own ticket: one question to the KDC however many ask, kept over an outage, replaced in time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from auksd_box import make_realm

from hipercow_slurm.agent import source
from hipercow_slurm.agent.source import HostTicket
from hipercow_slurm.errors import ConfigError, Error
from hipercow_slurm.testing.realm import Realm

pytestmark = pytest.mark.kdc
LIFE_S = 60


@pytest.fixture(scope="module")
def realm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Realm, str]]:
    folder: Path = tmp_path_factory.mktemp("host")
    with make_realm(folder, max_life=f"{LIFE_S}s") as realm:
        yield realm, str(folder / "node.keytab")


def issued(realm: Realm) -> int:
    return realm.log.count("ISSUE: ")


async def test_many_ask_and_the_kdc_is_asked_once(realm: tuple[Realm, str]) -> None:
    kdc, keytab = realm
    ticket, before = HostTicket("host/node.test", keytab), issued(kdc)
    assert ticket.endtime is None
    found = await asyncio.gather(*(ticket.current() for _ in range(20)))
    assert len({id(cred) for cred in found}) == 1 and issued(kdc) == before + 1
    assert found[0].client == "host/node.test@REALM.TEST" and ticket.endtime == found[0].times.endtime


async def test_outage_is_bridged_until_the_real_end(realm: tuple[Realm, str], monkeypatch: pytest.MonkeyPatch) -> None:
    kdc, keytab = realm
    ticket = HostTicket("host/node.test", keytab)
    first = await ticket.current()
    clock = {"ahead": LIFE_S * 0.6}  # past half of its life: it wants a new one
    monkeypatch.setattr(source.time, "time", lambda real=time.time: real() + clock["ahead"])
    kdc.stop()
    try:
        assert await ticket.current() is first, "a good ticket was thrown away"
        started = time.monotonic()
        for _ in range(50):
            assert await ticket.current() is first
        assert time.monotonic() - started < 5, "each question waited for a KDC that is down"
        clock["ahead"] = LIFE_S + 1
        with pytest.raises(Error):
            await ticket.current()
        clock["ahead"] = 0
    finally:
        kdc._start_kdc()
    await asyncio.sleep(source.RETRY_WITHOUT_S)
    ticket._not_before = 0.0
    clock["ahead"] = LIFE_S * 0.6
    assert await ticket.current() is not first


async def test_no_keytab_is_said(realm: tuple[Realm, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="keytab"):
        await HostTicket("host/node.test", str(tmp_path / "none")).current()
    with pytest.raises(ConfigError, match=r"other\.test"):
        await HostTicket("host/other.test", realm[1]).current()
