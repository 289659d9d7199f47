"""The head of an answer goes out with its body, or alone when there is none yet; never behind it, and never lost."""

from __future__ import annotations

import asyncio
from typing import cast

from hipercow_slurm.api.one_write import OneWrite


class Wire:
    """A transport that keeps what it was given."""

    def __init__(self) -> None:
        self.said: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.said.append(data)

    def close(self) -> None:
        self.said.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.said


def made() -> tuple[Wire, OneWrite]:
    wire = Wire()
    return wire, OneWrite(cast(asyncio.Transport, wire), asyncio.get_running_loop())


async def test_head_and_body_are_one_write() -> None:
    wire, answers = made()
    for number in (b"1", b"2"):
        answers.expecting = True
        answers.write(b"head" + number)
        answers.write(b"body" + number)
    await asyncio.sleep(0)
    assert wire.said == [b"head1body1", b"head2body2"]


async def test_a_head_does_not_wait_for_a_body_that_comes_later() -> None:
    """Would have caught: a stream of events whose client does not hear for minutes that it was accepted."""
    wire, answers = made()
    answers.expecting = True
    answers.write(b"head")
    await asyncio.sleep(0)
    assert wire.said == [b"head"]
    answers.write(b"event")
    assert wire.said == [b"head", b"event"]


async def test_the_next_request_of_a_pipeline_does_not_overtake() -> None:
    """Would have caught: a head that is lost because the next answer is expected already."""
    wire, answers = made()
    answers.expecting = True
    answers.write(b"head1")
    answers.expecting = True  # the next request was read meanwhile
    answers.write(b"body1")
    answers.write(b"head2")
    answers.write(b"body2")
    await asyncio.sleep(0)
    assert b"".join(cast(list[bytes], wire.said)) == b"head1body1head2body2"


async def test_nothing_is_lost_when_the_connection_is_closed() -> None:
    wire, answers = made()
    answers.expecting = True
    answers.write(b"head")
    answers.close()
    await asyncio.sleep(0)
    assert wire.said == [b"head", "closed"]
