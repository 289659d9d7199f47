"""Waiting for a job and following its output: polling that survives an API that is away for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from hipercow_slurm.client.http import Client
from hipercow_slurm.client.models import ENDED, Job
from hipercow_slurm.errors import Error, RequestError, UnavailableError

T = TypeVar("T")

POLL_S = 2.0
OUTAGE_S = 900.0
# A node writes its last bytes to the share when the file is closed, which Slurm does not wait for.
LINGER_S = 2.0


def wait(
    client: Client,
    job_id: int,
    *,
    poll_s: float = POLL_S,
    outage_s: float = OUTAGE_S,
    seen: Callable[[Job], None] | None = None,
    trouble: Callable[[Error], None] | None = None,
) -> Job:
    """The job, once it has ended.

    Args:
        outage_s: how long the API may be unavailable before the wait gives up; ``trouble`` is told meanwhile.
        seen: told of the job after each look.
    """
    patient = _Patient(outage_s, poll_s, trouble)
    while True:
        job = patient.call(lambda: client.job(job_id))
        if seen:
            seen(job)
        if job.ended:
            return job
        time.sleep(poll_s)


def follow(
    client: Client,
    job_id: int,
    *,
    stream: str = "stdout",
    offset: int = 0,
    poll_s: float = POLL_S,
    outage_s: float = OUTAGE_S,
    trouble: Callable[[Error], None] | None = None,
) -> Iterator[bytes]:
    """The job's output from ``offset`` on as it grows, until the job has ended and nothing more comes.

    Raises:
        RequestError: "no-output": the job has ended and there is no file.
    """
    patient = _Patient(outage_s, poll_s, trouble)
    ended_at: float | None = None
    while True:
        piece = patient.call(lambda at=offset: client.output(job_id, stream=stream, offset=at))  # type: ignore[misc]
        if piece.data:
            offset += len(piece.data)
            yield piece.data
            continue
        if piece.size is not None and piece.size < offset:
            # Written anew, by a requeued job for instance: what is there now is what there is to read.
            offset = 0
            continue
        if (piece.state or patient.call(lambda: client.job(job_id)).state) in ENDED:
            ended_at = ended_at or time.monotonic()
            if time.monotonic() - ended_at >= LINGER_S:
                if piece.size is None:
                    raise RequestError(f"job {job_id} has ended and left no {stream}", code="no-output", status=404)
                return
        time.sleep(min(poll_s, 1.0) if ended_at else poll_s)


class _Patient:
    """Repeats a call that only reads while the API is unavailable, up to ``outage_s`` in a row."""

    def __init__(self, outage_s: float, poll_s: float, trouble: Callable[[Error], None] | None) -> None:
        self._outage_s, self._poll_s, self._trouble = outage_s, poll_s, trouble

    def call(self, ask: Callable[[], T]) -> T:
        end = time.monotonic() + self._outage_s
        while True:
            try:
                return ask()
            except UnavailableError as error:
                if time.monotonic() >= end:
                    raise
                if self._trouble:
                    self._trouble(error)
                time.sleep(self._poll_s)
