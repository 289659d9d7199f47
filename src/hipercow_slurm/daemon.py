"""What every one of our long-running programs does the same way: run a coroutine until told to stop.

TERM and INT set the stop event; the program then finishes what it is doing within its own deadline and returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import signal
import socket
import sys
from collections.abc import Awaitable, Callable

from hipercow_slurm import log
from hipercow_slurm.errors import Error, InternalError

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4  # <linux/prctl.h>


def run(program: str, main: Callable[[asyncio.Event], Awaitable[None]], *, small: bool = False) -> None:
    """Run ``main(stop)`` to its end and exit: 0, or the error family's exit code after logging one line.

    Args:
        small: the program has little to do and many hosts run it; memory counts more than speed.
    """
    log.setup(program)
    protect_memory()
    try:
        with asyncio.Runner(loop_factory=None if small else _loop_factory()) as runner:
            runner.run(_run(main))
    except Error as error:
        log.get().error("daemon.failed", code=error.code, why=error.message, hint=error.hint)
        sys.exit(error.EXIT)


async def _run(main: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await main(stop)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed: the wire server costs a third less CPU on it."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def protect_memory() -> None:
    """No core dumps, and no tracing by the same user: the memory of our programs holds keys."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def die_with_parent(number: signal.Signals) -> None:
    """Have the kernel send us this signal when the process that started us is gone.

    Raises:
        InternalError: it is gone already, or the kernel refuses.
    """
    parent = os.getppid()
    if ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0) != 0 or parent != os.getppid():
        raise InternalError("the process that started this one is gone", code="bug")


def give_back_memory() -> None:
    """Return to the system what starting up needed and nothing needs any more (about 1 MB)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def ready() -> None:
    """Tell systemd (Type=notify) that the service answers now; silent without systemd."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.connect("\0" + address[1:] if address.startswith("@") else address)
        sock.sendall(b"READY=1")
