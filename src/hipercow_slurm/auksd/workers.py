"""A few threads for calls that block in C: NSS, the KDC, large encryptions.

Not concurrent.futures: its threads are joined at interpreter exit, so one stuck in a frozen KDC's time-out would hold
up a stop for half a minute. These are daemon threads and die with the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_Job = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class Workers:
    """``count`` threads that take calls in order.

    Args:
        count: how many calls may block at once.
        name: for thread lists.
        waiting: that wait for answers again and again, and nobody for them: when an answer comes they take the CPU from
            nobody who works (SCHED_BATCH), be it a request of a user, or a KDC on this machine with more to answer.
    """

    def __init__(self, count: int, name: str, *, waiting: bool = False) -> None:
        self._count = count
        self._waiting = waiting
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        for number in range(count):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of the call, made on one of the threads; a cancelled wait leaves the call running."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put((lambda: function(*args, **kwargs), loop, future))
        return await future

    def stop(self) -> None:
        """Let each thread end after the calls that are queued; waits for none."""
        for _ in range(self._count):
            self._jobs.put(None)

    def _work(self) -> None:
        if self._waiting:
            with contextlib.suppress(OSError):  # a sandbox that forbids it: it works as well, a little slower
                os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        while (job := self._jobs.get()) is not None:
            call, loop, future = job
            value: Any = None
            error: BaseException | None = None
            try:
                value = call()
            except BaseException as caught:  # the waiter decides, this thread goes on
                error = caught
            with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
                loop.call_soon_threadsafe(_resolve, future, value, error)
            del job, call, future, value, error  # nothing secret stays in an idle thread


def _resolve(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(value)
