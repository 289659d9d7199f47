"""Log lines: one event is one line, and every value can be read back."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime

import pytest

from hipercow_slurm import log
from hipercow_slurm.log import logfmt


def line(**fields: object) -> str:
    return logfmt(
        None, "info", {"why": "-", **fields, "event": "part.what", "ts": "T", "level": "info", "program": "p"}
    )


def test_the_head_comes_first_and_the_rest_in_order() -> None:
    """People and greps rely on the order; a processor that adds a key late must not change it."""
    assert line(uid=7, result="ok") == "ts=T level=info program=p event=part.what why=- uid=7 result=ok"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (True, "true"), (False, "false"), (1.5, "1.5"), ("", '""'), ("a b", '"a b"'), ("a=b", '"a=b"')],
)
def test_values(value: object, text: str) -> None:
    assert line(value=value).endswith(f" value={text}")


@pytest.mark.parametrize("value", ['say "x"', "back\\slash", 'both \\" of them', "a=b c"])
def test_quoted_values_read_back(value: str) -> None:
    """A shell's rules undo the quotes: nothing is lost, and nothing after the value becomes part of it."""
    assert shlex.split(line(value=value, last="z"))[-2:] == [f"value={value}", "last=z"]


@pytest.mark.parametrize("value", ["one\ntwo level=error", "\rover", "\x1b[2Jgone", "a\u2028b", "nul\0"])
def test_a_peers_text_cannot_make_a_line_or_move_the_cursor(value: str) -> None:
    """Principals and error texts come from peers: a forged second line would look like ours."""
    written = line(value=value)
    assert written.isprintable(), repr(written)


def test_moments_are_those_of_the_calendar() -> None:
    """Also when the clock is set back, within a second and over its end."""
    for now in (0.0, 1_772_330_400.0, 1_772_330_400.5, 1_772_330_399.999999, 1_772_330_400.25, 951_782_399.75):
        said = datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds")
        assert log.moment(now) == said.replace("+00:00", "Z"), now
