"""From what the user sent to what Slurm is asked for: paths made absolute, environment cleaned and completed.

Pure functions. What makes a job impossible is refused by ``slurm.check``; what would only surprise is told in
``Planned.warnings``.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from hipercow_slurm.api.accounts import Account
from hipercow_slurm.api.schemas import JobBody
from hipercow_slurm.errors import RequestError
from hipercow_slurm.slurm.check import check
from hipercow_slurm.slurm.model import JobSpec

DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
VARIABLES = 2000

# What belongs to the machine the variable was set on, or changes what runs before the script's first line, never
# travels: the node makes its own KRB5CCNAME and SLURM_*; LD_* and BASH_ENV of a laptop break the job there.
_STAY = re.compile(
    r"(KRB5.*|LD_.*|_?SLURM.*|SBATCH_.*|SRUN_.*|SALLOC_.*|SPANK_.*|_SPANK_.*|BASH_ENV|ENV|BASH_FUNC_.*|BASHOPTS|SHELLOPTS)",
    re.DOTALL,
)
_DIRECTIVE = re.compile(r"^#SBATCH[ \t]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Planned:
    """A submission ready to be made.

    Attributes:
        output, error: absolute, with Slurm's ``%`` patterns.
    """

    spec: JobSpec
    working_directory: str
    output: str
    error: str
    warnings: tuple[str, ...]


def plan(body: JobBody, account: Account, *, comment: str) -> Planned:
    """Complete ``body`` for ``account``; ``comment`` is ours (it holds the marker), the user's follows it.

    Raises:
        RequestError: the job could not run, with the reason.
    """
    directory = _absolute("working_directory", body.working_directory or account.home, account.home)
    default = "slurm-%A_%a.out" if body.array else "slurm-%j.out"
    output = _absolute("output", body.output or default, directory)
    error = _absolute("error", body.error, directory) if body.error else output
    environment, stayed = environment_of(body.environment, account)
    spec = JobSpec(
        script=body.script,
        name=body.name,
        partition=body.partition,
        account=body.account,
        qos=body.qos,
        nodes=body.nodes,
        tasks=body.tasks,
        cpus_per_task=body.cpus_per_task,
        memory_mb=body.memory_mb,
        time_limit_min=body.time_limit_min,
        working_directory=directory,
        output=output,
        error=error if body.error else None,
        environment=environment,
        hold=body.hold,
        array=body.array,
        comment=f"{comment} {body.comment}" if body.comment else comment,
    )
    check(spec)
    warnings = []
    if stayed:
        warnings.append(f"these environment variables do not travel to the cluster: {', '.join(stayed)}")
    if _DIRECTIVE.search(body.script):
        warnings.append("#SBATCH lines in the script are not read: give the options with the submission")
    return Planned(spec, directory, output, error, tuple(warnings))


def environment_of(given: dict[str, str], account: Account) -> tuple[dict[str, str], list[str]]:
    """The job's environment, and the names that were left behind.

    slurmrestd sets nothing of its own, so the account's variables come from the passwd database, always.

    Raises:
        RequestError: more than ``VARIABLES`` variables.
    """
    if len(given) > VARIABLES:
        raise RequestError(f"the environment has {len(given)} variables; the limit is {VARIABLES}")
    stayed = sorted(name for name in given if _STAY.fullmatch(name))
    environment = {"PATH": DEFAULT_PATH}
    environment.update((name, value) for name, value in given.items() if name not in set(stayed))
    environment.update(HOME=account.home, USER=account.localname, LOGNAME=account.localname, SHELL=account.shell)
    return environment, [re.sub(r"[^A-Za-z0-9_]", "?", name)[:64] for name in stayed[:20]]


def _absolute(what: str, path: str, base: str) -> str:
    """``path`` below ``base`` unless absolute, without ``.``, ``..`` and doubled slashes."""
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise RequestError(f"{what} contains a control character")
    # normpath keeps a leading double slash (POSIX lets it mean something else); here it means nothing.
    return "/" + posixpath.normpath(posixpath.join(base, path)).lstrip("/")
