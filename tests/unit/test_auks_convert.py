"""``config convert``: what both grammars can say survives both ways, and the rest is listed."""

import tomllib
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from hipercow_slurm.auksconf import conf, grammar
from hipercow_slurm.auksd import config, convert, from_auks, rules
from hipercow_slurm.auksd.config import Auksd, Config, Renew, Rule
from hipercow_slurm.cli import convert as command
from hipercow_slurm.client import upload

SITE = """\
common { PrimaryHost = head1 ; PrimaryAddress = 127.0.0.1 ; PrimaryPort = 1234 ; PrimaryPrincipal = auks/h1@EX.ORG ;
 SecondaryHost = head2 ; SecondaryAddress = 127.0.0.2 ; SecondaryPrincipal = auks/h2@EX.ORG ; NAT = yes ;
 Retries = 9 ; CrossRealm = OTHER.ORG ; }
api { HelperScript = /bin/h ; }
auksd { PrimaryKeytab = /etc/k1 ; CacheDir = /srv/auks ; ACLFile = ACL ; Workers = 99 ; }
renewer { MinLifeTime = 600 ; }
"""
ACL = r"""
rule { principal = ^host/[a-z0-9.]+@EX\.ORG$ ; host = * ; role = admin ; }
rule { principal = '^(a' ; host = * ; role = admin ; }
rule { principal = "^it's[.]me@EX[.]ORG$" ; host = 10.0.0.7 ; role = user ; }
rule { principal = * ; host = * ; role = guest ; }
"""


@pytest.fixture
def site(tmp_path):
    (tmp_path / "auks.acl").write_text(ACL)
    (tmp_path / "auks.conf").write_text(SITE.replace("= ACL ;", f"= {tmp_path}/auks.acl ;"))
    return tmp_path


def run(*words: object):
    done = CliRunner().invoke(command.config, ["convert", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_there_and_back_again(site):
    done = run(
        site / "auks.conf", site / "auksd.toml", "--cache", site / "agent.toml", "--hostname", "head1", "--state", "/s"
    )
    for said in ("workers has no effect", "matches nobody", "retries is a client's"):
        assert said in done.stderr, done.stderr
    toml = config.load(site / "auksd.toml")
    assert (toml.auksd.listen, toml.auksd.principal) == ("127.0.0.1:1234", "auks/h1@EX.ORG")
    assert (toml.auksd.keytab, toml.auksd.import_dir, toml.renew.margin_s) == ("/etc/k1", "/srv/auks", 600)
    allowed = rules.load(toml)
    for name, peer, role in (
        ("host/c1@EX.ORG", "1.1.1.1", "admin"),
        ("it's.me@EX.ORG", "10.0.0.7", "user"),
        ("it's.me@EX.ORG", "10.0.0.8", "guest"),
    ):
        assert allowed.role(name, peer).value == role
    servers = upload.read_servers(site / "agent.toml")
    assert [(one.host, one.port, one.nat) for one in servers] == [("127.0.0.1", 1234, True), ("127.0.0.2", 12345, True)]

    back = site / "back"
    back.mkdir()
    run(site / "auksd.toml", back / "auks.conf", "--cache", site / "agent.toml", "--hostname", "head1")
    before, after = (conf.load(path / "auks.conf", daemon=True) for path in (site, back))
    assert after.primary == before.primary
    assert after.findings == ()
    for one in ("nat", "cache_dir", "min_life_s", "cross_realm", "helper"):
        assert getattr(after, one) == getattr(before, one), one
    assert after.keytabs[0] == before.keytabs[0]
    assert (after.secondary.address, after.secondary.principal) == ("127.0.0.2", "auks/h2@EX.ORG")

    run(back / "auks.conf", back / "again.toml", "--hostname", "head1", "--state", "/s")
    again = config.load(back / "again.toml")
    assert again == toml, "and nothing changes any more"


def test_an_existing_file_is_not_overwritten(site):
    (site / "auksd.toml").write_text("precious")
    words = ["convert", str(site / "auks.conf"), str(site / "auksd.toml"), "--hostname", "head1"]
    done = CliRunner().invoke(command.config, words)
    assert done.exit_code != 0
    assert (site / "auksd.toml").read_text() == "precious"


def test_what_auks_cannot_say_is_listed():
    found = Config(
        auksd=Auksd(keytab="/k", store="/s/db", key_file="/s/key", acl="/a", connections=7, listen="1.2.3.4:5"),
        renew=Renew(threads=9),
    )
    made = convert.auks_conf(found, convert.Clients(), hostname="h", acl_file="/a")
    said = {"auksd.store = /s/db", "auksd.key_file = /s/key", "auksd.connections = 7", "renew.threads = 9"}
    assert set(made.left_out) == said


TEXT = st.text(st.characters(exclude_characters="#\0\r", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)


@given(principal=TEXT, keytab=TEXT, folder=TEXT, pattern=TEXT, host=TEXT, margin=st.integers(0, 10**6))
def test_any_value_survives(principal, keytab, folder, pattern, host, margin):
    """Quoting, in both grammars: quotes, backslashes, braces, anything but # (which AUKS cannot say)."""
    first = Config(
        auksd=Auksd(
            keytab=keytab, store="/s/credentials.db", key_file="/s/credentials.key", principal=principal,
            import_dir=folder, listen="127.0.0.1:77",
        ),
        renew=Renew(margin_s=float(margin)),
        rule=(Rule(pattern, "user", host), Rule("*", "guest")),
    )  # fmt: skip
    text = convert.auks_conf(first, convert.Clients(), hostname="h", acl_file="/x.acl").text
    middle = from_auks.configuration(conf.parse(text, "f", daemon=True), state=Path("/s"), hostname="h")
    blocks = grammar.parse(convert.acl(rules.blocks(first)), "f")
    last = msgspec.convert(tomllib.loads(convert.daemon_toml(middle, blocks)), Config)
    assert last == first
