"""A job in the hands of whoever submitted it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from hipercow_slurm.client.aio import watch
from hipercow_slurm.client.aio.calls import AsyncCalls
from hipercow_slurm.client.models import POLL_S, Credential, JobInfo
from hipercow_slurm.errors import Error

__all__ = ["AsyncJob"]


class AsyncJob:
    """A job; ``info`` is what was last heard of it, and the other properties are taken from there."""

    def __init__(self, calls: AsyncCalls, info: JobInfo) -> None:
        self._calls, self.info = calls, info

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.job_id} {self.name!r} {self.state}>"

    @property
    def job_id(self) -> int:
        """Slurm's number of it."""
        return self.info.job_id

    @property
    def name(self) -> str:
        """Its name."""
        return self.info.name

    @property
    def state(self) -> str:
        """Slurm's word: PENDING, RUNNING, COMPLETED, FAILED, CANCELLED, TIMEOUT, ..."""
        return self.info.state

    @property
    def ended(self) -> bool:
        """Nothing more will happen to it."""
        return self.info.ended

    @property
    def exit_status(self) -> int | None:
        """As a shell would have it, once it has ended: its own, 128 + signal, 1 for an end without either."""
        return self.info.exit_status if self.ended else None

    @property
    def credential(self) -> Credential:
        """Its owner's ticket: until when it is good, and whether that covers the job."""
        return self.info.credential

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the API had to say when the job was submitted."""
        return self.info.warnings

    async def refresh(self) -> JobInfo:
        """Look at it again."""
        return self._heard(await self._calls.job_info(self.job_id))

    async def wait(
        self,
        *,
        timeout_s: float | None = None,
        poll_s: float = POLL_S,
        on_progress: Callable[[JobInfo], object] | None = None,
        on_trouble: Callable[[Error], object] | None = None,
    ) -> JobInfo:
        """Wait for its end, also through a quarter of an hour without the API.

        Args:
            timeout_s: longest wait; None: for ever.
            on_progress: told of the job after each look; ``on_trouble``: of what keeps us from looking.

        Raises:
            UnavailableError: "wait-timeout", or the API was away for too long.
        """
        return self._heard(
            await watch.wait(
                self._calls,
                self.job_id,
                timeout_s=timeout_s,
                poll_s=poll_s,
                on_progress=on_progress,
                on_trouble=on_trouble,
            )
        )

    def follow(
        self,
        stream: str = "stdout",
        *,
        poll_s: float = POLL_S,
        on_trouble: Callable[[Error], object] | None = None,
    ) -> AsyncIterator[bytes]:
        """Its output, piece by piece as it grows, until it has ended. RequestError "no-output"."""
        return watch.follow(
            self._calls,
            self.job_id,
            stream=stream,
            poll_s=poll_s,
            on_trouble=on_trouble,
        )

    async def output(self, stream: str = "stdout") -> str:
        """All it has written so far, as text (UTF-8, wrong bytes replaced); ``stream`` may be ``stderr``.

        Of a job that has ended this is complete. RequestError "no-output": it has ended and there is no file.
        """
        return (await self.output_bytes(stream)).decode("utf-8", "replace")

    async def output_bytes(self, stream: str = "stdout") -> bytes:
        """The same, as it is."""
        found = b""
        if self.ended:
            async for data in self.follow(stream, poll_s=0.5):
                found += data
            return found
        while True:
            piece = await self._calls.output_piece(self.job_id, stream=stream, offset=len(found))
            found += piece.data
            if not piece.data or len(found) >= (piece.size or 0):
                return found

    async def cancel(self) -> None:
        """End it."""
        await self._calls.cancel(self.job_id)

    async def hold(self) -> JobInfo:
        """Keep it from starting. SchedulerError "change-refused"."""
        return self._heard(await self._calls.hold(self.job_id))

    async def release(self) -> JobInfo:
        """Let it go. SchedulerError "change-refused"."""
        return self._heard(await self._calls.release(self.job_id))

    def _heard(self, info: JobInfo) -> JobInfo:
        self.info = info
        return info
