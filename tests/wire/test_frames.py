"""Frames: whole, byte by byte, too long, cut off."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipercow_slurm.errors import ProtocolError
from hipercow_slurm.wire.frames import MAX_FRAME, FrameBuffer, frame


@given(st.lists(st.binary(max_size=50), max_size=6), st.integers(1, 20))
def test_frames_come_back_in_any_slicing(bodies, size):
    stream = b"".join(frame(body) for body in bodies)
    buffer, seen = FrameBuffer(), []
    for at in range(0, len(stream), size):
        buffer.receive(stream[at : at + size])
        while (body := buffer.frame()) is not None:
            seen.append(body)
    buffer.receive(b"")
    assert seen == bodies
    assert buffer.frame() is None
    assert buffer.ended


@pytest.mark.parametrize("length", [MAX_FRAME + 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_long_frames_are_refused_by_their_length_alone(length):
    buffer = FrameBuffer()
    buffer.receive(length.to_bytes(4, "big"))
    with pytest.raises(ProtocolError) as caught:
        buffer.frame()
    assert caught.value.code == "wire-too-long"


def test_the_limit_itself_is_legal_and_length_zero_too():
    buffer = FrameBuffer(10)
    buffer.receive(frame(b"x" * 10) + frame(b""))
    assert buffer.frame() == b"x" * 10
    assert buffer.frame() == b""


@pytest.mark.parametrize("cut", [1, 3, 4, 6])
def test_a_stream_that_stops_inside_a_frame(cut):
    buffer = FrameBuffer()
    buffer.receive(frame(b"abc")[:cut])
    assert buffer.frame() is None
    buffer.receive(b"")
    with pytest.raises(ProtocolError) as caught:
        buffer.frame()
    assert caught.value.code == "wire-truncated"
    assert not buffer.ended


def test_octets_and_frames_share_the_stream():
    buffer = FrameBuffer()
    assert buffer.octet() is None
    buffer.receive(b"\x00" + frame(b"ab"))
    assert buffer.octet() == 0
    assert buffer.frame() == b"ab"
