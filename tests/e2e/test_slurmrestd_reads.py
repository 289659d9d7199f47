"""A request of which slurmrestd reads a part first: what it answers (``unit/test_slurm_rest.py``: we send it again)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hipercow_slurm.slurm import link
from hipercow_slurm.testing.sandbox.layout import PYTHON

if TYPE_CHECKING:
    from hipercow_slurm.testing.sandbox import Sandbox

pytestmark = pytest.mark.e2e

# Writes a request in two parts, the first of argv[1] bytes; prints whatever is answered.
PARTS = """
import socket, sys, time
request = sys.stdin.buffer.read()
with socket.socket(socket.AF_UNIX) as sock:
    sock.settimeout(10)
    sock.connect("/run/slurmrestd/rest.sock")
    sock.sendall(request[:int(sys.argv[1])])
    time.sleep(0.5)
    sock.sendall(request[int(sys.argv[1]):])
    sock.shutdown(socket.SHUT_WR)
    while data := sock.recv(65536):
        sys.stdout.buffer.write(data)
"""


def test_a_head_that_slurmrestd_reads_in_two_parts(sandbox: Sandbox) -> None:
    """26.05 reads so by itself now and then, and says it in the words that our client knows; 22.05 and 24.11 do not."""
    request = link.request("GET", "/openapi/v3", {"X-SLURM-USER-NAME": "alice", "X-SLURM-USER-TOKEN": "t" * 600}, None)
    done = sandbox.run("head", [PYTHON, "-c", PARTS, "512"], user="hcs-api", input=request.decode(), timeout=30)
    understood = done.stdout.startswith("HTTP/1.1 500 ") and link.NOT_READ.decode() in done.stdout
    assert understood or done.stdout.startswith("HTTP/1.1 400 BAD REQUEST"), done.stdout[:1000]
