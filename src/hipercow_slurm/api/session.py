"""One open session, and when its ticket is due."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from hipercow_slurm.api import sealing
from hipercow_slurm.api.sessions_db import SessionRecord
from hipercow_slurm.errors import InternalError
from hipercow_slurm.krb5 import krbcred
from hipercow_slurm.values import KrbCred, TicketTimes


@dataclass(slots=True, eq=False)
class Session:
    """One open session. Only ``Sessions`` changes it.

    Attributes:
        cred: the user's ticket; replaced as a whole when renewed.
        identity: room for whoever turns the ticket into a Slurm token (``slurm_tokens.py``).
    """

    record: SessionRecord
    key: bytes = field(repr=False)
    cred: KrbCred
    retry_at: float = 0.0
    failures: int = 0
    renewing: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)
    identity: Any = field(default=None, repr=False)
    identity_lock: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    @property
    def session_id(self) -> str:
        return self.record.session_id

    @property
    def principal(self) -> str:
        return self.record.principal

    @property
    def localname(self) -> str:
        return self.record.localname

    @property
    def uid(self) -> int:
        return self.record.uid


def unsealed(key: bytes, record: SessionRecord) -> KrbCred:
    """The sealed ticket of a row."""
    der = sealing.unseal(key, record.sealed, session_id=record.session_id, principal=record.principal)
    cred = krbcred.parse(der)
    if cred.client != record.principal:
        raise InternalError(f"session {record.session_id} holds a ticket of someone else")
    return cred


def last_good(times: TicketTimes) -> int:
    """The last second this ticket can be kept good: renew_till, or endtime if it cannot be renewed."""
    return max(times.endtime, times.renew_till)


def renewal_due(times: TicketTimes, now: float, *, spread: float) -> bool:
    """True from half of the ticket's life on, ``spread`` (0 to 1) up to a tenth of it earlier; never if useless."""
    life = times.endtime - times.starttime
    due = times.starttime + life * (0.5 - 0.1 * spread)
    return times.renew_till > times.endtime > now >= due


def nearly_over(times: TicketTimes, now: float) -> bool:
    """Less than a quarter of the life is left and it can be renewed: do not wait for the background."""
    return times.renew_till > times.endtime and times.endtime - now < (times.endtime - times.starttime) / 4


def spread_of(session: Session) -> float:
    """0 to 1, fixed per session: sessions opened together are not renewed together."""
    return int(session.session_id[:4], 16) / 0xFFFF
