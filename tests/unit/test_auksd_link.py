"""Frames between the processes of one daemon: whole, in order, however the kernel cuts them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipercow_slurm.auksd.link import MAX_PAYLOAD, Kind, Link
from hipercow_slurm.errors import InternalError

FRAMES = st.lists(st.tuples(st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.binary(max_size=40)), max_size=8)


class Pipe:
    """What a transport is to one that only writes."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


def said(frames: list[tuple[Kind, int, bytes]]) -> bytes:
    link, pipe = Link(lambda *_: None, lambda: None), Pipe()
    link.connection_made(pipe)  # type: ignore[arg-type]
    for frame in frames:
        link.send(*frame)
    return pipe.data


@given(FRAMES, st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_frames_come_out_as_they_went_in(frames: list[tuple[Kind, int, bytes]], cuts: list[int]) -> None:
    """Would have caught: a frame that is lost, or given out twice, when it comes in two reads."""
    found: list[tuple[int, int, bytes]] = []
    link = Link(lambda *frame: found.append(frame), lambda: None)
    data, turn = said(frames), 0
    while data:
        size = cuts[turn % len(cuts)]
        link.data_received(data[:size])
        data, turn = data[size:], turn + 1
    assert found == frames


def test_a_frame_that_is_no_frame_is_refused_by_its_length() -> None:
    """Would have caught: memory for whatever four bytes say."""
    with pytest.raises(InternalError):
        Link(lambda *_: None, lambda: None).data_received((MAX_PAYLOAD + 1).to_bytes(4, "big") + bytes(5))
