"""``hipercow-slurm auks`` without a cache: its words, exit statuses, the --send stream, when a ticket is due."""

import io
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_krbcred import MIT_VECTOR

from hipercow_slurm.cli import auks, auks_renew, auks_site, auks_status, auks_stream
from hipercow_slurm.errors import AccessError, ConfigError, CredentialError, Error, ProtocolError, UnavailableError
from hipercow_slurm.krb5 import krbcred
from hipercow_slurm.values import TicketTimes
from hipercow_slurm.wire.records import Record

ME = os.geteuid()
SOME_CRED = krbcred.parse(MIT_VECTOR)


@pytest.mark.parametrize(
    ("words", "wish"),
    [
        ([], auks.Wish("ping", uid=ME)),
        (["-a", "-p"], auks.Wish("ping", uid=ME)),
        (["-p", "--add"], auks.Wish("add", uid=ME)),
        (["-g", "-u", "7", "-CFILE:/x", "-vv"], auks.Wish("get", uid=7, ccache="FILE:/x", verbose=2)),
        (["--get", "--uid=4294967295", "--ccache", "x"], auks.Wish("get", uid=2**32 - 1, ccache="x")),
        (["-R", "loop"], auks.Wish("renew", loop=True, uid=ME)),
        (["--renew=once", "-d"], auks.Wish("renew", uid=ME)),
        (["-R", "loop", "-R", "once"], auks.Wish("renew", uid=ME)),
        (["--send", "-f", "y"], auks.Wish("send", uid=ME, config="y")),
        (["--rec"], auks.Wish("receive", uid=ME)),
        (["-rD"], auks.Wish("dump", uid=ME)),
        (["-r", "-h"], None),
    ],
)
def test_words(words, wish):
    assert auks.read(words) == wish


@pytest.mark.parametrize(
    ("words", "status"),
    [(["-Z"], 0), (["--nothing"], 0), (["-h"], 0), (["-R", "often"], 1), (["-R"], 0), (["-g", "-u", "root"], 1)],
)
def test_usage(words, status, capsys):
    assert auks.run(words) == status
    assert "usage: auks" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("verb", "error", "status"),
    [
        ("ping", UnavailableError("", code="cache-unreachable"), 90),
        ("dump", CredentialError("", code="no-ccache"), 90),
        ("remove", AccessError("", code="no-role"), 90),
        ("remove", AccessError("", code="cache-refused"), 147),
        ("dump", AccessError("", code="cache-refused"), 147),
        ("add", AccessError("", code="cache-refused"), 147),
        ("add", UnavailableError("", code="cache-unreachable"), 247),
        ("add", AccessError("", code="no-role"), 145),
        ("add", CredentialError("", code="expired"), 153),
        ("add", CredentialError("", code="no-ccache"), 4),
        ("add", CredentialError("", code="no-tgt"), 2),
        ("add", AccessError("", code="no-localname"), 44),
        ("add", CredentialError("", code="not-addressless"), 251),
        ("get", AccessError("", code="not-found"), 146),
        ("get", CredentialError("", code="no-ccache"), 146),
        ("get", Error("", code="not-stored"), 87),
        ("send", UnavailableError("", code="cache-unreachable"), 146),
        ("renew", CredentialError("", code="no-ccache"), 4),
        ("renew", CredentialError("", code="still-valid"), 39),
        ("renew", CredentialError("", code="ticket-over"), 40),
        ("renew", CredentialError("", code="lifetime-too-short"), 41),
        ("renew", CredentialError("", code="renew-refused"), 249),
        ("receive", Error("", code="not-stored"), 87),
        ("receive", ProtocolError(""), 255),
    ],
)
def test_exit_statuses(verb, error, status):
    assert auks_status.of(verb, error) == status


@pytest.mark.parametrize(
    ("text", "status"),
    [(None, 63), ("common { a = b\n}", 63), ("", 61), ("common { }", 61), ("common { }\napi { }", 61), ("[x]", 63)],
)
def test_a_bad_configuration(text, status, tmp_path, capsys, monkeypatch):
    path = tmp_path / ("agent.toml" if text == "[x]" else "auks.conf")
    if text is not None:
        path.write_text(text)
    assert auks.run(["-f", str(path)]) == status
    assert capsys.readouterr().err.startswith("Auks API init failed : ")
    monkeypatch.setenv("AUKS_CONF", str(path))
    assert auks.run([]) == status


