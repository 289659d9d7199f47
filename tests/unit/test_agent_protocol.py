"""The lines between plugin and agent, and the agent's configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipercow_slurm.agent import config, protocol
from hipercow_slurm.agent.config import CCachePattern
from hipercow_slurm.agent.protocol import CCache, End, Start, Status
from hipercow_slurm.errors import ConfigError, RequestError


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"start 42 5001 100\n", Start(42, 5001, 100)),
        (b"start 4294967294 0 0\n", Start(4294967294, 0, 0)),
        (b"ccache 42 5001\n", CCache(42, 5001, None)),
        (b"ccache 42 5001 100\n", CCache(42, 5001, 100)),
        (b"end 42\n", End(42, None)),
        (b"end 42 5001\n", End(42, 5001)),
        (b"status\n", Status()),
    ],
)
def test_requests(line: bytes, expected: protocol.Request) -> None:
    assert protocol.parse(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\n", b"start\n", b"start 1 2\n", b"start 1 2 3 4\n", b"start 1  2 3\n", b" start 1 2 3\n",
        b"start 1 2 3", b"start 1 2 3 \n", b"start 1 2 3\r\n", b"START 1 2 3\n", b"start 01 2 3\n", b"start -1 2 3\n",
        b"start +1 2 3\n", b"start 1.0 2 3\n", b"start 4294967295 2 3\n", b"start 1 4294967295 3\n",
        b"start 99999999999 2 3\n", b"start \xc2\xb2 2 3\n", b"start 1 2 3\x00\n", b"end\n", b"status 1\n",
        b"end ../../etc\n", b"status" + b" " * 300 + b"\n", b"\xff\xfe\n",
    ],
)  # fmt: skip
def test_bad_requests_are_refused(line: bytes) -> None:
    with pytest.raises(RequestError):
        protocol.parse(line)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused(line: bytes) -> None:
    try:
        protocol.parse(line)
    except RequestError:
        pass


@given(st.text(max_size=1000))
def test_replies_are_one_line_within_the_limit(sentence: str) -> None:
    for reply in (protocol.none("warn", "FILE:/tmp/krb5cc_5001_42", sentence), protocol.refused("code", sentence)):
        assert len(reply) <= protocol.REPLY_LIMIT and reply.count(b"\n") == 1 and reply.endswith(b"\n")
        reply.decode("utf-8")
    assert protocol.none("warn", "FILE:/tmp/krb5cc_5001_42", sentence).startswith(
        b"none warn FILE:/tmp/krb5cc_5001_42 "
    )


def test_replies() -> None:
    assert protocol.ok("FILE:/tmp/krb5cc_5001_42") == b"ok FILE:/tmp/krb5cc_5001_42\n"
    assert protocol.ok() == b"ok\n"
    assert protocol.none("require", None, "no\nticket") == b"none require - no ticket\n"
    assert protocol.refused("bad-request", "what?") == b"error bad-request what?\n"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("/tmp/krb5cc_%u_%j", "FILE:/tmp/krb5cc_5001_42"),
        ("FILE:/run/user/%u/krb5cc_%j", "FILE:/run/user/5001/krb5cc_42"),
        ("/tmp/%%u%j", "FILE:/tmp/%u42"),
        ("/tmp/%%%j", "FILE:/tmp/%42"),
        ("DIR:/run/user/%u/krb5cc_%j", "DIR:/run/user/5001/krb5cc_42"),
        ("KEYRING:persistent:%u:job-%j", "KEYRING:persistent:5001:job-42"),
        ("KEYRING:user:slurm:%j", "KEYRING:user:slurm:42"),
        ("KCM:%u:%j", "KCM:5001:42"),
    ],
)
def test_ccache_pattern(pattern: str, expected: str) -> None:
    assert CCachePattern(pattern).name(5001, 42) == expected


@pytest.mark.parametrize(
    "pattern",
    ["krb5cc_%j", "/tmp/krb5cc_%u", "/tmp/krb5cc_%%j", "/tmp/%x_%j", "/tmp/%j/", "/tmp/../%j", "/tmp//%j", "/tmp/%j%",
     "/" + "a" * 400 + "%j", "/tmp/a b%j", "/tmp/\n%j", "KEYRING:session:%j", "KEYRING:persistent:0:%j", "KCM:%j",
     "KCM:%u", "MEMORY:%j", "DIR:krb5cc_%j", "DIR:/tmp/krb5cc_%u", "KCM:%u:%j:x"],
)  # fmt: skip
def test_ccache_pattern_refused(pattern: str) -> None:
    with pytest.raises(ConfigError):
        CCachePattern(pattern)


GOOD = '[cache]\nservers = [{host = "head", port = 12345, principal = "auks/head@R"}]\n'


def read(tmp_path: Path, text: str) -> config.File:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return config.read(path)


def test_config_defaults(tmp_path: Path) -> None:
    file = read(tmp_path, GOOD)
    assert file.agent.ccache == "/tmp/krb5cc_%u_%j" and file.agent.policy == "warn"
    assert file.cache.servers[0].principal == "auks/head@R"


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ("[agent]\nwibble = 1\n", "wibble"),
        ('[agent]\npolicy = "maybe"\n', "maybe"),
        ('[agent]\nccache = "/tmp/x"\n', "%j"),
        ("[agent]\nminimum_uid = 0\n", "minimum_uid"),
        ("[agent]\npoll_s = 0\n", "poll_s"),
        ("[agent]\nanswer_s = -1\n", "answer_s"),
    ],
)
def test_config_mistakes_are_said(tmp_path: Path, extra: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read(tmp_path, GOOD + extra)


def test_config_needs_servers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cache"):
        read(tmp_path, "[agent]\n")
    with pytest.raises(ConfigError, match="empty"):
        read(tmp_path, "[cache]\nservers = []\n")
    with pytest.raises(ConfigError, match="70000"):
        read(tmp_path, GOOD.replace("12345", "70000"))


def test_host_principal() -> None:
    assert config.host_principal("host/c1@R") == "host/c1@R"
    assert config.host_principal(None).startswith("host/")
