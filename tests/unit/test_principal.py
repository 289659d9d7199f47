"""Principal names: the text form of libkrb5, and what is refused on top of what libkrb5 refuses."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipercow_slurm.errors import RequestError
from hipercow_slurm.krb5.principal import MAX_TEXT, Principal

GOOD = {
    "alice@REALM.TEST": (("alice",), "REALM.TEST"),
    "host/c1.test@REALM.TEST": (("host", "c1.test"), "REALM.TEST"),
    "a/b/c@R": (("a", "b", "c"), "R"),
    r"a\/b@R": (("a/b",), "R"),
    r"a\@b@R": (("a@b",), "R"),
    r"a\\b@R": (("a\\b",), "R"),
    r"\a\l@R": (("al",), "R"),
    r"a@R\/S": (("a",), "R/S"),
    r"a@R\@S": (("a",), "R@S"),
    "anna bé@R": (("anna bé",), "R"),
}


@pytest.mark.parametrize("text", GOOD)
def test_parse(text: str) -> None:
    found = Principal.parse(text)
    assert (found.components, found.realm) == GOOD[text]
    assert Principal.parse(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        *("", "@", "@R", "alice", "alice@", "a/@R", "/a@R", "a//b@R", "a@R@S", "a@R/S", "a@R\\", "a\\"),
        *(r"a\nb@R", r"a\0@R", r"a\t@R", r"a\b@R", "a\0@R", "a\n@R", "a\x7f@R", "a\u200b@R", "a\udc80@R", "a\u202e@R"),
        *("x" * (MAX_TEXT + 1), "é" * 127 + "@R", "\\x" * 300 + "@R"),
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        Principal.parse(text)
    said = str(caught.value)
    assert caught.value.code == "bad-principal"
    assert said.isprintable() and len(said) < 2500, "the message itself must be fit to log"


def test_default_realm_is_taken_only_when_asked() -> None:
    assert str(Principal.parse("alice", default_realm="R")) == "alice@R"
    assert str(Principal.parse("alice@S", default_realm="R")) == "alice@S"


def test_tgs_names() -> None:
    for text, tgs, local in (
        ("krbtgt/R@R", True, True),
        ("krbtgt/S@R", True, False),
        ("krbtgt@R", False, False),
        ("krbtgt/R/R@R", False, False),
        (r"krbtgt\/R@R", False, False),
        ("alice@R", False, False),
    ):
        name = Principal.parse(text)
        assert (name.is_tgs, name.is_local_tgs) == (tgs, local), text


@given(st.lists(st.text(max_size=8), max_size=3), st.text(max_size=8))
def test_text_and_parts_agree(components: list[str], realm: str) -> None:
    """What ``of`` takes comes back from its text; so no two names share a text."""
    with contextlib.suppress(RequestError):
        name = Principal.of(components, realm)
        assert Principal.parse(str(name)) == name
