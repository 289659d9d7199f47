"""Dirty pages of a job on a Kerberized kernel mount: with ``sync=yes`` they are on the server before the ticket goes.

What is written through a mapping stays in the page cache after the process has ended (the kernel's NFS client flushes
at close, not at the end of a mapping) until the kernel gets round to it, half a minute later. Without a ticket it
cannot.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from kernel_cluster import UID, Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("kernel")]

NODE, PLUGSTACK = "k1", "/etc/slurm/plugstack.conf.d/hipercow-slurm.conf"
PAGES = 64
Proof = Callable[[str, object], None]

# The file is closed before the first byte is written, so that closing it flushes nothing. Not Python's own mmap: that
# keeps a descriptor, which is closed at the end.
WRITE = """\
import ctypes, os
libc, size = ctypes.CDLL(None), {pages} * 4096
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
file = os.open("{path}", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
os.ftruncate(file, size)
mapped = libc.mmap(None, size, 3, 1, file, 0)  # PROT_READ | PROT_WRITE, MAP_SHARED
os.close(file)
for page in range({pages}):
    ctypes.memmove(mapped + page * 4096, b"result", 6)
os._exit(0)
"""


def at_server(cluster: Cluster, name: str) -> int:
    """How many pages of the job's file have reached the file server."""
    done = cluster.sandbox.run("files", ["grep", "-ao", "result", f"/srv/data/alice/{name}"], check=False)
    return len(done.stdout.split())


def run_job(cluster: Cluster, name: str) -> int:
    """A job that leaves dirty pages; the pages at the server when it is over and its ticket removed."""
    program = WRITE.format(path=f"/data/alice/{name}", pages=PAGES)
    job = cluster.alice.sbatch(
        f"#!/bin/bash\npython3 - <<'END'\n{program}END\n", "-w", NODE, "-o", f"/home/alice/{name}.out"
    )
    cluster.operator.job_ended(job, within_s=120)
    cluster.nothing_left(NODE, job, UID["alice"])
    return at_server(cluster, name)


@pytest.fixture
def lazy_kernel(cluster: Cluster) -> Iterator[None]:
    """The kernel writes nothing back by itself meanwhile: only what somebody asks for reaches the server."""
    names = {"dirty_writeback_centisecs": "0", "dirty_expire_centisecs": "360000"}
    before = {name: cluster.on(NODE, "cat", f"/proc/sys/vm/{name}").stdout.strip() for name in names}
    for name, value in names.items():
        cluster.on(NODE, "sh", "-c", f"echo {value} > /proc/sys/vm/{name}", check=True)
    yield
    for name, value in before.items():
        cluster.on(NODE, "sh", "-c", f"echo {value} > /proc/sys/vm/{name}", check=True)


def test_what_the_job_wrote_is_on_the_server_when_its_ticket_goes(
    cluster: Cluster, lazy_kernel: None, proof: Proof
) -> None:
    """Would have caught a sync that runs after the agent has removed the ticket, or not at all."""
    plain = cluster.sandbox.read(NODE, PLUGSTACK)
    assert "sync=" not in plain, plain
    stamp = time.monotonic_ns()
    assert run_job(cluster, f"lazy-{stamp}") < PAGES, "this test proves nothing: the kernel wrote by itself"
    cluster.sandbox.run(NODE, ["tee", PLUGSTACK], input=plain.rstrip("\n") + " sync=yes\n")
    try:
        assert run_job(cluster, f"synced-{stamp}") == PAGES, cluster.on(NODE, "tail", "-5", PLUGSTACK).stdout
    finally:
        cluster.sandbox.run(NODE, ["tee", PLUGSTACK], input=plain)
    proof(f"sync=yes, {PAGES} dirty pages of a mapping", "all at the server when the job's ticket was removed")
