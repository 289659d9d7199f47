"""The benchmark's measure of CPU time counts what has ended: slurmctld's threads live for one request each."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

from hipercow_slurm.testing.bench import process

BURNT_S = 0.1
BURN = f"import time\nwhile time.process_time() < {BURNT_S}: pass"


def test_a_thread_that_has_ended_still_counts() -> None:
    """Would notice a sum over the threads that are left."""

    def burn() -> None:
        while time.thread_time() < BURNT_S:
            pass

    before = process.cpu_s(os.getpid())
    thread = threading.Thread(target=burn)
    thread.start()
    thread.join()
    used = process.cpu_s(os.getpid()) - before
    assert BURNT_S <= used < BURNT_S * 20, used


def test_a_child_that_was_waited_for_counts() -> None:
    """Would notice a program whose work is done by children of a moment."""
    before = process.cpu_s(os.getpid())
    subprocess.run([sys.executable, "-I", "-c", BURN], check=True)
    used = process.cpu_s(os.getpid()) - before
    assert BURNT_S - 0.01 <= used < BURNT_S * 20, used  # ticks of 10 ms


def test_a_child_that_still_runs_counts_once() -> None:
    """Would notice one that counts as itself and as its parent's."""
    before = process.cpu_s(os.getpid())
    child = subprocess.Popen([sys.executable, "-I", "-c", f"{BURN}\nprint(flush=True)\ninput()"], stdin=-1, stdout=-1)
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        alive = process.cpu_s(os.getpid()) - before
        child.communicate(b"\n")
    ended = process.cpu_s(os.getpid()) - before
    assert BURNT_S <= alive <= ended + 0.01 and ended < BURNT_S * 20, (alive, ended)


def test_a_process_that_is_gone_has_used_nothing() -> None:
    """A service may end between the list of processes and the look at it."""
    child = subprocess.Popen(["/bin/true"])
    child.wait()
    assert process.cpu_s(child.pid) == 0
