"""How the asynchronous client waits; ``sync/means.py`` is its blocking counterpart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")
AsyncCall = Callable[[], Awaitable[T]]

# anyio's: they work below asyncio and below trio. httpx stands on it, too.
AsyncLock = anyio.Lock
asleep = anyio.sleep


async def in_thread(call: Callable[[], T]) -> T:
    """The result of a call that blocks: a prompt, a keyring, a file."""
    return await anyio.to_thread.run_sync(call)
