"""slurmrestd's API from v0.0.40 on (Slurm 23.11 to 26.05), whose JSON its data_parser plugins make. No I/O.

Measured on 24.11.5 (v0.0.40 to v0.0.42) and 26.05.5 (v0.0.42 to v0.0.45), see tests/slurm_answers. Peculiar to this
family: the script is part of ``job``, ``environment`` is a list, many numbers are objects, choices are lists of words;
an unknown field is ignored with a warning, so nothing that matters may be misspelt here.
"""

from __future__ import annotations

import re
import time
from typing import Any, ClassVar

import msgspec

from hipercow_slurm.slurm import answers, data_parser_raw
from hipercow_slurm.slurm.answers import Answer
from hipercow_slurm.slurm.bare import RawBody
from hipercow_slurm.slurm.check import check
from hipercow_slurm.slurm.family import SOON_S, Family, environment
from hipercow_slurm.slurm.model import JobChange, JobSpec

# sbatch's words for mail that this API calls otherwise.
_MAIL = {
    "ALL": ["BEGIN", "END", "FAIL", "INVALID_DEPENDENCY", "REQUEUE", "STAGE_OUT"],
    "NONE": [],
    "INVALID_DEPEND": ["INVALID_DEPENDENCY"],
    "TIME_LIMIT": ["TIME=100%"],
    "TIME_LIMIT_90": ["TIME=90%"],
    "TIME_LIMIT_80": ["TIME=80%"],
    "TIME_LIMIT_50": ["TIME=50%"],
}
_SHARED = {"exclusive": ["none"], "user": ["user"], "mcs": ["mcs"]}


class DataParser(Family):
    """One version of the family; they differ in fields that are not read here."""

    # slurmctld of 24.11.5 and 26.05.5 stands still for ever after it (Slurm's own `scancel --ctld` does the same).
    deletes_anothers: ClassVar[bool] = False

    def ping_path(self) -> str:
        # Its ``ping`` says DOWN for a bad token and for a dead slurmctld alike.
        return f"/slurm/{self.version}/licenses"

    def read_ping(self, answer: Answer) -> None:
        self._accepted(answer, None)

    def update_body(self, change: JobChange) -> bytes:
        wanted = {
            "hold": change.hold,
            "time_limit": _number(change.time_limit_min),
            "nice": change.nice,
            "begin_time": _number(int(time.time()) + SOON_S) if change.begin_now else None,
        }
        return _encoded(wanted)

    def submit_body(self, spec: JobSpec, localname: str) -> bytes:
        check(spec)
        of_task, bound = _of_task(spec)
        told = {} if of_task is None or bound is None else {"SLURM_TRES_PER_TASK": of_task, "SLURM_TRES_BIND": bound}
        job: dict[str, Any] = {
            "script": spec.script,
            "name": spec.name or "job",
            "current_working_directory": spec.working_directory,
            "environment": [f"{name}={value}" for name, value in environment(spec, localname, told).items()],
            "partition": spec.partition,
            "account": spec.account,
            "qos": spec.qos,
            "nodes": None if spec.nodes is None else str(spec.nodes),
            "tasks": _tasks(spec),
            "cpus_per_task": spec.cpus_per_task,
            "memory_per_node": _number(spec.memory_mb),
            "time_limit": _number(spec.time_limit_min),
            "standard_output": spec.output,
            "standard_error": spec.error,
            "array": spec.array,
            "comment": spec.comment,
            "hold": True if spec.hold else None,
            "tasks_per_node": spec.tasks_per_node,
            "memory_per_cpu": _number(spec.memory_per_cpu_mb),
            "tres_per_job": _gpus(spec.gpus),
            "tres_per_node": ",".join(filter(None, (_gres(spec.gres), _gpus(spec.gpus_per_node)))) or None,
            "tres_per_task": of_task,
            "tres_bind": bound,
            "licenses": spec.licenses,
            "constraints": spec.constraint,
            "required_nodes": None if spec.nodelist is None else [spec.nodelist],
            "dependency": spec.dependency,
            "begin_time": _number(spec.begin_time),
            "reservation": spec.reservation,
            "requeue": spec.requeue,
            "shared": None if spec.exclusive is None else _SHARED[spec.exclusive],
            "open_mode": None if spec.open_mode is None else [spec.open_mode.upper()],
            "nice": spec.nice,
            "standard_input": spec.input,
            "mail_type": _mail(spec.mail_type),
            "mail_user": spec.mail_user,
            "priority": _number(spec.priority),
        }
        return _encoded({"job": {key: value for key, value in job.items() if value is not None}})

    def body_of(self, answer: Answer) -> RawBody:
        if "json" not in answer.content_type:
            raise answers.plain_error(answer)
        try:
            return data_parser_raw.read(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # broken JSON, unexpected types, not UTF-8
            raise answers.unreadable(f"HTTP {answer.status} with unexpected JSON: {error}") from error


def _encoded(values: dict[str, Any]) -> bytes:
    return msgspec.json.encode({key: value for key, value in values.items() if value is not None})


def _number(value: int | None) -> dict[str, Any] | None:
    return None if value is None else {"set": True, "infinite": False, "number": value}


def _gpus(what: str | None) -> str | None:
    return None if what is None else ",".join(f"gres/gpu:{one}" for one in what.split(","))


def _of_task(spec: JobSpec) -> tuple[str | None, str | None]:
    """A task's share as sbatch of these versions writes it, and that each sees its own GPUs only, which it implies."""
    if spec.gpus_per_task is None:
        return None, None
    kinds = _counted(spec.gpus_per_task)
    parts = [] if spec.cpus_per_task is None else [f"cpu={spec.cpus_per_task}"]
    parts += [f"gres/gpu:{kind}={count}" if kind else f"gres/gpu={count}" for kind, count in kinds]
    return ",".join(parts), f"gres/gpu:per_task:{sum(count for _, count in kinds)}"


def _tasks(spec: JobSpec) -> int | None:
    """As many as there are GPUs for, where nobody says: sbatch counts them too."""
    if spec.tasks is not None or spec.gpus is None or spec.gpus_per_task is None:
        return spec.tasks
    gpus, of_each = (sum(count for _, count in _counted(what)) for what in (spec.gpus, spec.gpus_per_task))
    return max(1, gpus // max(1, of_each))


def _counted(gpus: str) -> list[tuple[str, int]]:
    """``2`` or ``a100:2,h100`` as kinds, "" for any, and how many of each."""
    found = [re.fullmatch(r"(?:(.*):)?([0-9]{1,9})", one) for one in gpus.split(",")]
    return [(one[1] or "", int(one[2])) if one else (kind, 1) for one, kind in zip(found, gpus.split(","), strict=True)]


def _gres(what: str | None) -> str | None:
    return None if what is None else ",".join(f"gres/{one.removeprefix('gres/')}" for one in what.split(","))


def _mail(what: str | None) -> list[str] | None:
    if what is None:
        return None
    return [word for given in what.upper().split(",") for word in _MAIL.get(given, [given])]
