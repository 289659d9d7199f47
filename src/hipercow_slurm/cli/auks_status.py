"""Which exit status of AUKS' client an error of ours is: the table of the protocol notes, section 16.

Scripts look at these numbers. AUKS' own are negative and come out modulo 256.
"""

from __future__ import annotations

from hipercow_slurm.auksconf import conf as auks_conf
from hipercow_slurm.errors import CredentialError, Error

UNREADABLE, INCOMPLETE, GENERIC = 63, 61, 255
NO_CCACHE, NO_TGT, NO_LOCALNAME, NOT_ADDRESSLESS = 4, 2, 44, 251
NOT_DONE, REFUSED, GET_FAILED = 90, 147, 146
ADD_UNREACHABLE, ADD_NOT_PROVED, ADD_NO_REPLY = 247, 153, 145
STILL_VALID, EXPIRED, TOO_SHORT, KDC_REFUSED, NOT_STORED = 39, 40, 41, 249, 87

# Errors that mean the same in every verb that has no status of its own for all of them.
BY_CODE = {
    "no-ccache": NO_CCACHE,
    "no-tgt": NO_TGT,
    "no-localname": NO_LOCALNAME,
    "not-addressless": NOT_ADDRESSLESS,
    "cache-refused": REFUSED,
    "still-valid": STILL_VALID,
    "ticket-over": EXPIRED,
    "lifetime-too-short": TOO_SHORT,
    "renew-refused": KDC_REFUSED,
    "not-stored": NOT_STORED,
}
ADD = {"cache-unreachable": ADD_UNREACHABLE, "no-role": ADD_NO_REPLY, "cache-closed": ADD_NO_REPLY}


def of(verb: str, error: Error) -> int:
    """Exit status for an error of a verb."""
    if verb in ("get", "send") and error.code != "not-stored":
        return GET_FAILED
    if verb in ("ping", "dump", "remove"):
        return REFUSED if error.code == "cache-refused" else NOT_DONE
    if error.code in BY_CODE:
        return BY_CODE[error.code]
    if verb == "add":
        # What is left of an ADD is the proof of who we are: the KDC, the handshake.
        return ADD.get(error.code, ADD_NOT_PROVED)
    return KDC_REFUSED if verb == "renew" and isinstance(error, CredentialError) else GENERIC


def of_init(error: Error) -> int:
    """Exit status for a configuration that cannot be used."""
    return INCOMPLETE if error.code == auks_conf.INCOMPLETE else UNREADABLE