def test_settings_of_the_site(tmp_path):
    path = tmp_path / "auks.conf"
    path.write_text(
        "common { PrimaryHost = a ; PrimaryPrincipal = p@R ; SecondaryHost = b ; SecondaryAddress = 10.0.0.2 ;"
        " SecondaryPort = 7 ; SecondaryPrincipal = q@R ; NAT = yes ; Retries = 2 ; Timeout = 4 ; Delay = 6 ;"
        " CrossRealm = X ; }\napi { HelperScript = /bin/h ; }\nrenewer { Delay = 5 ; MinLifeTime = 9 ; }"
    )
    site = auks_site.load(str(path))
    assert [(one.host, one.port, one.principal, one.nat) for one in site.servers] == [
        ("a", 12345, "p@R", True),
        ("10.0.0.2", 7, "q@R", True),
    ]
    assert (site.limits.rounds, site.limits.connect_s, site.limits.delay_s) == (2, 4, 6)
    assert (site.cross_realm, site.helper, site.delay_s, site.min_life_s) == ("X", "/bin/h", 5, 9)
    toml = '[agent]\n[cache]\nservers = [{ host = "c", principal = "p@R" }]\ncross_realm = "X"\nhelper = "/bin/h"\n'
    (tmp_path / "agent.toml").write_text(toml)
    site = auks_site.load(str(tmp_path / "agent.toml"))
    assert ([one.host for one in site.servers], site.cross_realm, site.helper) == (["c"], "X", "/bin/h")
    with pytest.raises(ConfigError):
        auks_site.load(str(tmp_path / "none"))


def test_the_stream_is_as_long_as_aukss_and_comes_back():
    data = auks_stream.encode(Record.of(7, SOME_CRED, len(SOME_CRED.der)))
    assert len(data) == 32949
    assert data[:8] == (32941).to_bytes(8, "little") or struct.calcsize("@N") != 8
    assert data[8:12] == b"\0\0\0\7"
    assert auks_stream.decode(io.BytesIO(data)).der == SOME_CRED.der


@pytest.mark.parametrize("at", [4, 4 + 157, 4 + 161], ids=["principal size", "max_length", "length"])
def test_negative_and_huge_lengths_are_refused(at):
    """The original overruns its memory on a negative max_length, and takes a wrong principal size as success."""
    good = auks_stream.encode(Record.of(7, SOME_CRED, len(SOME_CRED.der)))
    for value in (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0"):
        bad = good[: 8 + at] + value + good[12 + at :]
        with pytest.raises(ProtocolError):
            auks_stream.decode(io.BytesIO(bad))


@given(st.binary(max_size=400), st.integers(0, 2**64 - 1))
def test_any_stream_is_refused(data, length):
    for stream in (data, struct.pack("=Q", length) + data, struct.pack("=Q", len(data)) + data):
        with pytest.raises(ProtocolError):
            auks_stream.decode(io.BytesIO(stream))


@pytest.mark.parametrize(
    ("start", "end", "code"),
    [
        (0, 300, "lifetime-too-short"),
        (0, 999, "ticket-over"),
        (0, 1301, "still-valid"),
        (0, 1300, None),
        (0, 1001, None),
        (1000, 1000, "lifetime-too-short"),
    ],
)
def test_due_or_why_not(start, end, code):
    times = TicketTimes(start, end, 9999)
    if code is None:
        auks_renew.check_due(times, 300, 1000.0)
        return
    with pytest.raises(CredentialError) as caught:
        auks_renew.check_due(times, 300, 1000.0)
    assert caught.value.code == code


@given(
    failures=st.integers(1, 10**6),
    delay=st.floats(0, 10**4),
    left=st.floats(0, 10**6),
)
def test_the_loop_has_several_tries_left_whatever_happens(failures, delay, left):
    wait = auks_renew.wait_after(failures, delay, left)
    assert wait >= auks_renew.SHORTEST_S
    assert wait <= max(auks_renew.SHORTEST_S, left / 4)
    assert wait <= max(delay, 1.0)
