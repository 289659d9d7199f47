"""The daemon on a site's own ``auks.conf``: started as it is, its CacheDir taken over once, the files left alone."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time

import pytest
from auksd_box import ACL, PASSWORD, SERVICE, USERS, Auksd, login, uid_of

from hipercow_slurm.errors import AccessError
from hipercow_slurm.krb5 import ccache, krbcred
from hipercow_slurm.krb5.ccache import file_v4

GAMES, NEWS, BACKUP = map(uid_of, USERS)


@pytest.fixture
def site(tmp_path, folder, realm, monkeypatch):
    """A box whose configuration is an ``auks.conf`` with an ACL and a CacheDir; not started."""
    box = Auksd(tmp_path / "box", folder)
    box.config.unlink()
    box.key_file.unlink()
    box.config = tmp_path / "auks.conf"
    box.cache_dir = tmp_path / "cache"
    box.cache_dir.mkdir(mode=0o700)
    box.state = tmp_path / "state"
    monkeypatch.setenv("STATE_DIRECTORY", str(box.state))
    box.config.write_text(
        f"""# as a site has it
common {{ PrimaryHost = "localhost" ; PrimaryAddress = "127.0.0.1" ; PrimaryPort = {box.port} ;
  PrimaryPrincipal = "{SERVICE}@REALM.TEST" ; NAT = yes ; Colour = red ; }}
api {{ LogFile = "/tmp/auksapi.log" ; }}
auksd {{ PrimaryKeytab = "{folder / "auksd.keytab"}" ; CacheDir = "{box.cache_dir}" ;
  ACLFile = "{tmp_path / "auks.acl"}" ; Workers = 1000 ; QueueSize = 500 ; RepoSize = 5000 ; ReplayCache = no ; }}
"""
    )
    (tmp_path / "auks.acl").write_text(ACL + "rule { principal = '(' ; host = 10.0.0.1 ; role = admin ; }\n")
    yield box
    if box.process is not None and box.process.poll() is None:
        box.kill()


def listing(folder):
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir() if path.is_file()}


def run(*words):
    command = [sys.executable, "-m", "hipercow_slurm", "auksd", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


async def test_a_site_moves_in_and_nothing_it_has_is_lost_or_touched(site, tgt, realm):
    """First start: every good file is in the cache under its owner's uid, each bad one is named with the reason."""
    one = krbcred.tickets(tgt["backup"])[0]
    past = krbcred.build([dataclasses.replace(one, starttime=1000, authtime=1000, endtime=2000, renew_till=3000)])
    files = {
        f"aukscc_{GAMES}": file_v4(tgt["games"]),
        "aukscc_1": b"",  # what AUKS leaves when it is killed
        "aukscc_2": file_v4(tgt["games"])[:-10],
        "aukscc_3": file_v4(past),
        "aukscc_4": file_v4(tgt["nosuchaccount"]),
        "krb5cc_9": file_v4(tgt["backup"]),  # not AUKS'
    }
    for name, data in files.items():
        (site.cache_dir / name).write_bytes(data)
    # Written by MIT's library, as AUKS' are; the number in the name says nothing.
    realm.kinit("news", PASSWORD, f"{site.cache_dir}/aukscc_-7", "-f", "-r", "6d")
    (site.cache_dir / "aukscc_link").symlink_to(site.cache_dir / "krb5cc_9")
    os.mkfifo(site.cache_dir / "aukscc_pipe")
    before = listing(site.cache_dir)
    site.start()
    client = site.client()
    assert (await client.get(GAMES, auth=tgt["node"])).der == tgt["games"].der
    news = await client.get(NEWS, auth=tgt["news"])
    assert news.der == ccache.read_tgt(f"{site.cache_dir}/aukscc_-7").der
    assert {record.uid for record in await client.dump(auth=tgt["node"])} == {GAMES, NEWS}
    results = {"1": "ccache-malformed", "2": "ccache-malformed", "3": "expired", "4": "no-such-user"}
    results |= {"link": "unreadable", "pipe": "unreadable", str(GAMES): "stored", "-7": "stored"}
    for number, result in results.items():
        assert site.lines("auksd.import", file=f"aukscc_{number}", result=result), (number, site.log)
    assert listing(site.cache_dir) == before, "the files are left as they were"
    for said in (":3: unknown key 'colour'", "principal '(' does not compile", "host '10.0.0.1' counts from now on"):
        assert said in site.log, site.log
    assert (site.state / "credentials.key").stat().st_mode & 0o777 == 0o600

    # The second start does not bring back what was removed meanwhile.
    await client.remove(GAMES, auth=tgt["node"])
    site.stop()
    site.start()
    assert await client.get(GAMES, auth=tgt["node"]) is None
    assert (await client.get(NEWS, auth=tgt["node"])).der == news.der


