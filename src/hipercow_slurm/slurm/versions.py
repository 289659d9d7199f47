"""Which versions of slurmrestd's API we speak, and which of them a slurmrestd serves."""

from __future__ import annotations

import re
from typing import Protocol

from hipercow_slurm.slurm import answers, v0038_past
from hipercow_slurm.slurm.answers import Answer
from hipercow_slurm.slurm.data_parser import DataParser
from hipercow_slurm.slurm.data_parser_past import DataParserPast
from hipercow_slurm.slurm.family import Family
from hipercow_slurm.slurm.model import Past
from hipercow_slurm.slurm.v0038 import V0038

# The version that is asked for first is the newest that both sides know.
ADAPTERS: dict[str, Family] = {f"v0.0.{number}": DataParser(f"v0.0.{number}") for number in range(45, 39, -1)}
ADAPTERS["v0.0.38"] = V0038()


class PastAdapter(Protocol):
    """How to ask slurmdbd, where that is written."""

    def past_path(self, job_id: int) -> str: ...
    def read_past(self, answer: Answer, job_id: int) -> list[Past]: ...


PAST: dict[str, PastAdapter] = {version: DataParserPast(version) for version in ADAPTERS}
PAST["v0.0.38"] = v0038_past

PATH = "/openapi/v3"  # says what is served
LIMIT = 64 * 1024 * 1024  # bytes of its answer; 26.05 has one of some megabytes
_SERVED = re.compile(rb"\\?/slurm\\?/(v0\.0\.[0-9]{1,4})\\?/job\\?/submit\b")  # JSON may escape a slash


def newest(answer: Answer) -> Family:
    """The newest version that both know, by what ``PATH`` answered.

    Raises:
        Error: the answer is none; ``slurm-version``: slurmrestd serves none that we know.
    """
    if answer.status != 200 or "json" not in answer.content_type:
        raise answers.plain_error(answer)
    served = {match.decode() for match in _SERVED.findall(answer.body)}
    known = [version for version in ADAPTERS if version in served]
    if not known:
        said = ", ".join(sorted(served)) or "none"
        raise answers.not_served(f"slurmrestd serves {said}; we know {', '.join(ADAPTERS)}")
    return ADAPTERS[known[0]]
