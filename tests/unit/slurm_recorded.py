"""Answers that real slurmrestds gave (tests/slurm_answers), and the adapter each is meant for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hipercow_slurm.slurm import versions
from hipercow_slurm.slurm.answers import Answer
from hipercow_slurm.slurm.family import Family
from hipercow_slurm.slurm.model import Job

FOLDER = Path(__file__).parent.parent / "slurm_answers"
VERSIONS = ("v0.0.38", "v0.0.42", "v0.0.45")  # of Slurm 22.05.8, 24.11.5 and 26.05.5


@dataclass(frozen=True)
class Recorded:
    """One API version."""

    version: str

    @property
    def family(self) -> Family:
        return versions.ADAPTERS[self.version]

    def kept(self, name: str) -> dict[str, Any]:
        """The file as it is."""
        found: dict[str, Any] = json.loads((FOLDER / self.version / f"{name}.json").read_text())
        return found

    def answer(self, name: str, **changes: Any) -> Answer:
        """A recorded answer; ``changes`` are made to its first job."""
        kept = self.kept(name)
        if changes:
            kept["body"]["jobs"][0] |= changes
        body = kept["body"] if isinstance(kept["body"], str) else json.dumps(kept["body"])
        return Answer(kept["status"], kept["content_type"], body.encode(), kept["seconds"])

    def asked(self, name: str) -> int:
        """The id of the job that the request was about."""
        return int(self.kept(name)["request"].split()[1].split("/")[-1])

    def job(self, name: str) -> Job:
        """alice's job in the answer ``job-NAME``."""
        return self.family.read_job(self.answer(f"job-{name}"), self.asked(f"job-{name}"), "alice")

    def number(self, value: int) -> Any:
        """A number as this version writes it."""
        return value if self.version == "v0.0.38" else {"set": True, "infinite": False, "number": value}
