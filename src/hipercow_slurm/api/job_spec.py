"""From what the user sent to what Slurm is asked for: paths made absolute, environment cleaned and completed.

Pure functions. What makes a job impossible is refused by ``slurm.check``; what would only surprise is told in
``Planned.warnings``.
"""

from __future__ import annotations

import datetime
import fnmatch
import posixpath
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from hipercow_slurm.api import config
from hipercow_slurm.api.accounts import Account
from hipercow_slurm.api.job_counts import counted
from hipercow_slurm.api.schemas import JobBody
from hipercow_slurm.errors import RequestError
from hipercow_slurm.sbatch import directives, environment
from hipercow_slurm.sbatch_options import OWN
from hipercow_slurm.sbatch_time import minutes, moment
from hipercow_slurm.slurm.check import check
from hipercow_slurm.slurm.model import JobSpec
from hipercow_slurm.slurm.told import DEFAULT_PATH

VARIABLES = 2000
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

# What belongs to the machine the variable was set on, or changes what runs before the script's first line, never
# travels: the node makes its own KRB5CCNAME and SLURM_*; LD_* and BASH_ENV of a laptop break the job there.
_STAY = re.compile(
    r"(KRB5.*|LD_.*|_?SLURM.*|SBATCH_.*|SRUN_.*|SALLOC_.*|SPANK_.*|_SPANK_.*|BASH_ENV|ENV|BASH_FUNC_.*|BASHOPTS|SHELLOPTS)",
    re.DOTALL,
)


class Planned(msgspec.Struct, frozen=True):
    """A submission ready to be made.

    Attributes:
        output, error: absolute, with Slurm's ``%`` patterns.
    """

    spec: JobSpec
    working_directory: str
    output: str
    error: str
    warnings: tuple[str, ...]


def plan(body: JobBody, account: Account, *, comment: str, allowed: config.Jobs | None = None) -> Planned:
    """Complete ``body`` for ``account``; ``comment`` is ours (it holds the marker), the user's follows it.

    Raises:
        RequestError: the job could not run, with the reason; ``bad-directive``: a #SBATCH line we do not take.
    """
    body, warnings = with_directives(body)
    body, more = counted(body)
    warnings += more
    directory = _absolute("working_directory", body.working_directory or account.home, account.home)
    default = "slurm-%A_%a.out" if body.array else "slurm-%j.out"
    output = _absolute("output", body.output or default, directory)
    error = _absolute("error", body.error, directory) if body.error else output
    stdin = _absolute("input", body.input, directory) if body.input else None
    environment, stayed = environment_of(body.environment, account, (allowed or config.Jobs()).environment)
    spec = JobSpec(
        script=body.script,
        working_directory=directory,
        output=output,
        error=error if body.error else None,
        input=stdin,
        environment=environment,
        hold=bool(body.hold),
        comment=f"{comment} {body.comment}" if body.comment else comment,
        begin_time=_epoch("begin_time", body.begin_time),
        deadline=_epoch("deadline", body.deadline),
        **_nodes(body.nodes),
        **_switches(body.switches),
        exclusive="exclusive" if body.exclusive is True else body.exclusive or None,
        **{key: value for key, value in msgspec.to_builtins(body).items() if key in _AS_THEY_ARE},
    )
    check(spec)
    if stayed:
        warnings.append(f"these environment variables do not travel to the cluster: {', '.join(stayed)}")
    return Planned(spec, directory, output, error, tuple(warnings))


_MADE_HERE = {
    "script",
    "working_directory",
    "output",
    "error",
    "environment",
    "hold",
    "comment",
    "begin_time",
    "exclusive",
    "input",
    "deadline",
    "nodes",
    "nodes_at_most",
    "switches",
    "switches_wait_s",
}
_AS_THEY_ARE = frozenset(JobSpec.__struct_fields__) - _MADE_HERE


def with_directives(body: JobBody) -> tuple[JobBody, list[str]]:
    """``body`` completed from its script's #SBATCH lines; what the request itself says wins. And warnings.

    Raises:
        RequestError: ``bad-directive``, ``bad-export``.
    """
    if body.ignore_directives or "#SBATCH" not in body.script:
        return body, []
    found: dict[str, Any] = directives(body.script, own=True)
    own = [option.names[-1] for option in OWN if found.pop(option.key, None) and option.key == "wait"]
    exports = environment(found.pop("export", ()), body.environment, all_travel=True)
    given = {key: value for key, value in found.items() if getattr(body, key) is None}
    given["environment"] = {**exports, **body.environment}
    try:
        # Through the same door as the request: the same limits for the same keys.
        completed = msgspec.convert({**msgspec.structs.asdict(body), **given}, JobBody)
    except msgspec.ValidationError as error:
        raise RequestError(f"the script's #SBATCH lines: {error}", code="bad-directive") from None
    return completed, [f"nothing here waits for the job's end, as the script's #SBATCH {name} asks for" for name in own]


def _epoch(what: str, text: str | None) -> int | None:
    try:
        return None if text is None else int(datetime.datetime.fromisoformat(moment(text)).timestamp())
    except ValueError as error:
        raise RequestError(f"{what}: {error}") from None


def _nodes(nodes: int | str | None) -> dict[str, Any]:
    """The fewest and the most."""
    if not isinstance(nodes, str):
        return {"nodes": nodes}
    fewest, most = map(int, nodes.split("-"))
    return {"nodes": fewest, "nodes_at_most": most}


def _switches(text: str | None) -> dict[str, Any]:
    """How many, and how long they are waited for."""
    if text is None:
        return {}
    number, at, time = text.partition("@")
    try:
        if not re.fullmatch("[1-9][0-9]{0,8}", number):
            raise ValueError(f"{number!r} is not a whole number from 1 on")
        return {"switches": int(number), "switches_wait_s": minutes(time) * 60 if at else None}
    except ValueError as error:
        raise RequestError(f"switches {text[:80]!r} is not of the form 1@30: {error}") from None


def environment_of(
    given: dict[str, str], account: Account, allowed: Sequence[str] = ("*",)
) -> tuple[dict[str, str], list[str]]:
    """The job's environment, and the names that were left behind: not ``allowed``, or never.

    slurmrestd sets nothing of its own, so the account's variables come from the passwd database, always.

    Raises:
        RequestError: more than ``VARIABLES`` variables.
    """
    if len(given) > VARIABLES:
        raise RequestError(f"the environment has {len(given)} variables; the limit is {VARIABLES}")
    stayed: list[str] = []
    environment = {"PATH": DEFAULT_PATH}
    if given:
        passes = re.compile("|".join(map(fnmatch.translate, allowed)) or r"(?!)")
        stayed = sorted(name for name in given if _STAY.fullmatch(name) or not passes.fullmatch(name))
        left = set(stayed)
        environment.update((name, value) for name, value in given.items() if name not in left)
    environment.update(HOME=account.home, USER=account.localname, LOGNAME=account.localname, SHELL=account.shell)
    return environment, [re.sub(r"[^A-Za-z0-9_]", "?", name)[:64] for name in stayed[:20]]


def _absolute(what: str, path: str, base: str) -> str:
    """``path`` below ``base`` unless absolute, without ``.``, ``..`` and doubled slashes."""
    if _CONTROL.search(path):
        raise RequestError(f"{what} contains a control character")
    # normpath keeps a leading double slash (POSIX lets it mean something else); here it means nothing.
    return "/" + posixpath.normpath(posixpath.join(base, path)).lstrip("/")
