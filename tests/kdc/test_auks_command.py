"""``hipercow-slurm auks`` as a script sees it: a real cache and KDC, lines on its outputs, exit statuses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from auksd_box import PASSWORD, SERVICE, Auksd, login, make_realm, uid_of
from mit import Mit

from hipercow_slurm.krb5 import auth, ccache, creds, krbcred
from hipercow_slurm.krb5.ccache import file_v4
from hipercow_slurm.testing.realm import Realm

GAMES, NEWS = uid_of("games"), uid_of("news")
DONE = "Auks API request succeed\n"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}"


class Site:
    """A realm, a cache, an ``auks.conf`` that names it, and a ccache for everybody."""

    def __init__(self, folder, realm, auksd) -> None:
        self.folder, self.realm, self.auksd = folder, realm, auksd
        self.tgt = {user: login(folder, user) for user in ("games", "news", "backup", "stranger")}
        self.tgt["node"] = creds.keytab_tgt("host/node.test", str(folder / "node.keytab"))
        for user, cred in self.tgt.items():
            (folder / f"cc_{user}").write_bytes(file_v4(cred))
        self.conf()

    def conf(self, *, common: str = "", api: str = "", renewer: str = "", port: int | None = None):
        """Write the ``auks.conf``."""
        path = self.folder / "auks.conf"
        path.write_text(
            f"common {{ PrimaryHost = 127.0.0.1 ; PrimaryPort = {port or self.auksd.port} ; Retries = 1 ;"
            f' PrimaryPrincipal = "{SERVICE}@REALM.TEST" ; {common} }}\n'
            f"api {{ {api} }}\nrenewer {{ {renewer} }}\n"
        )
        return path

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "hipercow_slurm", "auks", "-f", str(self.folder / "auks.conf"), *words]

    def env(self, user: str) -> dict[str, str]:
        return {**os.environ, "KRB5CCNAME": f"FILE:{self.folder}/cc_{user}"}

    def run(self, user: str, *words: str, input: bytes = b"") -> tuple[int, bytes, str]:
        """Exit status, standard output, standard error."""
        done = subprocess.run(self.command(*words), input=input, capture_output=True, timeout=60, env=self.env(user))
        return done.returncode, done.stdout, done.stderr.decode()

    def good(self, user: str, *words: str) -> str:
        """Standard output of a run that must succeed."""
        status, out, err = self.run(user, *words)
        assert (status, err) == (0, ""), (words, status, out, err)
        return out.decode()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    with make_realm(folder) as realm, Auksd(folder / "daemon", folder) as auksd:
        yield Site(folder, realm, auksd)


@pytest.fixture(autouse=True)
def plain_conf(site):
    site.conf()


def test_every_verb_and_what_it_prints(site, tmp_path):
    assert site.good("games") == DONE
    assert site.good("games", "-a", "-p") == DONE, "the last action counts"
    assert site.run("games", "-g", "-u", str(GAMES))[0] == 146, "nothing was added"
    assert site.good("games", "-a") == DONE
    assert site.good("news", "-a", "-C", f"FILE:{site.folder}/cc_news") == DONE
    assert site.good("games", "-g", "-u", str(GAMES), "-C", f"FILE:{tmp_path}/got") == DONE
    assert ccache.read_tgt(f"{tmp_path}/got").client == "games@REALM.TEST"
    assert (tmp_path / "got").stat().st_mode & 0o777 == 0o600
    header, *rows, last = site.good("node", "-D").splitlines()
    names = ("UID", "PRINCIPAL", "START_TIME", "END_TIME", "RENEW_UNTIL")
    widths = (10, 34, 24, 24, 24)
    assert header == " ".join(name.ljust(width) for name, width in zip(names, widths, strict=True))
    assert last + "\n" == DONE
    assert len(rows) == 2
    for row, uid, user in zip(rows, (GAMES, NEWS), ("games", "news"), strict=True):
        assert re.fullmatch(rf"{uid:<10} {user + '@REALM.TEST':<34} {TIME} {TIME} {TIME}", row), row
    assert site.good("games", "-r", "-u", str(GAMES)) == DONE
    assert site.run("games", "-r", "-u", str(GAMES))[0] == 147
    assert "auks: one of 127.0.0.1:" in site.good("games", "-v", "-p")


def test_send_and_receive(site, tmp_path):
    site.good("games", "-a")
    status, stream, _ = site.run("node", "--send", "-u", str(GAMES))
    assert (status, len(stream)) == (0, 32949)
    nowhere = {**os.environ, "KRB5CCNAME": f"FILE:{tmp_path}/received", "AUKS_CONF": str(site.conf(port=1))}
    command = [sys.executable, "-m", "hipercow_slurm", "auks", "--receive"]
    done = subprocess.run(command, input=stream, capture_output=True, env=nowhere, timeout=30)
    assert (done.returncode, done.stdout.decode()) == (0, DONE), done
    assert ccache.read_tgt(f"{tmp_path}/received").der == site.tgt["games"].der
    (tmp_path / "received").unlink()
    done = subprocess.run(command, input=stream[:-1], capture_output=True, env=nowhere, timeout=30)
    assert done.returncode == 255
    assert not (tmp_path / "received").exists()


@pytest.mark.parametrize(
    ("user", "words", "status"),
    [
        ("games", ("-D",), 147),
        ("games", ("-g", "-u", "9"), 146),
        ("backup", ("-g", "-u", str(uid_of("backup"))), 146),
        ("stranger", ("-p",), 90),
        ("stranger", ("-a",), 145),
        ("stranger", ("-g",), 146),
        ("stranger", ("-D",), 90),
        ("nobody", ("-p",), 90),
        ("nobody", ("-a",), 4),
        ("nobody", ("-g",), 146),
        ("nobody", ("-r",), 90),
        ("nobody", ("-R", "once"), 4),
        ("node", ("-a",), 44),
        ("games", ("-R", "once"), 39),
        ("games", ("-g", "-u", str(GAMES), "-C", "FILE:/nonexistent/cc"), 87),
    ],
)
def test_exit_status_of_what_fails(site, user, words, status):
    if status == 87:
        site.good("games", "-a")
    found, out, err = site.run(user, *words)
    assert found == status, (out, err)
    assert out == b""
    assert err.startswith("Auks API request failed : "), err


@pytest.mark.parametrize(("words", "status"), [(("-p",), 90), (("-a",), 247), (("-g",), 146), (("-D",), 90)])
def test_exit_status_without_a_server(site, words, status):
    site.conf(port=1)
    assert site.run("games", *words)[0] == status


def test_agent_toml_does_as_well(site, tmp_path):
    path = tmp_path / "agent.toml"
    server = f'host = "127.0.0.1", port = {site.auksd.port}, principal = "{SERVICE}@REALM.TEST"'
    path.write_text(f"[cache]\nservers = [{{ {server} }}]\n")
    command = [sys.executable, "-m", "hipercow_slurm", "auks", "-f", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=site.env("games"), timeout=30)
    assert (done.returncode, done.stdout) == (0, DONE), done


def test_an_addressful_tgt_is_exchanged_before_it_is_added(site, tmp_path):
    for address, status in ((b"\x0a\0\0\x01", 251), (b"\x7f\0\0\1", 0)):
        Mit().kinit_bound("games", PASSWORD, [address], f"FILE:{tmp_path}/bound")
        assert not ccache.read_tgt(f"{tmp_path}/bound").addressless
        site.run("node", "-r", "-u", str(GAMES))
        found, out, err = site.run("games", "-a", "-C", f"FILE:{tmp_path}/bound")
        assert found == status, (out, err)
        assert (site.run("node", "-g", "-u", str(GAMES), "-C", f"{tmp_path}/got")[0] == 0) == (status == 0)
    assert ccache.read_tgt(f"{tmp_path}/got").addressless


def test_renew_once_takes_the_caches_ticket_or_asks_the_kdc_and_runs_the_helper(site, tmp_path):
    helper = tmp_path / "helper"
    helper.write_text('#!/bin/sh\necho "$KRB5CCNAME" >> "$(dirname "$0")/ran"\n')
    site.conf(api=f"HelperScript = {helper} ;", renewer="MinLifeTime = 35000 ;")
    target = f"FILE:{tmp_path}/cc"
    words = ("-R", "once", "-u", str(GAMES), "-C", target)

    # The ticket has run for a while: made by asking for less.
    older = login(site.folder, "games", lifetime_s=35000)
    (tmp_path / "cc").write_bytes(file_v4(older))
    assert site.run("games", *words)[0] == 41, "a life of MinLifeTime or less is not renewed"
    site.conf(api=f"HelperScript = {helper} ;", renewer="MinLifeTime = 34000 ;")
    assert site.run("games", *words)[0] == 39, "still valid for long enough"

    site.conf(api=f"HelperScript = {helper} ;", renewer="MinLifeTime = 34999 ;")
    time.sleep(1.1)
    better = site.tgt["games"]
    site.good("games", "-a")
    assert site.good("games", *words) == DONE
    assert ccache.read_tgt(f"{tmp_path}/cc").der == better.der, "the cache's"
    assert not (tmp_path / "ran").exists(), "a HelperScript that is not executable is ignored"

    helper.chmod(0o755)
    site.good("games", "-r", "-u", str(GAMES))
    (tmp_path / "cc").write_bytes(file_v4(older))
    assert site.good("games", *words) == DONE
    renewed = ccache.read_tgt(f"{tmp_path}/cc")
    assert renewed.der not in (older.der, better.der), "the KDC's"
    assert renewed.times.endtime > older.times.endtime
    assert (tmp_path / "ran").read_text() == f"{target}\n"

    site.realm.stop()
    try:
        (tmp_path / "cc").write_bytes(file_v4(older))
        assert site.run("games", *words)[0] == 249
    finally:
        site.realm._start_kdc()


def test_the_renewal_loop_survives_the_outage_of_kdc_and_cache(site, tmp_path):
    """AUKS' loop ends with the first error. Ours tells it, tries again, and renews as soon as it can."""
    site.conf(renewer="Delay = 1 ; MinLifeTime = 300 ;", port=1)
    (tmp_path / "cc").write_bytes(file_v4(login(site.folder, "games", lifetime_s=14)))
    first = ccache.read_tgt(f"{tmp_path}/cc").times.endtime
    site.realm.stop()
    try:
        loop = subprocess.Popen(
            site.command("-R", "loop", "-C", f"FILE:{tmp_path}/cc"),
            stderr=subprocess.PIPE,
            env=site.env("games"),
            text=True,
        )
        said = loop.stderr.readline()
        assert re.match(r"auks: .*next try in [\d.]+ s", said), said
        assert loop.poll() is None
    finally:
        site.realm._start_kdc()
    end = time.monotonic() + 10
    while ccache.read_tgt(f"{tmp_path}/cc").times.endtime == first:
        assert loop.poll() is None, loop.stderr.read()
        assert time.monotonic() < end, "not renewed though the KDC is back"
        time.sleep(0.1)
    loop.send_signal(signal.SIGTERM)
    loop.wait(5)


