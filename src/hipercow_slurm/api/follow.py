"""A job's output as it grows, as server-sent events (HTML standard, section 9.2).

Events: ``state`` {"state"}, ``output`` {"offset","text"} (or "base64"), ``end`` {"state","exit_code","signal"},
``problem`` (problem+json; the last). The id of an ``output`` event is the offset after it: a client that comes back
with ``Last-Event-ID`` misses nothing and gets nothing twice. A file that is written anew begins with offset 0 again.
"""

from __future__ import annotations

import asyncio
import base64
import codecs
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec

from hipercow_slurm.api import problems
from hipercow_slurm.api.jobs import Jobs
from hipercow_slurm.api.output import Outputs, Stream
from hipercow_slurm.api.session import Session
from hipercow_slurm.api.sessions import Sessions
from hipercow_slurm.errors import Error, UnavailableError
from hipercow_slurm.slurm.model import Job

_POLL_S, _IDLE_S = 0.7, 3.0
_QUIET_S = 15.0  # proxies close connections on which nothing moves
_LINGER_S = 3.0  # a node's last bytes reach the share some time after Slurm says that the job has ended
_PATIENCE_S = 120.0  # for a scheduler or file server that is away
_PIECE = 256 * 1024
_AGAIN_S = 5.0  # who follows too many may try again after this time


@dataclass(frozen=True, slots=True)
class Asked:
    """What to follow: ``offset`` in bytes; ``exact``: as base64 instead of text."""

    job_id: int
    stream: Stream
    offset: int
    exact: bool


class Followers:
    """All live streams of this process: there may be ``most``, and ``per_user`` of one user."""

    def __init__(self, most: int, per_user: int, jobs: Jobs, outputs: Outputs, sessions: Sessions) -> None:
        self._places = most
        self._per_user = per_user
        self._of: Counter[str] = Counter()  # principal -> live streams
        self._jobs = jobs
        self._outputs = outputs
        self._sessions = sessions

    async def follow(self, session: Session, asked: Asked) -> AsyncIterator[bytes]:
        """The events, once the job is known.

        Raises:
            ThrottledError, UnavailableError: ``too-many-followers``: of this user, or in all.
            SchedulerError: ``no-such-job``.
        """
        job = await self._jobs.find(session, asked.job_id)
        if self._of[session.principal] >= self._per_user:
            raise problems.ThrottledError(
                f"you follow {self._per_user} outputs already, which is as many as one user may",
                code="too-many-followers",
                retry_after_s=_AGAIN_S,
                hint="end one of them, or poll with Range",
            )
        if self._places <= 0:
            raise UnavailableError(
                "the service follows as many outputs as it can", code="too-many-followers", hint="poll with Range"
            )
        events = self._events(session, asked, job)
        await anext(events)  # takes the place now: many that come at once would all find it free
        return events

    async def _events(self, session: Session, asked: Asked, job: Job) -> AsyncGenerator[bytes, None]:
        """One empty piece once it has its place, then the events."""
        self._places -= 1
        self._of[session.principal] += 1
        try:
            yield b""
            async for event in self._looks(session, asked, job):
                yield event
        except Error as error:
            yield b"event: problem\ndata: " + bytes(problems.response(error).body) + b"\n\n"
        finally:
            self._places += 1
            self._of[session.principal] -= 1
            if not self._of[session.principal]:
                del self._of[session.principal]

    async def _looks(self, session: Session, asked: Asked, job: Job) -> AsyncIterator[bytes]:
        """Look, tell what is new, wait; until the job has ended and nothing more comes."""
        text = Text(asked.offset, exact=asked.exact)
        state, ended_at, told, well = "", 0.0, time.monotonic(), time.monotonic()
        pause = _POLL_S
        while True:
            data = b""
            try:
                session = await self._sessions.resume(session)
                job = await self._jobs.find(session, asked.job_id)
                data, size = await self._outputs.tail(job, asked.stream, session.cred, text.at, _PIECE)
                if size is not None and size < text.at:
                    # Written anew, by a requeued job for instance: what is there now is what there is to read.
                    text = Text(0, exact=asked.exact)
                    continue
                well = time.monotonic()
            except UnavailableError:
                if time.monotonic() - well > _PATIENCE_S:
                    raise
            events = [_event("state", {"state": job.state})] if job.state != state else []
            state = job.state
            events += text.take(data)
            if job.ended and not data:
                ended_at = ended_at or time.monotonic()
                if time.monotonic() - ended_at >= _LINGER_S:
                    outcome = {"state": job.state, "exit_code": job.exit_code, "signal": job.signal}
                    yield b"".join([*events, *text.rest(), _event("end", outcome)])
                    return
            if not events and time.monotonic() - told > _QUIET_S:
                events = [b": nothing new\n\n"]
            if events:
                told = time.monotonic()
                yield b"".join(events)
            pause = _POLL_S if data or ended_at else min(_IDLE_S, pause * 1.3)
            if len(data) < _PIECE:
                await asyncio.sleep(pause)


class Text:
    """Bytes to ``output`` events; a character that is not complete yet waits for its rest."""

    def __init__(self, offset: int, *, exact: bool) -> None:
        self.at = self._told = offset
        self._exact = exact
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def take(self, data: bytes) -> list[bytes]:
        """The events for these bytes, which begin at ``at``."""
        self.at += len(data)
        if self._exact:
            return self._output({"base64": base64.b64encode(data).decode()}, self.at) if data else []
        text = self._decoder.decode(data)
        return self._output({"text": text}, self.at - len(self._decoder.getstate()[0])) if text else []

    def rest(self) -> list[bytes]:
        """What still waits, at the end."""
        text = "" if self._exact else self._decoder.decode(b"", final=True)
        return self._output({"text": text}, self.at) if text else []

    def _output(self, content: dict[str, str], end: int) -> list[bytes]:
        begin, self._told = self._told, end
        return [_event("output", {"offset": begin, **content}, number=end)]


def _event(kind: str, content: dict[str, Any], *, number: int | None = None) -> bytes:
    head = f"id: {number}\n" if number is not None else ""
    # JSON has no line ends of its own, which would end the field.
    return f"event: {kind}\n{head}data: ".encode() + msgspec.json.encode(content) + b"\n\n"
