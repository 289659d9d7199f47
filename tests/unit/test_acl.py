"""The ACL file: grammar, rules, what is refused and what is warned about."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipercow_slurm.auksconf import grammar
from hipercow_slurm.auksd import acl
from hipercow_slurm.auksd.acl import Role
from hipercow_slurm.errors import ConfigError

SITE = """\
# nodes first
rule {
    principal = ^host/[[:alnum:].-]+@EX\\.ORG$ ;
    host = * ;
    role = admin ;
}
rule { principal = ^alice@EX\\.ORG$ ; host = 10.0.0.7 ; role = user ; }
rule { principal = "^[a-z]+@EX[.]ORG$" ; HOST = login ; Role = 'guest' ; }   # trailing comment
"""


def parse(text, **hosts):
    return acl.parse(text, "auks.acl", resolve=lambda name: hosts.get(name, ()))


def rule(**settings):
    settings = {"principal": "^a@R$", "host": "*", "role": "user"} | settings
    body = " ".join(f"{key} = {value} ;" for key, value in settings.items() if value is not None)
    return f"rule {{ {body} }}\n"


@pytest.mark.parametrize(
    ("principal", "peer", "role"),
    [
        ("host/c1.ex.org@EX.ORG", "10.9.9.9", Role.ADMIN),
        ("host/c1.ex.org@EX.ORG.EVIL", "10.9.9.9", None),
        ("alice@EX.ORG", "10.0.0.7", Role.USER),
        ("alice@EX.ORG", "10.0.0.1", Role.GUEST),
        ("alice@EX.ORG", "10.0.0.8", None),
        ("bob@EX.ORG", "10.0.0.1", Role.GUEST),
        ("Bob@EX.ORG", "10.0.0.1", None),
        ("alice@EXxORG", "10.0.0.7", None),
    ],
)
def test_first_match_wins(principal, peer, role):
    site = parse(SITE, login=["10.0.0.1"])
    assert site.warnings == ()
    assert site.role(principal, peer) is role
    assert site.role(principal, peer) is role, "the remembered answer is the same"


def test_star_is_anybody_and_order_decides():
    assert parse(rule(principal="*", role="admin") + rule()).role("a@R", "1.2.3.4") is Role.ADMIN
    assert parse(rule() + rule(principal="*", role="admin")).role("a@R", "1.2.3.4") is Role.USER
    assert parse(rule(principal="'*'", role="guestish")).role("x", "") is Role.GUEST


def test_expressions_are_posix_ones_and_searched():
    assert parse(rule(principal="b+@")).role("aabb@R", "") is Role.USER
    assert parse(rule(principal="'^[\\\\]d'")).role("7", "") is None, "in brackets a backslash is a backslash"
    assert parse(rule(principal="^(x|y){2}$")).role("xy", "") is Role.USER


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no rule"),
        ("# nothing\n", "no rule"),
        ("Rule { principal = * ; host = * ; role = admin ; }", "no rule"),
        ("\n" + rule(role="root"), ":2: unknown role 'root'"),
        (rule(role="Admin"), ":1: unknown role"),
        (rule(role="nodes"), ":1: unknown role"),
        (rule(principal="'^(a'"), ":1: principal '^(a' does not compile"),
        (rule(principal=None), ":1: the rule has no principal"),
        (rule(host=None), ":1: the rule has no host"),
        ("rule { principal = a ; host = *\nrole = user ; }", ":2: ; expected, 'r' found"),
        ("rule { principal = a ;", ":1: a key or } expected, the end of the file found"),
        ("rule\n\n[ }", ":3: { expected, '[' found"),
        ("rule { principal = ; }", ":1: a value expected"),
        ("rule { principal = 'a\nb ; }", ":1: the file ends inside quotes"),
        ('rule { principal = "a#b" ; }', ":1: a quoted value cannot contain #"),
        ("} ", ":1: a block name expected"),
    ],
)
def test_errors_name_file_and_line(text, said):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert f"auks.acl{said}" in caught.value.message or said in caught.value.message, caught.value.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (rule(principal="a@R"), ":1: principal 'a@R' is not anchored"),
        (rule(principal="^a@R"), ":1: principal '^a@R' is not anchored"),
        (rule(host="nowhere"), ":1: host 'nowhere' has no IPv4 address"),
        (rule(colour="red"), ":1: unknown key 'colour'"),
        (rule() + "rule { principal = ^x$ ; principal = ^y$ ; host = * ; role = user ; }", ":2: principal is given"),
        (rule() + "other { a = b ; }", ":2: block 'other' is ignored"),
        (rule() + rule(role=None), ":2: the rule has no role and is skipped"),
    ],
)
def test_what_the_original_ignores_is_a_warning(text, said):
    assert any(warning.startswith(f"auks.acl{said}") for warning in parse(text).warnings), parse(text).warnings


def test_an_unresolvable_host_matches_nobody():
    assert parse(rule(host="nowhere")).role("a@R", "") is None


def test_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot read ACL"):
        acl.load(tmp_path / "none")


def test_values_of_every_form():
    text = """b { bare = ^h/.{3}@R$ ; dq = "a\\.b \\"c\\" d\\
e" ; sq = 'a\\b "c"' ; K_1:x-y.z = v# comment
; }"""
    (block,) = grammar.parse(text, "f")
    assert [(s.key, s.value, s.line) for s in block.settings] == [
        ("bare", "^h/.{3}@R$", 1),
        ("dq", 'a.b "c" de', 1),
        ("sq", 'a\\b "c"', 2),
        ("k_1:x-y.z", "v", 2),
    ]


@given(st.text(alphabet="rule{}=;*\"'#\\ \nprinciahost^$([", max_size=80))
def test_any_text_is_rules_or_an_error(text):
    try:
        parse(text)
    except ConfigError as error:
        assert error.message.startswith("auks.acl:")
