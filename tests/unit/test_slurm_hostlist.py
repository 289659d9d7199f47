"""Hostlists as Slurm writes them; expected names are those of ``scontrol show hostnames`` (22.05, 24.11, 26.05)."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipercow_slurm.errors import ProtocolError
from hipercow_slurm.slurm.hostlist import MAX_NAMES, expand

LISTS = {
    "": [],
    "c1": ["c1"],
    "c[1-3,7]": ["c1", "c2", "c3", "c7"],
    "c1,c[2-3]": ["c1", "c2", "c3"],
    "a[08-11]": ["a08", "a09", "a10", "a11"],
    "a[8-11]": ["a8", "a9", "a10", "a11"],
    "a[001,02,3]": ["a001", "a02", "a3"],
    "a[098-101]": ["a098", "a099", "a100", "a101"],
    "a[98-101]": ["a98", "a99", "a100", "a101"],
    "gpu[01-03]-ib": ["gpu01-ib", "gpu02-ib", "gpu03-ib"],
    "rack[0-1]_blade[0-2]": [f"rack{r}_blade{b}" for r in (0, 1) for b in (0, 1, 2)],
    "b-1-[2-3],n1.x.y": ["b-1-2", "b-1-3", "n1.x.y"],
}


@pytest.mark.parametrize(("text", "names"), LISTS.items())
def test_expands_as_scontrol_does(text: str, names: list[str]) -> None:
    assert expand(text) == names


@pytest.mark.parametrize(
    "text",
    [
        *(
            ",",
            "c1,",
            ",c1",
            "c1,,c2",
            "c[",
            "c]",
            "c[]",
            "c[1",
            "c1]",
            "c[1-]",
            "c[-1]",
            "c[1-2-3]",
            "c[[1]]",
            "c[1,]",
        ),
        *("a[3-1]", "a[10-9]", "a[1-010]", "a[010-11]", "c 1", "c\n1", "c1|", "(null)", "c[1-2", "c[a-b]", "ü1"),
        "c[1-1234567890]",
        "x" + "[1-2]" * 40,
    ],
)
def test_refuses_what_is_no_hostlist(text: str) -> None:
    with pytest.raises(ProtocolError):
        expand(text)


@pytest.mark.parametrize("text", ["c[1-999999999]", "c[1-999][1-999][1-999][1-999]", "c[1-60000],d[1-60000]"])
def test_refuses_a_bomb_before_building_it(text: str) -> None:
    began = time.process_time()
    with pytest.raises(ProtocolError, match=f"more than {MAX_NAMES} names"):
        expand(text)
    assert time.process_time() - began < 0.5, "it was built first"


def test_the_limit_itself_is_allowed() -> None:
    assert len(expand("c[1-100000]")) == MAX_NAMES
    with pytest.raises(ProtocolError):
        expand("c[1-100000],d")


@given(st.text(alphabet="ac019[],-._ ", max_size=40))
def test_any_text_gives_names_or_a_protocol_error(text: str) -> None:
    try:
        names = expand(text, max_names=1000)
    except ProtocolError:
        return
    assert all(name and not set(name) & set("[], ") for name in names), (text, names)


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=30, unique=True), st.integers(1, 4))
def test_folding_then_expanding_gives_the_same_names(numbers: list[int], width: int) -> None:
    ranges = ",".join(f"{n:0{width}d}" for n in numbers)
    assert expand(f"n[{ranges}]-ib") == [f"n{n:0{width}d}-ib" for n in numbers]