def test_the_renewal_loop_ends_when_the_ticket_has_really_expired(site, tmp_path):
    site.conf(renewer="Delay = 1 ;", port=1)
    (tmp_path / "cc").write_bytes(file_v4(login(site.folder, "games", lifetime_s=3, renew_s=3)))
    endtime = ccache.read_tgt(f"{tmp_path}/cc").times.endtime
    status, out, err = site.run("games", "-R", "loop", "-C", f"FILE:{tmp_path}/cc")
    assert status == 40, (out, err)
    assert time.time() >= endtime
    assert err.endswith("Auks API request failed : the ticket has expired\n"), err


def test_cross_realm_is_really_obtained(tmp_path):
    """Two realms: with AUKS' own client the option does nothing with an MIT KDC."""
    other = Realm(tmp_path / "other", "OTHER.TEST")
    with make_realm(tmp_path, others={"OTHER.TEST": f"127.0.0.1:{other.port}"}) as realm, other:
        for one in (realm, other):
            one.add_user("krbtgt/OTHER.TEST@REALM.TEST", "shared secret", requires_preauth=False)
        other.add_service("host/x.test")
        with Auksd(tmp_path / "daemon", tmp_path) as auksd:
            site = Site(tmp_path, realm, auksd)
            site.conf(common="CrossRealm = OTHER.TEST ;")
            assert site.good("games", "-a") == DONE
            assert site.good("node", "-g", "-u", str(GAMES), "-C", f"{tmp_path}/got") == DONE
            cred = ccache.read_tgt(f"{tmp_path}/got")
            servers = [one.server for one in krbcred.tickets(cred)]
            assert servers == ["krbtgt/REALM.TEST@REALM.TEST", "krbtgt/OTHER.TEST@REALM.TEST"]

            # And so does what runs inside srun.
            site.good("node", "-r", "-u", str(GAMES))
            server = f'host = "127.0.0.1", port = {auksd.port}, principal = "{SERVICE}@REALM.TEST"'
            (tmp_path / "agent.toml").write_text(f'[cache]\nservers = [{{ {server} }}]\ncross_realm = "OTHER.TEST"\n')
            upload = [sys.executable, "-m", "hipercow_slurm", "upload", "--config", str(tmp_path / "agent.toml")]
            subprocess.run(upload, check=True, env=site.env("games"), timeout=30)
            assert site.good("node", "-g", "-u", str(GAMES), "-C", f"{tmp_path}/got") == DONE
            assert ccache.read_tgt(f"{tmp_path}/got").tickets == 2

            realm.stop()  # from here on only the other realm's KDC is asked
            assert auth.service_ticket(cred, "host/x.test@OTHER.TEST").service == "host/x.test@OTHER.TEST"
            realm._start_kdc()

            # A realm that is not to be had is told and does not stop the ADD.
            site.conf(common="CrossRealm = NOWHERE.TEST ;")
            status, out, err = site.run("games", "-a")
            assert (status, out.decode()) == (0, DONE)
            assert "no ticket for the realm NOWHERE.TEST" in err
