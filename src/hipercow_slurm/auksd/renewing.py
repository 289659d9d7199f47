"""One renewal as it is passed between processes: the owner of the store sends a credential, a front asks the KDC.

Asking costs half a millisecond of CPU time, most of it in Python, which does one thing at a time per process. Who is
due and what is stored stays with the owner, so a credential is still renewed by one at a time.
"""

from __future__ import annotations

import time

import msgspec

from hipercow_slurm import errors, log
from hipercow_slurm.auksd.asking import renew_at_kdc
from hipercow_slurm.errors import Error, InternalError
from hipercow_slurm.values import KrbCred, TicketTimes


class _Cred(msgspec.Struct, array_like=True, frozen=True):
    """A ``KrbCred`` that its sender has checked."""

    der: bytes
    client: str
    times: tuple[int, int, int]
    tickets: int
    addressless: bool


class _Failure(msgspec.Struct, array_like=True, frozen=True):
    """One of our errors: the name of its class, and what it says."""

    family: str
    message: str
    code: str
    hint: str | None


class _Done(msgspec.Struct, array_like=True, frozen=True):
    """What came of it after so many seconds."""

    seconds: float
    cred: _Cred | None
    failure: _Failure | None


_creds, _dones = msgspec.msgpack.Decoder(_Cred), msgspec.msgpack.Decoder(_Done)


def request(cred: KrbCred) -> bytes:
    """The question of the owner."""
    return msgspec.msgpack.encode(_packed(cred))


def renewed(payload: bytes) -> bytes:
    """The answer of a front, whatever happens; asks the KDC, and blocks."""
    began = time.monotonic()
    cred = failure = None
    try:
        cred = _packed(renew_at_kdc(_unpacked(_creds.decode(payload))))
    except Error as error:
        failure = _Failure(type(error).__name__, error.message, error.code, error.hint)
    except Exception:
        log.get().exception("renew.bug")
        failure = _Failure(InternalError.__name__, "a bug; see the log", "bug", None)
    return msgspec.msgpack.encode(_Done(time.monotonic() - began, cred, failure))


def result(payload: bytes) -> tuple[float, KrbCred | Error]:
    """What a front's answer says: how long the KDC took, and the new credential or what ``renew_at_kdc`` raised."""
    done = _dones.decode(payload)
    if done.cred is not None:
        return done.seconds, _unpacked(done.cred)
    failure = done.failure or _Failure(InternalError.__name__, "an empty answer", "bug", None)
    family: type[Error] = getattr(errors, failure.family)
    return done.seconds, family(failure.message, code=failure.code, hint=failure.hint)


def _packed(cred: KrbCred) -> _Cred:
    times = cred.times
    return _Cred(
        cred.der, cred.client, (times.starttime, times.endtime, times.renew_till), cred.tickets, cred.addressless
    )


def _unpacked(cred: _Cred) -> KrbCred:
    return KrbCred(cred.der, cred.client, TicketTimes(*cred.times), cred.tickets, cred.addressless)
