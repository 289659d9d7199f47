"""Each decision, told three times before its reply is sent: a log line, a count, and a line of the audit log."""

from __future__ import annotations

import secrets
from functools import lru_cache
from typing import Any

from hipercow_slurm import log
from hipercow_slurm.audit import AuditLog
from hipercow_slurm.auksd.vitals import Vitals
from hipercow_slurm.errors import Error, UnavailableError

Fields = dict[str, Any]

# In the audit log beside its reason, not in its own field.
_TOLD = ("owner", "endtime", "renew_till", "stored_endtime", "stored_renew_till", "count", "job", "idle_s")


class Ledger:
    """Notes decisions.

    Args:
        vitals: counts them.
        audit: the audit log, or None; replaced by nobody while running.
    """

    def __init__(self, vitals: Vitals, audit: AuditLog | None = None) -> None:
        self.vitals = vitals
        self.audit = audit
        self._log = log.get()
        self._start = secrets.token_hex(4)  # request ids differ from those before a restart
        self._number = 0

    @property
    def waits(self) -> bool:
        """True if a decision is noted only once it is on disk: then ``note``, not ``note_now``."""
        return self.audit is not None and self.audit.waits

    async def note(
        self,
        verb: str,
        result: str,
        *,
        principal: str | None,
        role: str | None = None,
        peer: str | None = None,
        uid: int | None = None,
        fields: Fields | None = None,
        error: Error | None = None,
    ) -> None:
        """One decision.

        Raises:
            UnavailableError: ``audit-unwritable``: it must not be carried out in silence, so tell nobody its result.
        """
        request_id = self._tell(verb, result, principal, role, peer, uid, fields, error)
        if self.audit is None:
            return
        try:
            await self.audit.note(
                verb=verb,
                result=result,
                who=principal,
                peer=peer,
                uid=uid,
                why=_why(fields, error),
                request_id=request_id,
            )
        except UnavailableError as trouble:
            self._failed(request_id, trouble)
            raise

    def note_now(
        self, verb: str, result: str, principal: str, role: str, peer: str, uid: int | None, fields: Fields | None
    ) -> None:
        """As ``note``, without waiting for the disk.

        Raises:
            UnavailableError: as ``note``.
        """
        request_id = self._tell(verb, result, principal, role, peer, uid, fields, None)
        if self.audit is None:
            return
        try:
            self.audit.note_soon(
                verb=verb,
                result=result,
                who=principal,
                peer=peer,
                uid=uid,
                why=_why(fields, None),
                request_id=request_id,
            )
        except UnavailableError as trouble:
            self._failed(request_id, trouble)
            raise

    def _tell(
        self,
        verb: str,
        result: str,
        principal: str | None,
        role: str | None,
        peer: str | None,
        uid: int | None,
        fields: Fields | None,
        error: Error | None,
    ) -> str:
        """Log and count; returns the request id."""
        self._number = number = self._number + 1
        request_id = f"{self._start}-{number:x}"
        line: Fields = {} if uid is None else {"uid": uid}
        if fields:
            line |= fields
        line["result"], line["request_id"] = result, request_id
        head = _head(principal, role, peer, verb)
        if error is None:
            log.info("auksd.request", line, after=head)
        else:
            self._log.warning("auksd.request", **head.fields, **line, code=error.code, why=error.message)
            self.vitals.failed(error)
        self.vitals.request(verb, role, "not-found" if error and error.code == "not-found" else result)
        return request_id

    def _failed(self, request_id: str, trouble: Error) -> None:
        self._log.error("auksd.audit_failed", request_id=request_id, code=trouble.code, why=trouble.message)


@lru_cache(maxsize=4096)
def _head(principal: str | None, role: str | None, peer: str | None, verb: str) -> log.Told:
    """How the line of a decision begins: the same for all that somebody asks over a connection."""
    line = {"principal": principal, "role": role, "peer": peer, "verb": verb}
    return log.told({key: value for key, value in line.items() if value is not None})


def _why(fields: Fields | None, error: Error | None) -> str | None:
    fields = fields or {}
    told = [f"{key}={fields[key]}" for key in _TOLD if key in fields]
    if error is not None:
        told.append(f"{error.code}: {error.message}")
    return " ".join(told) or None
