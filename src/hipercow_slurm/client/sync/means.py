"""How the blocking client waits; ``aio/means.py`` is its asynchronous counterpart."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
Call = Callable[[], T]

Lock = threading.Lock
sleep = time.sleep


def directly(call: Callable[[], T]) -> T:
    """The result of a call."""
    return call()
