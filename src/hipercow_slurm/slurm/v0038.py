"""slurmrestd's API v0.0.38 (Slurm 22.05 to 23.11): our values to its JSON and back. No I/O.

Peculiar to this version: ``environment`` is an object, numbers are bare, ``script`` stands beside ``job``, the
exit code is a raw wait status, and a field that is not set is ``null`` or the empty string.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hipercow_slurm.slurm import answers, v0038_rarer
from hipercow_slurm.slurm.answers import Answer
from hipercow_slurm.slurm.bare import RawBody, RawRefusal
from hipercow_slurm.slurm.family import SOON_S, Family
from hipercow_slurm.slurm.model import JobChange, JobSpec
from hipercow_slurm.slurm.told import environment

_decoder = msgspec.json.Decoder(RawBody)


class V0038(Family):
    """The version that came before slurmrestd's data parsers."""

    def __init__(self) -> None:
        super().__init__("v0.0.38")

    def update_body(self, change: JobChange) -> bytes:
        wanted = {
            "hold": change.hold,
            "time_limit": change.time_limit_min,
            "nice": change.nice,
            "begin_time": f"now+{SOON_S}" if change.begin_now else None,
        }
        return msgspec.json.encode({key: value for key, value in wanted.items() if value is not None})

    def submit_body(self, spec: JobSpec, localname: str) -> bytes:
        told = {"SLURM_GPUS_PER_TASK": spec.gpus_per_task, "SLURM_GPU_BIND": spec.gpu_bind}
        job: dict[str, Any] = {
            "name": spec.name or "job",  # without one, Slurm shows "(null)"
            "current_working_directory": spec.working_directory,
            "environment": environment(spec, localname, told),
            "partition": spec.partition,
            "account": spec.account,
            "qos": spec.qos,
            # A list of two numbers, as its schema has it, is taken and lost.
            "nodes": spec.nodes if spec.nodes_at_most is None else f"{spec.nodes}-{spec.nodes_at_most}",
            "tasks": spec.tasks,
            "cpus_per_task": spec.cpus_per_task,
            "memory_per_node": spec.memory_mb,
            "time_limit": spec.time_limit_min,
            "standard_output": spec.output,
            "standard_error": spec.error,
            "array": spec.array,
            "comment": spec.comment,
            "hold": True if spec.hold else None,
            "tasks_per_node": spec.tasks_per_node,
            "memory_per_cpu": spec.memory_per_cpu_mb,
            # The four need GresTypes and SelectType in slurmrestd's own slurm.conf, or are "Failure during parsing".
            "gpus": spec.gpus,
            "gpus_per_node": spec.gpus_per_node,
            "gpus_per_task": spec.gpus_per_task,
            "gres": spec.gres,
            "licenses": spec.licenses,
            "constraints": spec.constraint,
            "nodelist": spec.nodelist,
            "dependency": spec.dependency,
            # A bare number is refused, whatever the schema says; this is how sbatch writes one.
            "begin_time": None if spec.begin_time is None else f"uts{spec.begin_time}",
            "reservation": spec.reservation,
            # Any value of "requeue", false too, means yes.
            "requeue": True if spec.requeue else None,
            "no_requeue": True if spec.requeue is False else None,
            "exclusive": spec.exclusive,
            "open_mode": spec.open_mode,
            "nice": spec.nice,
            "standard_input": spec.input,
            "mail_type": spec.mail_type,
            "mail_user": spec.mail_user,
            "priority": None if spec.priority is None else str(spec.priority),
            **v0038_rarer.fields(spec),
        }
        given = {key: value for key, value in job.items() if value is not None}
        return msgspec.json.encode({"script": spec.script, "job": given})

    def read_updated(self, answer: Answer, job_id: int) -> None:
        body = self.body_of(answer)
        # Of an array it says "job array update ... failed" of all its tasks, with a number of those that failed only.
        body.errors = [one for one in body.errors if one.error_number is not None or not _of_array(one)]
        self._updated(body, answer, job_id)

    def body_of(self, answer: Answer) -> RawBody:
        if "json" not in answer.content_type:
            raise answers.plain_error(answer)
        try:
            return _decoder.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # broken JSON, unexpected types, not UTF-8
            raise answers.unreadable(f"HTTP {answer.status} with unexpected JSON: {error}") from error


def _of_array(entry: RawRefusal) -> bool:
    return entry.error is None and (entry.description or "").startswith("job array update")
