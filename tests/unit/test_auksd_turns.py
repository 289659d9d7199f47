"""Turns: all that came is decided before anything is said, and what is decided is in the log before that."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Iterator

import pytest
import structlog

from hipercow_slurm import log
from hipercow_slurm.auksd.turns import CHUNK, Turns

Events = list[str]


class Told(io.StringIO):
    """Standard error that keeps what was written in the order of all that happens."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self._events = events

    def write(self, text: str) -> int:
        self._events.extend(line.partition("event=")[2].strip() for line in text.splitlines())
        return len(text)


class Peer:
    """Decides one thing per step."""

    def __init__(self, number: int, turns: Turns, events: Events, *, rests: int = 0) -> None:
        self.number, self._turns, self._events, self._rests = number, turns, events, rests

    def step(self) -> None:
        self._events.append(f"step {self.number}")
        log.info("decided", {"by": self.number})
        said = self._turns.said
        if said is None:
            self.deliver(b"")
        else:
            said.append((self, b""))
        if self._rests:
            self._rests -= 1
            self._turns.add(self)

    def deliver(self, _data: bytes | bytearray | None) -> None:
        self._events.append(f"say {self.number}")


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[Events]:
    found: Events = []
    monkeypatch.setattr(sys, "stderr", Told(found))
    before = structlog.get_config()
    log.setup("test")
    yield found
    structlog.configure(**before)
    monkeypatch.setattr(log, "_write", None)


async def test_decided_then_logged_then_said(events: Events) -> None:
    turns = Turns()
    for number in range(3):
        turns.add(Peer(number, turns, events))
    assert not events, "a turn is a later one of the event loop's"
    await asyncio.sleep(0)
    decided = [f"decided by={number}" for number in range(3)]
    assert events == ["step 0", "step 1", "step 2", *decided, "say 0", "say 1", "say 2"]
    assert turns.said is None


async def test_one_alone_says_it_at_once(events: Events) -> None:
    turns = Turns()
    turns.add(Peer(7, turns, events))
    await asyncio.sleep(0)
    assert events == ["step 7", "decided by=7", "say 7"]


async def test_nobody_waits_for_more_than_a_chunk(events: Events) -> None:
    turns = Turns()
    for number in range(2 * CHUNK + 1):
        turns.add(Peer(number, turns, events))
    await asyncio.sleep(0)
    assert events.index("say 0") < events.index(f"step {CHUNK}"), events
    assert sum(event.startswith("say") for event in events) == 2 * CHUNK + 1


async def test_who_has_more_comes_after_the_others(events: Events) -> None:
    turns = Turns()
    turns.add(Peer(0, turns, events, rests=2))
    turns.add(Peer(1, turns, events))
    for _ in range(3):
        await asyncio.sleep(0)
    steps = [event for event in events if event.startswith("step")]
    assert steps == ["step 0", "step 1", "step 0", "step 0"], events
    assert events.index("say 1") < len(events) - 1 - events[::-1].index("step 0"), events


async def test_other_lines_keep_their_place(events: Events) -> None:
    """A warning in the midst of a turn comes after the decisions before it."""

    class Warns(Peer):
        def step(self) -> None:
            super().step()
            log.get().warning("odd", by=self.number)

    turns = Turns()
    for number in range(2):
        turns.add(Warns(number, turns, events))
    await asyncio.sleep(0)
    lines = [event for event in events if "by=" in event]
    assert lines == ["decided by=0", "odd by=0", "decided by=1", "odd by=1"], events
    assert events.index("odd by=1") < events.index("say 0")


async def test_a_bug_in_a_step_loses_nobodys_answer(events: Events) -> None:
    class Broken(Peer):
        def step(self) -> None:
            raise ZeroDivisionError

    turns = Turns()
    turns.add(Peer(0, turns, events))
    turns.add(Broken(1, turns, events))
    with pytest.raises(ZeroDivisionError):
        turns.run()
    assert events == ["step 0", "decided by=0", "say 0"]
    assert turns.said is None
