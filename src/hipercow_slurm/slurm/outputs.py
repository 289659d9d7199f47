"""Where a job's output goes: Slurm's default name and its ``%`` patterns, filled in the way slurmstepd does.

slurmrestd answers with the pattern as it was given, and with nothing where the default is used (22.05), so
whoever wants to read the file has to know the rule; newer ones fill in some or all (``data_parser_raw.py``). Measured
on 22.05.8, 24.11.5 and 26.05.5, see tests/slurm_answers.
"""

from __future__ import annotations

import posixpath
import re

import msgspec

PATTERN = re.compile(r"%(%|([0-9]*)([AaJjNnstux]))")
NO_TASK = 0xFFFFFFFE  # what slurmstepd writes for %a in a job that is no array
WIDEST = 10


class Names(msgspec.Struct, frozen=True):
    """What the patterns stand for; None: not known before the job starts (or, for an array, splits).

    ``left``: the letters that are not filled in yet, where Slurm has filled in the others (and ``%%``); None: all.
    """

    job_id: int
    job_name: str
    user: str
    array_job_id: int | None
    array_task_id: int | None
    is_array: bool
    first_node: str | None
    left: str | None = None


def stdout_path(pattern: str, directory: str, names: Names) -> str:
    """The absolute path of stdout; ``pattern`` is empty for Slurm's default."""
    default = "slurm-%A_%a.out" if names.is_array else "slurm-%j.out"
    return posixpath.join(directory, fill(pattern or default, names))


def stderr_path(pattern: str, stdout: str, directory: str, names: Names) -> str:
    """The absolute path of stderr; without a pattern it goes where ``stdout`` goes."""
    return posixpath.join(directory, fill(pattern, names)) if pattern else stdout


def fill(pattern: str, names: Names) -> str:
    """``pattern`` with all that is known filled in; what is not known yet stays as it is."""
    numbers = {
        "j": names.job_id,
        "J": names.job_id,
        "A": names.array_job_id or names.job_id,
        "a": names.array_task_id if names.is_array else NO_TASK,
        "n": 0,
        "t": 0,
    }
    words = {"x": names.job_name, "u": names.user, "s": "batch", "N": names.first_node}

    def one(match: re.Match[str]) -> str:
        if names.left is not None and (match[3] or "%") not in names.left:
            return match[0]
        if match[1] == "%":
            return "%"
        width, letter = min(int(match[2] or 0), WIDEST), match[3]
        if letter in words:
            return words[letter] or match[0]
        number = numbers[letter]
        return match[0] if number is None else f"{number:0{width}d}"

    return PATTERN.sub(one, pattern)