async def test_an_import_that_was_killed_is_done_again(site, tgt):
    site.start()
    site.kill()
    (site.cache_dir / "aukscc_x").write_bytes(file_v4(tgt["games"]))
    (site.state / "credentials.db.importing").touch()
    site.start()
    assert (await site.client().get(GAMES, auth=tgt["node"])).der == tgt["games"].der
    assert not (site.state / "credentials.db.importing").exists()


async def test_import_by_hand_keeps_the_better_one(site, tgt, folder, tmp_path):
    long = login(folder, "games", renew_s=6 * 24 * 3600)
    site.start()
    await site.client().add(long)
    (tmp_path / "old").mkdir()
    for name, cred in (("aukscc_1", login(folder, "games", renew_s=3600)), ("aukscc_2", tgt["news"])):
        (tmp_path / "old" / name).write_bytes(file_v4(cred))
    busy = run("-f", site.config, "--import", tmp_path / "old")
    assert (busy.returncode, "in use" in busy.stderr) == (78, True), busy
    site.stop()
    done = run("-f", site.config, "--import", tmp_path / "old")
    assert done.returncode == 0, done
    assert done.stdout.splitlines()[-1] == "2 files: 1 kept-better, 1 stored", done.stdout
    assert "aukscc_1: kept-better: games@REALM.TEST" in done.stdout
    site.start()
    assert (await site.client().get(GAMES, auth=tgt["node"])).der == long.der
    assert (await site.client().get(NEWS, auth=tgt["node"])).der == tgt["news"].der


async def test_both_kinds_of_nat_at_once_whatever_the_file_says(site, tgt):
    site.start()
    nat = dataclasses.replace(site.server, nat=True)
    from hipercow_slurm.client.auks import AuksClient

    for _ in range(2):
        await AuksClient([nat]).ping(auth=tgt["games"])
        await site.client().ping(auth=tgt["games"])


async def test_host_rules_match_the_peer_address_and_name(site, tgt):
    rules = (
        r"rule { principal = ^games@REALM\.TEST$ ; host = 127.0.0.2 ; role = user ; }"
        r"rule { principal = ^news@REALM\.TEST$ ; host = localhost ; role = user ; }"
        r"rule { principal = ^backup@REALM\.TEST$ ; host = 127.0.0.1 ; role = user ; }"
    )
    (site.config.parent / "auks.acl").write_text(rules)
    site.start()
    for user in ("news", "backup"):
        await site.client().ping(auth=tgt[user])
    with pytest.raises(AccessError) as caught:
        await site.client().ping(auth=tgt["games"])
    assert caught.value.code == "no-role"


def test_check_config_tells_and_changes_nothing(site):
    done = run("-f", site.config, "--check-config")
    assert done.returncode == 0, done
    for said in (
        f"warning: {site.config}:3: unknown key 'colour'",
        f"{site.config}:6: workers has no effect",
        f"{site.config.parent}/auks.acl:5: principal '(' does not compile",
    ):
        assert said in done.stderr, done.stderr
    assert not site.state.exists()
    environment = {**os.environ, "AUKSD_CONF": str(site.config)}
    command = [sys.executable, "-m", "hipercow_slurm", "auksd", "-F", "-v", "-d", "--check-config"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)
    assert (done.returncode, done.stdout) == (0, f"{site.config}: good\n"), done


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('PrimaryHost = "localhost"', "PrimaryHost = other ; SecondaryHost = another", "neither PrimaryHost 'other'"),
        ("NAT = yes ;", "NAT = yes", "auks.conf:3: ; expected"),
        ("auksd {", "daemon {", "no block 'auksd'"),
        ("auks.acl", "none.acl", "none.acl"),
        ("auksd.keytab", "none.keytab", "none.keytab"),
        ('"127.0.0.1"', "no.such.host.invalid", "no IPv4 address"),
    ],
)
def test_what_cannot_work_is_said_at_start(site, old, new, said):
    text = site.config.read_text()
    assert old in text
    site.config.write_text(text.replace(old, new))
    began = time.monotonic()
    done = run("-f", site.config)
    assert done.returncode == 78, done
    assert said in done.stdout + done.stderr, done
    assert time.monotonic() - began < 15
    assert not list(site.state.glob("*")) if site.state.exists() else True
