"""Whom the signer signs for: every refusal has its own row, and every row would be a way to own the cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipercow_slurm.errors import AccessError, ConfigError
from hipercow_slurm.signer import config
from hipercow_slurm.signer.policy import Account, Rules, decide

RULES = Rules(
    lifetime_s=60,
    minimum_uid=1000,
    names=frozenset({"slurm", "hcs-api", "mallory"}),
    uids=frozenset({64030, 5201, 5202}),
)
NOW = 1_800_000_000


def test_a_plain_user_gets_a_short_grant() -> None:
    grant = decide("alice@R", "alice", Account("alice", 5001), RULES, now=NOW)
    assert (grant.localname, grant.uid, grant.iat, grant.exp) == ("alice", 5001, NOW, NOW + 60), grant


REFUSED = [
    ("root", Account("root", 0), "account-denied"),
    ("toor", Account("toor", 0), "account-denied"),  # another name of uid 0
    ("slurm", Account("slurm", 64030), "account-denied"),
    ("sched", Account("sched", 64030), "account-denied"),  # another name of the Slurm user
    ("hcs-api", Account("hcs-api", 5201), "account-denied"),
    ("signer2", Account("signer2", 5202), "account-denied"),  # the signer's own uid
    ("mallory", Account("mallory", 5009), "account-denied"),  # the site's list
    ("nobody", Account("nobody", 65534), "account-denied"),
    ("anon", Account("anon", 65534), "account-denied"),  # Slurm runs jobs of unknown users as nobody
    ("all", Account("all", 0xFFFFFFFF), "account-denied"),
    ("minus", Account("minus", -1), "account-denied"),
    ("daemon", Account("daemon", 1), "uid-too-low"),
    ("almost", Account("almost", 999), "uid-too-low"),
    ("ghost", None, "no-such-account"),
    ("alice", Account("Alice", 5001), "no-such-account"),  # a directory that ignores case
    ("0", Account("0", 5001), "account-denied"),  # Slurm takes sun="0" for uid 0
    ("5001", Account("5001", 5001), "account-denied"),
    ("Alice", Account("Alice", 5001), "account-denied"),
    ("alice\n", Account("alice\n", 5001), "account-denied"),
    ("", Account("", 5001), "account-denied"),
    ("-rf", Account("-rf", 5001), "account-denied"),
    ("a b", Account("a b", 5001), "account-denied"),
    ("dide\\alice", Account("dide\\alice", 5001), "account-denied"),
    ("älice", Account("älice", 5001), "account-denied"),
]


@pytest.mark.parametrize(("localname", "account", "code"), REFUSED, ids=[repr(row[0]) for row in REFUSED])
def test_refused(localname: str, account: Account | None, code: str) -> None:
    with pytest.raises(AccessError) as caught:
        decide("p@R", localname, account, RULES, now=NOW)
    assert caught.value.code == code, caught.value


def test_the_minimum_uid_itself_is_allowed() -> None:
    assert decide("a@R", "a", Account("a", 1000), RULES, now=NOW).uid == 1000


def test_no_rules_lift_the_cap_on_lifetime() -> None:
    rules = Rules(lifetime_s=10_000, minimum_uid=1)
    grant = decide("a@R", "a", Account("a", 5), rules, now=NOW)
    assert grant.exp - grant.iat == 120, grant


@given(st.text(max_size=40), st.integers(-5, 2**33))
def test_whatever_comes_out_is_a_name_slurm_cannot_misread(localname: str, uid: int) -> None:
    try:
        grant = decide("p@R", localname, Account(localname, uid), Rules(60, 1000), now=NOW)
    except AccessError:
        return
    assert grant.localname.isascii() and not grant.localname[0].isdigit() and not grant.localname.startswith("-")
    assert grant.localname not in ("root", "nobody") and grant.uid >= 1000


BASE = '[signer]\nservice = "slurm-signer/head.test"\n'


@pytest.mark.parametrize(
    ("line", "evidence"),
    [
        ("lifetime_s = 121", "lifetime_s is 121"),
        ("lifetime_s = 0", "lifetime_s is 0"),
        ("minimum_uid = 0", "minimum_uid is 0"),
        ("allow_users = []", "names anybody"),
        ('socket = "signer.sock"', "absolute"),
        ("lifetime = 60", ":3: "),  # an unknown key, with its line
        ('deny = "mallory"', ":3: "),
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, line: str, evidence: str) -> None:
    path = tmp_path / "signer.toml"
    path.write_text(BASE + line + "\n")
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    assert evidence in caught.value.message and str(path) in caught.value.message, caught.value.message


def test_the_shortest_configuration(tmp_path: Path) -> None:
    path = tmp_path / "signer.toml"
    path.write_text(BASE)
    settings = config.load(path)
    assert (settings.lifetime_s, settings.minimum_uid, settings.allow_users) == (60, 1000, ("hcs-api",)), settings
