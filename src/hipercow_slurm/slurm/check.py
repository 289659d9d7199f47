"""What we refuse before Slurm sees it, because slurmrestd would accept the job and it would fail later.

sbatch makes some of these checks itself; slurmrestd (measured: 22.05.8) makes none of them: a script without
``#!`` or without a working directory is accepted and the job fails on the node, where its owner cannot see why.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from hipercow_slurm.errors import ProtocolError, RequestError
from hipercow_slurm.slurm.check_forms import check_forms
from hipercow_slurm.slurm.hostlist import expand
from hipercow_slurm.slurm.model import JobSpec

SCRIPT_LIMIT = 3 * 1024 * 1024  # bytes; Slurm 22.05 takes 3 MiB and refuses 4 MiB
TEXT_LIMIT = 1024
PATH_LIMIT = 4096
ENVIRONMENT_LIMIT = 256 * 1024  # bytes of all names and values; execve's own limit is 128 KiB for a single one
NUMBER_LIMIT = 2**31 - 1  # above, Slurm's own special values (NO_VAL, INFINITE) begin
SMALL_LIMIT = 65533  # 16 bits in Slurm, without its special values
NODES_LIMIT = 10_000  # names in a nodelist
TIME_LIMIT = 366 * 24 * 60  # minutes; Slurm itself cuts off at a year

MAIL_TYPES = (
    *("NONE", "BEGIN", "END", "FAIL", "REQUEUE", "ALL", "INVALID_DEPEND", "STAGE_OUT", "ARRAY_TASKS"),
    *("TIME_LIMIT", "TIME_LIMIT_90", "TIME_LIMIT_80", "TIME_LIMIT_50"),
)

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
ARRAY_PART = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9})(?::([0-9]{1,9}))?)?")

# Variables that belong to the node (KRB5CCNAME, SLURM_*) or that change what runs before the script's first line.
RESERVED_NAMES = frozenset({"KRB5CCNAME", "BASH_ENV"})
RESERVED_PREFIXES = ("SLURM_", "SLURMD_", "SPANK_", "LD_")


_TEXTS = {  # and how many bytes they may have
    "name": TEXT_LIMIT,
    "partition": TEXT_LIMIT,
    "account": TEXT_LIMIT,
    "qos": TEXT_LIMIT,
    "comment": TEXT_LIMIT,
    "gpus": TEXT_LIMIT,
    "gpus_per_node": TEXT_LIMIT,
    "gpus_per_task": TEXT_LIMIT,
    "gres": TEXT_LIMIT,
    "licenses": TEXT_LIMIT,
    "constraint": TEXT_LIMIT,
    "nodelist": PATH_LIMIT,
    "dependency": PATH_LIMIT,
    "reservation": TEXT_LIMIT,
    "input": PATH_LIMIT,
    "mail_type": TEXT_LIMIT,
    "mail_user": TEXT_LIMIT,
    "exclude": PATH_LIMIT,
    "prefer": TEXT_LIMIT,
    "cluster_constraint": TEXT_LIMIT,
    "gpus_per_socket": TEXT_LIMIT,
    "burst_buffer": TEXT_LIMIT,
    "wckey": TEXT_LIMIT,
    "mcs_label": TEXT_LIMIT,
    "output": PATH_LIMIT,
    "error": PATH_LIMIT,
}
_NUMBERS = {  # from 1, or _LEAST, to this
    "nodes": NUMBER_LIMIT,
    "tasks": NUMBER_LIMIT,
    "nodes_at_most": NUMBER_LIMIT,
    "cpus_per_task": SMALL_LIMIT,
    "memory_mb": NUMBER_LIMIT,
    "time_limit_min": TIME_LIMIT,
    "tasks_per_node": SMALL_LIMIT,
    "tasks_per_socket": SMALL_LIMIT,
    "tasks_per_core": 65535,  # sbatch's for --hint=multithread
    "tasks_per_gpu": SMALL_LIMIT,
    "cpus_per_gpu": SMALL_LIMIT,
    "minimum_cpus_per_node": SMALL_LIMIT,
    "sockets_per_node": SMALL_LIMIT,
    "cores_per_socket": SMALL_LIMIT,
    "threads_per_core": SMALL_LIMIT,
    "core_spec": 32766,  # 16 bits, and one of them says that threads are meant
    "thread_spec": 32766,
    "memory_per_gpu_mb": NUMBER_LIMIT,
    "tmp_mb": NUMBER_LIMIT,
    "switches": NUMBER_LIMIT,
    "switches_wait_s": NUMBER_LIMIT,
    "minimum_time_min": TIME_LIMIT,
    "deadline": 2**32 - 1,
    "delay_boot_min": TIME_LIMIT,
    "memory_per_cpu_mb": NUMBER_LIMIT,
    "begin_time": 2**32 - 1,
    "priority": NUMBER_LIMIT,
}


# 0: all there is, or none.
_LEAST = dict.fromkeys(("memory_mb", "memory_per_cpu_mb", "memory_per_gpu_mb", "tmp_mb"), 0)
_LEAST |= dict.fromkeys(("core_spec", "thread_spec", "delay_boot_min", "switches_wait_s"), 0)
# Neither with the other, as sbatch has it; slurmrestd takes them and Slurm does something.
_EITHER = (
    ("memory_mb", "memory_per_cpu_mb"),
    ("memory_mb", "memory_per_gpu_mb"),
    ("memory_per_cpu_mb", "memory_per_gpu_mb"),
    ("cpus_per_task", "cpus_per_gpu"),
    ("core_spec", "thread_spec"),
    ("exclusive", "oversubscribe"),
)


def check(spec: JobSpec) -> None:
    """Raise for the first thing wrong with ``spec``; nobody looks at it again before it is sent.

    Raises:
        RequestError: what is wrong and how to mend it; code ``script-too-large`` (413) or ``bad-request``.
    """
    _script(spec.script)
    _directory(spec.working_directory)
    given: dict[str, Any] = msgspec.to_builtins(spec)  # without what was left out, which is most
    for what, value in given.items():
        if what in _TEXTS:
            _text(what, value, _TEXTS[what])
        elif what in _NUMBERS and not _LEAST.get(what, 1) <= value <= _NUMBERS[what]:
            raise RequestError(f"{what} is {value}; it must be from {_LEAST.get(what, 1)} to {_NUMBERS[what]}")
    for what, value in (("output", spec.output), ("error", spec.error)):
        if value is not None and "\\" in value:
            # slurmstepd 22.05.8 loses the / between directory and name then, and the job dies at launch
            raise RequestError(f"{what} contains a backslash, which Slurm gets wrong")
    if spec.nice is not None and abs(spec.nice) > NUMBER_LIMIT:
        raise RequestError(f"nice is {spec.nice}; it must be from {-NUMBER_LIMIT} to {NUMBER_LIMIT}")
    for one, other in _EITHER:
        # Not by value: no memory, 0, is said as well.
        if one in given and other in given and given[one] is not False and given[other] is not False:
            raise RequestError(f"{one} and {other} exclude each other")
    if spec.nodes_at_most is not None and spec.nodes_at_most < (spec.nodes or 1):
        raise RequestError(f"nodes: {spec.nodes}-{spec.nodes_at_most} runs backwards")
    check_forms(given)
    for what, value in (("gpus", spec.gpus), ("gres", spec.gres), ("licenses", spec.licenses)):
        # sbatch answers these with a list; slurmrestd takes them for names
        if value in ("help", "list"):
            raise RequestError(f"{what} is {value!r}, which names nothing")
    _environment(spec.environment)
    for one in () if spec.mail_type is None else spec.mail_type.split(","):
        if one.upper() not in MAIL_TYPES:  # 24.11 says so in a warning, and sends no mail
            raise RequestError(f"mail_type {one[:40]!r} is none of {', '.join(MAIL_TYPES)}")
    for what, value in (("nodelist", spec.nodelist), ("exclude", spec.exclude)):
        if value is not None:
            _nodelist(what, value)
    if spec.array is not None:
        _array(spec.array)


def _script(script: str) -> None:
    size = _size("script", script)
    if size > SCRIPT_LIMIT:
        raise RequestError(
            f"the script has {size} bytes; the limit is {SCRIPT_LIMIT}",
            code="script-too-large",
            status=413,
            hint="keep data in files and let the script read them",
        )
    first = script.split("\n", 1)[0]
    if not first.startswith("#!") or not first[2:].strip():
        raise RequestError(
            "the script's first line does not name its interpreter",
            hint="begin it with a line such as: #!/bin/bash",
        )
    if "\0" in script:
        raise RequestError("the script contains a NUL byte")
    if "\r\n" in script:
        raise RequestError(
            "the script has DOS line ends (CR LF), which its interpreter would take for part of each command",
            hint="convert it, for instance with dos2unix",
        )


def _directory(directory: str | None) -> None:
    if directory is None:
        raise RequestError("the job has no working directory")
    _text("working_directory", directory, PATH_LIMIT)
    if not directory.startswith("/"):
        raise RequestError(f"working_directory {directory!r} is not absolute")


def _text(what: str, value: str, limit: int) -> None:
    if not value:
        raise RequestError(f"{what} is empty; leave it out instead")
    if _size(what, value) > limit:
        raise RequestError(f"{what} is longer than {limit} bytes")
    if not value.isprintable() and _CONTROL.search(value):
        raise RequestError(f"{what} contains a control character")


def _environment(environment: dict[str, str]) -> None:
    total = 0
    for name, value in environment.items():
        if not (name.isascii() and name.isidentifier()):
            raise RequestError(f"{name!r} is not the name of an environment variable")
        if name in RESERVED_NAMES or name.startswith(RESERVED_PREFIXES):
            raise RequestError(
                f"the environment variable {name} cannot be set from outside",
                hint="set it inside the script if the job needs it",
            )
        if "\0" in value:
            raise RequestError(f"the environment variable {name} contains a NUL byte")
        total += len(name) + _size(name, value)
    if total > ENVIRONMENT_LIMIT:
        raise RequestError(f"the environment has {total} bytes; the limit is {ENVIRONMENT_LIMIT}")


def _nodelist(what: str, nodelist: str) -> None:
    """slurmrestd 22.05 dies, for everybody, of a range of more than 65536 nodes, backwards, or without numbers."""
    try:
        expand(nodelist, max_names=NODES_LIMIT)
    except ProtocolError as error:
        why = error.message.rpartition(": ")[2]
        raise RequestError(f"{what} {nodelist[:80]!r} is not of the form c1,c[2-5]: {why}") from error


def _array(array: str) -> None:
    tasks, percent, at_once = array.partition("%")
    if len(array) > TEXT_LIMIT or (percent and not _positive(at_once)):
        raise RequestError(f"array {array[:80]!r} is not of the form 0-9%2 or 1,3,5-7:2")
    for part in tasks.split(","):
        match = ARRAY_PART.fullmatch(part)
        if match is None:
            raise RequestError(f"array {array[:80]!r} is not of the form 0-9%2 or 1,3,5-7:2")
        first, last, step = match.groups()
        if last is not None and int(last) < int(first):
            raise RequestError(f"array {array[:80]!r}: {part} runs backwards")
        if step is not None and int(step) < 1:
            raise RequestError(f"array {array[:80]!r}: {part} has a step of 0")


_positive: Callable[[str], object] = re.compile(r"[1-9][0-9]{0,8}").fullmatch


def _size(what: str, value: str) -> int:
    """In UTF-8."""
    try:
        return len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        raise RequestError(f"{what} contains characters that are not valid Unicode") from None
