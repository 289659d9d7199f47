"""What the partitions mean for a job that names none, or no time limit; remembered, as they hardly ever change."""

from __future__ import annotations

import time

from hipercow_slurm import log
from hipercow_slurm.api.session import Session
from hipercow_slurm.api.slurm_tokens import SlurmTokens
from hipercow_slurm.errors import Error
from hipercow_slurm.slurm.model import JobSpec, Partition
from hipercow_slurm.slurm.rest import SlurmRest

_REMEMBERED_S = 60.0
_KEPT = 1000


class Partitions:
    """The partitions each user may see, as slurmctld told that user lately."""

    def __init__(self, slurm: SlurmRest, tokens: SlurmTokens) -> None:
        self._slurm = slurm
        self._tokens = tokens
        self._known: dict[str, tuple[float, list[Partition]]] = {}

    async def of(self, session: Session, *, fresh: bool = False) -> list[Partition]:
        """What the session's user may see; ``fresh``: ask, whatever is remembered.

        Raises:
            Error: as ``SlurmRest.partitions``.
        """
        found = self._known.get(session.principal)
        if found and found[0] > time.monotonic() and not fresh:
            return found[1]
        partitions = await self._tokens.call(session, self._slurm.partitions)
        if len(self._known) >= _KEPT:
            self._known.clear()
        self._known[session.principal] = time.monotonic() + _REMEMBERED_S, partitions
        return partitions

    async def completed(self, session: Session, spec: JobSpec) -> tuple[str, int | None]:
        """The partition's name and the time limit in minutes (None: not known) that a job of this kind gets.

        Without an answer from Slurm: what stands in ``spec``.
        """
        if spec.partition and spec.time_limit_min is not None:
            return spec.partition, spec.time_limit_min
        try:
            partitions = await self.of(session)
        except Error as error:
            log.get().warning("partitions.unknown", principal=session.principal, code=error.code, why=error.message)
            return spec.partition or "", spec.time_limit_min
        name = spec.partition or next((one.name for one in partitions if one.is_default), "")
        limit = spec.time_limit_min
        return name, default_limit(partitions, spec.partition) if limit is None else limit


def default_limit(partitions: list[Partition], named: str | None) -> int | None:
    """The minutes a job without a time limit gets at most in the partitions it names; None: no limit is known."""
    wanted = set(named.split(",")) if named else {one.name for one in partitions if one.is_default}
    limits = [one.default_time_min or one.max_time_min for one in partitions if one.name in wanted]
    known = [limit for limit in limits if limit is not None]
    return max(known) if known and len(known) == len(limits) else None
