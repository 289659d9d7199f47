"""The forms of sbatch's smaller languages: signals, distributions, frequencies.

slurmrestd of 24.11 and newer takes an unknown signal with a warning, and the job never gets it; and what a form lets
through is also all that a hostile text can hand to Slurm's own parsers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hipercow_slurm.errors import RequestError

# What sbatch knows by name, and what it knows by number.
_SIGNALS = (
    *("HUP", "INT", "QUIT", "ABRT", "KILL", "ALRM", "TERM", "USR1", "USR2", "URG", "CONT", "STOP", "TSTP", "TTIN"),
    *("TTOU", "XCPU"),
)
_NUMBER = "[1-9]|[1-5][0-9]|6[0-4]"
_SECONDS = "[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}"  # 16 bits in Slurm; its special values are near the end
_SECOND_LEVEL = r"(?::(?:block|cyclic|fcyclic)){0,2}"

_MEASURED = "(?:energy|task|lustre|network)"

_FORMS = {
    "signal": (
        rf"(?:(?:B|R|BR|RB):)?(?:(?:SIG)?(?:{'|'.join(_SIGNALS)})|{_NUMBER})(?:@(?:{_SECONDS}))?",
        "B:USR1@60",
    ),
    "distribution": (
        rf"(?:block|cyclic){_SECOND_LEVEL}(?:,(?:no)?pack)?|plane=[1-9][0-9]{{0,3}}",
        "block:cyclic or plane=4",
    ),
    "cpu_freq": (r"[A-Z0-9]{1,20}(?:-[A-Z0-9]{1,20})?(?::[A-Z]{1,20})?", "medium or 2000000-2600000:OnDemand"),
    "gpu_bind": (r"[A-Z0-9_,:*+-]{1,512}", "closest, single:1 or map_gpu:0,1"),
    "gpu_freq": (r"[A-Z0-9_,=]{1,128}", "low or memory=high"),
    "profile": (rf"all|none|{_MEASURED}(?:,{_MEASURED}){{0,3}}", "task or energy,task"),
    "acctg_freq": (r"[A-Z0-9=,]{1,128}", "30 or task=15,energy=30"),
}


def check_forms(given: Mapping[str, Any]) -> None:
    """Raise for one of ``given`` that has not its form; letters count the same small and capital.

    Raises:
        RequestError: with an example.
    """
    for what in _FORMS.keys() & given.keys():
        value, (form, example) = given[what], _FORMS[what]
        if not re.fullmatch(form, value, re.IGNORECASE | re.ASCII):
            raise RequestError(f"{what} {value[:80]!r} is not of the form {example}")
