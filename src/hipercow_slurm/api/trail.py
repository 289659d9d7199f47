"""What people did, in the audit log: logins, and every request that changes something, with its outcome.

Rule 1: the line is written before anybody is told the outcome. Rule 2: while lines cannot be written and the site
requires them, nothing is done that would have to be noted: only the first such request was done in silence, and it is
answered with ``audit-unwritable``. Rule 3: names, job ids, codes; no script, path or secret.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from hipercow_slurm import log
from hipercow_slurm.api.problems import current_request_id
from hipercow_slurm.audit import AuditLog
from hipercow_slurm.errors import Error, UnavailableError

_facts: ContextVar[dict[str, Any] | None] = ContextVar("facts", default=None)


def tell(**facts: Any) -> None:
    """Something the line of this request should say: ``job_id``, ``session_id``, ``made`` ..."""
    found = _facts.get()
    if found is not None:
        found.update(facts)


class Trail:
    """Notes what is done; without an audit log, nothing."""

    def __init__(self, audit: AuditLog | None) -> None:
        self.audit = audit
        self._failing = False

    @property
    def on(self) -> bool:
        """True if there is a log."""
        return self.audit is not None

    async def begin(self, verb: str, peer: str) -> None:
        """Before a request that changes something is acted on.

        Raises:
            UnavailableError: ``audit-unwritable``: the line before could not be written, and this one cannot either.
        """
        _facts.set({})
        if self._failing:
            await self.note(verb, "asked", who=None, peer=peer)

    async def end(self, verb: str, error: Error | None, *, who: str | None, peer: str) -> None:
        """What came of it.

        Raises:
            UnavailableError: as ``note``.
        """
        told = [f"{key}={value}" for key, value in (_facts.get() or {}).items()]
        if error is not None:
            told.append(f"{error.code}: {error.message}")
        await self.note(verb, "refused" if error else "ok", who=who, peer=peer, why=" ".join(told) or None)

    async def note(
        self, verb: str, result: str, *, who: str | None, peer: str, uid: int | None = None, why: str | None = None
    ) -> None:
        """One decision.

        Raises:
            UnavailableError: ``audit-unwritable``, where the site requires the log.
        """
        if self.audit is None:
            return
        try:
            await self.audit.note(
                verb=verb, result=result, who=who, peer=peer, uid=uid, why=why, request_id=current_request_id()
            )
            self._failing = False
        except UnavailableError as error:
            self._failing = True
            log.get().error("api.audit-failed", verb=verb, code=error.code, why=error.message)
            raise

    def reopen(self) -> None:
        """After a rotation (HUP); an error is logged, and the old file stays in use."""
        if self.audit is not None:
            try:
                self.audit.reopen()
            except Error as error:
                log.get().error("api.audit-failed", verb="reopen", code=error.code, why=error.message)

    def close(self) -> None:
        """The last lines are on disk afterwards."""
        if self.audit is not None:
            self.audit.close()
