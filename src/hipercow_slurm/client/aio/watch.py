"""Waiting for a job and following its output: polling that survives an API that is away for a while."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from hipercow_slurm.client.aio.calls import AsyncCalls
from hipercow_slurm.client.aio.means import AsyncCall, asleep
from hipercow_slurm.client.models import ENDED, LINGER_S, OUTAGE_S, POLL_S, JobInfo
from hipercow_slurm.errors import Error, RequestError, UnavailableError

T = TypeVar("T")


async def wait(
    calls: AsyncCalls,
    job_id: int,
    *,
    poll_s: float = POLL_S,
    outage_s: float = OUTAGE_S,
    timeout_s: float | None = None,
    on_progress: Callable[[JobInfo], object] | None = None,
    on_trouble: Callable[[Error], object] | None = None,
) -> JobInfo:
    """The job, once it has ended.

    Args:
        outage_s: how long the API may be unavailable before the wait gives up; ``on_trouble`` is told meanwhile.
        timeout_s: longest wait; None: for ever.
        on_progress: told of the job after each look.

    Raises:
        UnavailableError: "wait-timeout", or the API was away for too long.
    """
    patient = AsyncPatient(outage_s, poll_s, on_trouble)
    end = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        job = await patient.call(lambda: calls.job_info(job_id))
        if on_progress:
            on_progress(job)
        if job.ended:
            return job
        if end is not None and time.monotonic() + poll_s > end:
            raise UnavailableError(f"job {job_id} is still {job.state} after {timeout_s:g} s", code="wait-timeout")
        await asleep(poll_s)


async def follow(
    calls: AsyncCalls,
    job_id: int,
    *,
    stream: str = "stdout",
    offset: int = 0,
    poll_s: float = POLL_S,
    outage_s: float = OUTAGE_S,
    on_trouble: Callable[[Error], object] | None = None,
) -> AsyncIterator[bytes]:
    """The job's output from ``offset`` on as it grows, until the job has ended and nothing more comes.

    Raises:
        RequestError: "no-output": the job has ended and there is no file.
    """
    patient = AsyncPatient(outage_s, poll_s, on_trouble)
    tail = AsyncTail(calls, job_id, stream, offset)
    ended_at: float | None = None
    while True:
        data = await patient.call(tail.more)
        if data:
            yield data
            continue
        if (tail.state or (await patient.call(lambda: calls.job_info(job_id))).state) in ENDED:
            ended_at = ended_at or time.monotonic()
            if time.monotonic() - ended_at >= LINGER_S:
                if not tail.there:
                    raise RequestError(f"job {job_id} has ended and left no {stream}", code="no-output", status=404)
                return
        await asleep(min(poll_s, 1.0) if ended_at else poll_s)


class AsyncTail:
    """One stream of a job, read piece by piece; ``state`` is the job's at the last look, if it was told."""

    def __init__(self, calls: AsyncCalls, job_id: int, stream: str, offset: int = 0) -> None:
        self._calls, self._job_id, self._stream, self._offset = calls, job_id, stream, offset
        self.state: str | None = None
        self.there = False

    async def more(self) -> bytes:
        """What has been written since; nothing if nothing has."""
        while True:
            piece = await self._calls.output_piece(self._job_id, stream=self._stream, offset=self._offset)
            self.state, self.there = piece.state, piece.size is not None
            if piece.data or piece.size is None or piece.size >= self._offset:
                self._offset += len(piece.data)
                return piece.data
            # Written anew, by a requeued job for instance: what is there now is what there is to read.
            self._offset = 0


class AsyncPatient:
    """Repeats a call that only reads while the API is unavailable, up to ``outage_s`` in a row."""

    def __init__(self, outage_s: float, poll_s: float, on_trouble: Callable[[Error], object] | None) -> None:
        self._outage_s, self._poll_s, self._on_trouble = outage_s, poll_s, on_trouble

    async def call(self, ask: AsyncCall[T]) -> T:
        """The call's answer."""
        end = time.monotonic() + self._outage_s
        while True:
            try:
                return await ask()
            except UnavailableError as error:
                if time.monotonic() >= end:
                    raise
                if self._on_trouble:
                    self._on_trouble(error)
                await asleep(self._poll_s)
