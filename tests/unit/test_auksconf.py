"""``auks.conf`` as AUKS' own programs read it: keys, defaults, block matching, findings with file and line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipercow_slurm.auksconf import conf
from hipercow_slurm.auksd import config, from_auks, rules
from hipercow_slurm.errors import ConfigError

WHOLE = """\
# a site's file
common {
 PrimaryHost = "head1" ; PrimaryAddress = "127.0.0.1" ; PRIMARYPORT = 12001 ;
 primaryprincipal = "auks/head1.ex.org@EX.ORG" ;
 SecondaryHost = head2 ; SecondaryAddress = 127.0.0.2 ; SecondaryPrincipal = 'auks/head2.ex.org@EX.ORG' ;
 CrossRealm = "OTHER.ORG" ; NAT = Yes ; Retries = 5 ; Timeout = 7 ; Delay = 2 ;
}
api { LogFile = /tmp/x ; HelperScript = /usr/bin/aklog ; }
auksd {
 PrimaryKeytab = /etc/one.keytab ; SecondaryKeytab = /etc/two.keytab ; CacheDir = /srv/auks ; ACLFile = /etc/x.acl ;
 Workers = 1000 ; QueueSize = 500 ; RepoSize = 9 ; CleanDelay = 30 ; ReplayCache = no ; LogLevel = 3 ;
}
renewer { Delay = 30 ; MinLifeTime = 600 ; }
"""
LEAST = "common { PrimaryPrincipal = a/b@R ; }\nauksd { }\napi { }\n"


def test_every_key():
    found = conf.parse(WHOLE, "auks.conf", daemon=True)
    assert found.primary == conf.End("head1", "127.0.0.1", 12001, "auks/head1.ex.org@EX.ORG")
    assert found.secondary == conf.End("head2", "127.0.0.2", 12345, "auks/head2.ex.org@EX.ORG")
    assert (found.cross_realm, found.nat, found.retries, found.timeout_s, found.delay_s) == ("OTHER.ORG", True, 5, 7, 2)
    assert (found.helper, found.keytabs) == ("/usr/bin/aklog", ("/etc/one.keytab", "/etc/two.keytab"))
    assert (found.cache_dir, found.acl_file) == ("/srv/auks", "/etc/x.acl")
    assert (found.renew_delay_s, found.min_life_s) == (30, 600)
    assert found.findings == ()


def test_every_default():
    found = conf.parse(LEAST, "auks.conf", daemon=True)
    assert found.primary == conf.End("localhost", "localhost", 12345, "a/b@R")
    assert (found.cross_realm, found.nat, found.retries, found.timeout_s, found.delay_s) == ("", False, 3, 10, 10)
    assert (found.helper, found.keytabs) == ("", ("/etc/auks/auks.keytab",) * 2)
    assert (found.cache_dir, found.acl_file, found.renew_delay_s, found.min_life_s) == (None, None, 60, None)
    assert found.servers() == [found.primary], "a server without a principal cannot be asked"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no block 'common'"),
        ("# only a comment\n", "no block 'common'"),
        ("Common { }\nauksd { }", "no block 'common'"),
        ("common { }\ncommon { }\nauksd { }", "2 blocks 'common' (lines 1, 2)"),
        ("common { }\n", "no block 'auksd'"),
        ("commons { }\nauksd { }", "no block 'common'"),
    ],
)
def test_what_the_daemon_needs(text, said):
    with pytest.raises(ConfigError) as caught:
        conf.parse(text, "auks.conf", daemon=True)
    assert said in caught.value.message
    assert caught.value.code == conf.INCOMPLETE


def test_clients_match_blocks_by_prefix_and_need_no_auksd():
    found = conf.parse("commons { PrimaryHost = x ; }\napi-2 { }\nrenew { Delay = 9 ; }", "f", daemon=False)
    assert (found.primary.host, found.renew_delay_s) == ("x", 9)
    with pytest.raises(ConfigError, match="no block 'api'"):
        conf.parse("common { }", "f", daemon=False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\ncommon { colour = red ; }", "f:2: unknown key 'colour' in block 'common' is ignored"),
        ("common { Nat = no ;\n NAT = yes ; }", "f:2: nat is given again; the first one counts"),
        ("common { Timeout = soon ; }", "f:1: timeout = 'soon' is not a number"),
        ("common { PrimaryPort = 99999 ; }", "f:1: primaryport = '99999' is not a number up to 65535"),
        ("common { NAT = on ; }", "f:1: nat = 'on' means no"),
        ("common { } other { }", "f:1: unknown block 'other' is ignored"),
        ("common { } renewer { } renewer { }", "f:1: block 'renewer' is given again"),
    ],
)
def test_oddities_are_findings_with_file_and_line(text, said):
    found = conf.parse(text + "\nauksd { }", "f", daemon=True)
    assert any(one.startswith(said) for one in found.findings), found.findings
    assert not found.nat
    assert (found.timeout_s, found.primary.port) == (10, 12345)


def test_bad_grammar_names_the_line():
    with pytest.raises(ConfigError, match="f:2: ; expected") as caught:
        conf.parse("common { a = b\n }", "f", daemon=True)
    assert caught.value.code == conf.UNREADABLE


@pytest.mark.parametrize(
    ("hostname", "role"), [("head1", "primary"), ("head2", "secondary"), ("head1.ex.org", None), ("other", None)]
)
def test_the_role_is_the_hostnames(hostname, role, tmp_path):
    found = conf.parse(WHOLE, "f", daemon=True)
    if role is None:
        with pytest.raises(ConfigError) as caught:
            from_auks.role(found, hostname)
        assert caught.value.code == "auks-conf-host"
        return
    made = from_auks.configuration(found, state=tmp_path, hostname=hostname)
    assert made.role == role
    port, number = {"primary": (12001, "1"), "secondary": (12345, "2")}[role]
    assert made.auksd.listen == f"127.0.0.{number}:{port}"
    assert made.auksd.principal == f"auks/head{number}.ex.org@EX.ORG"
    assert made.auksd.keytab == {"primary": "/etc/one.keytab", "secondary": "/etc/two.keytab"}[role]
    assert (made.auksd.import_dir, made.auksd.acl) == ("/srv/auks", "/etc/x.acl")
    assert (made.auksd.store, made.auksd.key_file) == (f"{tmp_path}/credentials.db", f"{tmp_path}/credentials.key")
    assert made.renew.margin_s == 600
    assert len(made.notes) == 7, made.notes
    assert "f:6: nat has no effect: clients with and without NAT are recognised one by one" in made.notes


def test_localhost_is_a_primary_anywhere(tmp_path):
    found = conf.parse(LEAST, "f", daemon=True)
    made = from_auks.configuration(found, state=tmp_path, hostname="any")
    assert (made.role, made.auksd.listen) == ("primary", "127.0.0.1:12345")


def test_the_key_is_made_once_and_never_over_a_store(tmp_path):
    made = from_auks.configuration(conf.parse(LEAST, "f", daemon=True), state=tmp_path / "new")
    key = Path(made.auksd.key_file)
    assert from_auks.prepare(made)
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes()
    assert from_auks.prepare(made)
    assert key.read_bytes() == before
    key.unlink()
    Path(made.auksd.store).touch()
    assert not from_auks.prepare(made)
    assert not key.exists(), "a new key could not open what is in the store"


def test_which_grammar_a_file_is_in(tmp_path):
    for name, text, auks in (
        ("auks.conf", "", True),
        ("x", " # c\n common {", True),
        ("x", "[auksd]\n", False),
        ("x.toml", "a = {}\n", False),
    ):
        (tmp_path / name).write_text(text)
        assert conf.is_auks(tmp_path / name) is auks, (name, text)
    assert conf.is_auks(tmp_path / "none.conf")
    assert not conf.is_auks(tmp_path / "none.toml")


def test_lenient_rules_work_as_they_did(tmp_path):
    """AUKS loads an expression that does not compile, and it matches nobody; ours is an error in TOML only."""
    acl = tmp_path / "auks.acl"
    acl.write_text(
        "rule { principal = '^(a' ; host = * ; role = admin ; }\n"
        "rule { principal = * ; host = 1.2.3.4 ; role = user ; }"
    )
    (tmp_path / "auks.conf").write_text(f"common {{ }}\nauksd {{ ACLFile = {acl} ; }}")
    (tmp_path / "auksd.toml").write_text(f'[auksd]\nkeytab="k"\nstore="s"\nkey_file="f"\nacl="{acl}"\n')
    found = rules.load(config.load(tmp_path / "auks.conf", state=tmp_path))
    assert found.role("(a", "9.9.9.9") is None
    assert found.role("(a", "1.2.3.4").value == "user"
    assert [warning.split(": ")[0] for warning in found.warnings] == [f"{acl}:1", f"{acl}:2"], found.warnings
    assert "counts from now on" in found.warnings[1]
    with pytest.raises(ConfigError, match=r"auks.acl:1: .* does not compile"):
        rules.load(config.load(tmp_path / "auksd.toml"))


def test_rules_in_toml(tmp_path):
    path = tmp_path / "auksd.toml"
    base = '[auksd]\nkeytab="k"\nstore="s"\nkey_file="f"\n'
    path.write_text(base + "[[rule]]\nprincipal='^a@R$'\nrole='user'\n[[rule]]\nprincipal='*'\nrole='guest'\n")
    found = rules.load(config.load(path))
    assert [found.role(name, "1.2.3.4").value for name in ("a@R", "b@R")] == ["user", "guest"]
    for bad, said in (
        (base, "give either"),
        (base + "acl='x'\n[[rule]]\nprincipal='*'\nrole='user'\n", "give either"),
        (base + "[[rule]]\nprincipal='*'\nrole='user'\ncolour='red'\n", "unknown field `colour`"),
        (base + "colour='red'\nacl='x'\n", "unknown field `colour`"),
    ):
        path.write_text(bad)
        with pytest.raises(ConfigError, match=said) as caught:
            config.load(path)
        assert str(path) in caught.value.message
    path.write_text(base + "[[rule]]\nprincipal='^(a'\nrole='user'\n")
    with pytest.raises(ConfigError, match=r"\[\[rule\]\]:1: .* does not compile"):
        rules.load(config.load(path))


@given(st.text(alphabet="comnauksdpirew{}=;*\"'# \n\\", max_size=80))
def test_any_text_is_a_configuration_or_an_error(text):
    for daemon in (True, False):
        try:
            conf.parse(text, "f", daemon=daemon)
        except ConfigError as error:
            assert error.message.startswith("f:"), error.message
