"""slurmrestd's API from v0.0.40 on (Slurm 23.11 to 26.05), whose JSON its data_parser plugins make. No I/O.

Measured on 24.11.5 (v0.0.40 to v0.0.42) and 26.05.5 (v0.0.42 to v0.0.45), see tests/slurm_answers. Peculiar to this
family: the script is part of ``job``, ``environment`` is a list, many numbers are objects, choices are lists of words;
an unknown field is ignored with a warning, so nothing that matters may be misspelt here.
"""

from __future__ import annotations

import time
from typing import Any, ClassVar

import msgspec

from hipercow_slurm.slurm import answers, data_parser_rarer, data_parser_raw
from hipercow_slurm.slurm.answers import Answer
from hipercow_slurm.slurm.bare import RawBody
from hipercow_slurm.slurm.data_parser_gpus import gpus, of_task, tasks
from hipercow_slurm.slurm.data_parser_rarer import number
from hipercow_slurm.slurm.family import SOON_S, Family
from hipercow_slurm.slurm.model import JobChange, JobSpec
from hipercow_slurm.slurm.told import environment

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
            "time_limit": number(change.time_limit_min),
            "nice": change.nice,
            "begin_time": number(int(time.time()) + SOON_S) if change.begin_now else None,
        }
        return _encoded(wanted)

    def submit_body(self, spec: JobSpec, localname: str) -> bytes:
        variables = environment(spec, localname, data_parser_rarer.told(spec))
        job: dict[str, Any] = {
            "script": spec.script,
            "name": spec.name or "job",
            "current_working_directory": spec.working_directory,
            "environment": [f"{name}={value}" for name, value in variables.items()],
            "partition": spec.partition,
            "account": spec.account,
            "qos": spec.qos,
            "nodes": _nodes(spec),
            "tasks": tasks(spec),
            "cpus_per_task": spec.cpus_per_task,
            "memory_per_node": number(spec.memory_mb),
            "time_limit": number(spec.time_limit_min),
            "standard_output": spec.output,
            "standard_error": spec.error,
            "array": spec.array,
            "comment": spec.comment,
            "hold": True if spec.hold else None,
            "tasks_per_node": spec.tasks_per_node,
            "memory_per_cpu": number(spec.memory_per_cpu_mb),
            "tres_per_job": gpus(spec.gpus),
            "tres_per_node": ",".join(filter(None, (_gres(spec.gres), gpus(spec.gpus_per_node)))) or None,
            "tres_per_task": of_task(spec),
            "licenses": spec.licenses,
            "constraints": spec.constraint,
            "required_nodes": None if spec.nodelist is None else [spec.nodelist],
            "dependency": spec.dependency,
            "begin_time": number(spec.begin_time),
            "reservation": spec.reservation,
            "requeue": spec.requeue,
            "shared": ["oversubscribe"] if spec.oversubscribe else _SHARED.get(spec.exclusive or ""),
            "open_mode": None if spec.open_mode is None else [spec.open_mode.upper()],
            "nice": spec.nice,
            "standard_input": spec.input,
            "mail_type": _mail(spec.mail_type),
            "mail_user": spec.mail_user,
            "priority": number(spec.priority),
            **data_parser_rarer.fields(spec, self.version),
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


def _nodes(spec: JobSpec) -> str | None:
    if spec.nodes is None:
        return None
    return str(spec.nodes) if spec.nodes_at_most is None else f"{spec.nodes}-{spec.nodes_at_most}"


def _gres(what: str | None) -> str | None:
    return None if what is None else ",".join(f"gres/{one.removeprefix('gres/')}" for one in what.split(","))


def _mail(what: str | None) -> list[str] | None:
    if what is None:
        return None
    return [word for given in what.upper().split(",") for word in _MAIL.get(given, [given])]
