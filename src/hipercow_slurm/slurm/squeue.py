"""One question to slurmctld through ``squeue``: who has which nodes now. The argv, the run, the parse.

Measured on Slurm 22.05 (the argv and every state in it are also accepted by 24.11 and 26.05):
- a job of an array, and each component of a heterogeneous job, has its own line, with its own ``%A`` and ``%N``;
- ``%N`` is empty while a job is pending, shrinks while it is COMPLETING to the nodes that are not done, and **keeps the
  nodes of a job that has ended** (shown for MinJobAge): states decide, not nodes;
- slurmctld gone: exit 1 after 9 s; slurmctld stuck: exit 1 after 10 s, hence our own deadline;
- ``PrivateData=jobs`` hides other users' jobs from an ordinary account by an empty answer **with exit 0**
  (see ``blindness``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hipercow_slurm.errors import ProtocolError, UnavailableError
from hipercow_slurm.slurm import hostlist

# The job's processes, or what is left of them, may be on the nodes in %N: its ticket is wanted there.
HOLDING = frozenset(
    {"RUNNING", "SUSPENDED", "CONFIGURING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED"}
)
# No node, but the job is still to come, so its owner is not to be forgotten.
WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
ENDED = frozenset(
    {
        *("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE"),
        *("OUT_OF_MEMORY", "REVOKED"),
    }
)

# --local: a federation's other clusters have nodes of the same names. -a: partitions hidden from us too.
# No widths in the format: squeue cuts at a width.
ARGUMENTS = (
    *("--noheader", "--all", "--local"),
    f"--states={','.join(sorted(HOLDING | WAITING))}",
    "--format=%U|%T|%A|%N",
)
# What squeue needs of our environment; SQUEUE_* and SLURM_* would change its answer.
KEEP_ENV = ("PATH", "SLURM_CONF", "SLURM_JWT", "LD_LIBRARY_PATH")

_LINE = re.compile(r"(?P<uid>[0-9]{1,10})\|(?P<state>[A-Z_]{1,32})\|(?P<job>[0-9]{1,10})\|(?P<nodes>\S*)", re.ASCII)
_STDERR_LIMIT = 4096
_MAX_JOB_NODES = 5_000_000


@dataclass(frozen=True, repr=False)
class JobTable:
    """What slurmctld said at one moment.

    Attributes:
        uids: everyone with a job, pending or not.
        jobs: number of lines.
        unknown_states: states this version of ours has no opinion on; they hold no node, but count for ``uids``.
    """

    uids: frozenset[int] = frozenset()
    jobs: int = 0
    unknown_states: frozenset[str] = frozenset()
    held: Mapping[int, frozenset[str]] = field(default_factory=dict)
    names: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<JobTable {self.jobs} jobs of {len(self.uids)} uids>"

    def holds(self, uid: int, node: str) -> bool:
        """Whether a job of ``uid`` has ``node``."""
        return any(node in self.names[nodes] for nodes in self.held.get(uid, ()))


def parse(text: str, *, before: JobTable | None = None) -> JobTable:
    """Read squeue's answer to ``ARGUMENTS``; ``before`` saves expanding hostlists it already has.

    Raises:
        ProtocolError: a line that is not in the format: then nothing of the answer is trusted. No field of it is
            the user's to choose, so no user can cause that.
    """
    known: Mapping[str, frozenset[str]] = before.names if before else {}
    uids: set[int] = set()
    unknown: set[str] = set()
    held: dict[int, set[str]] = {}
    names: dict[str, frozenset[str]] = {}
    lines = text.splitlines()
    room = _MAX_JOB_NODES
    for number, line in enumerate(lines, start=1):
        match = _LINE.fullmatch(line)
        if match is None or int(match["uid"]) > 0xFFFFFFFF:
            raise ProtocolError(f"squeue's answer, line {number}: cannot read {line[:80]!r}", code="squeue-malformed")
        uid, state, nodes = int(match["uid"]), match["state"], match["nodes"]
        if state in ENDED:
            continue
        uids.add(uid)
        if state in HOLDING and nodes:
            if nodes not in names:
                names[nodes] = known.get(nodes) or frozenset(hostlist.expand(nodes))
                room -= len(names[nodes])
            held.setdefault(uid, set()).add(nodes)
        elif state not in HOLDING and state not in WAITING:
            unknown.add(state)
        if room < 0:
            raise ProtocolError(f"squeue's answer names more than {_MAX_JOB_NODES} nodes", code="squeue-malformed")
    return JobTable(
        uids=frozenset(uids),
        jobs=len(lines),
        unknown_states=frozenset(unknown),
        held={uid: frozenset(lists) for uid, lists in held.items()},
        names=names,
    )


def blindness(config_text: str, euid: int) -> str | None:
    """Why this account sees only its own jobs, from ``scontrol show config``'s text, or None if it sees all.

    With slurmdbd an account of AdminLevel Operator sees all; that cannot be read from the configuration, so the
    sentence says it.
    """
    settings = dict(re.findall(r"^(\S+)\s*= (.*)$", config_text, flags=re.MULTILINE))
    slurm_user = re.search(r"\((\d+)\)", settings.get("SlurmUser", ""))
    hidden = re.split(r"[,\s]+", settings.get("PrivateData", "").lower())
    if not {"jobs", "all"} & set(hidden) or euid == 0 or (slurm_user and int(slurm_user[1]) == euid):
        return None
    return (
        f"PrivateData={settings['PrivateData'].strip()} hides other users' jobs from uid {euid}: "
        "make its account a Slurm Operator and set oracle.sees_all = true, "
        "or let the oracle's command run squeue as SlurmUser"
    )


async def run(argv: Sequence[str], *, timeout_s: float, limit_bytes: int) -> str:
    """Run a Slurm command and return its standard output, ASCII.

    Raises:
        UnavailableError: it cannot be started, takes longer than ``timeout_s`` (it is killed), or exits non-zero.
        ProtocolError: it says more than ``limit_bytes`` (it is killed), or something that is not ASCII.
    """
    name = Path(argv[0]).name
    env = {key: value for key, value in os.environ.items() if key in KEEP_ENV} | {"LC_ALL": "C"}
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
    except OSError as error:
        raise UnavailableError(f"cannot run {argv[0]}: {error.strerror}", code="scheduler-unreachable") from error
    assert process.stdout is not None and process.stderr is not None
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await asyncio.gather(_read(process.stdout, limit_bytes), _read(process.stderr, None))
            status = await process.wait()
    except TimeoutError as error:
        raise UnavailableError(
            f"{name} gave no answer in {timeout_s:g} s: slurmctld is down or busy", code="scheduler-unreachable"
        ) from error
    finally:
        await _end(process)
    if status != 0:
        said = " ".join(err.decode("ascii", "replace").split())[-300:]
        raise UnavailableError(f"{name} failed (exit {status}): {said}", code="scheduler-unreachable")
    try:
        return out.decode("ascii")
    except UnicodeDecodeError as error:
        raise ProtocolError(f"{name}'s answer is not ASCII", code="squeue-malformed") from error


async def _read(stream: asyncio.StreamReader, limit: int | None) -> bytes:
    """All of a stream: over ``limit`` an error; with no limit the last few kilobytes."""
    data = bytearray()
    while chunk := await stream.read(65536):
        data += chunk
        if limit is None:
            del data[:-_STDERR_LIMIT]
        elif len(data) > limit:
            raise ProtocolError(f"squeue's answer is longer than {limit} bytes", code="squeue-malformed")
    return bytes(data)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Leave nothing behind, whatever ended the reading; a wrapper such as sudo takes its child along."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    # a process that ignores even that (sudo to another user) must not hold the oracle
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), 1.0)
