"""What ``doctor`` looks at and what it says: one ``Hop`` per part of a ticket's way."""

from __future__ import annotations

import pwd
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hipercow_slurm.values import KrbCred

Result = Literal["good", "warning", "bad"]


@dataclass(frozen=True, slots=True)
class Hop:
    """One hop: what was found in a sentence, and what to do about it."""

    hop: str
    result: Result
    sentence: str
    todo: str = ""


@dataclass(slots=True)
class Patient:
    """What is looked at.

    Attributes:
        config: agent.toml of this host.
        job_id: None: the host in general.
        nfs_conf, mounts: where gssd's settings and the mounts are read.
        cred: found on the way: with what the cache is asked.
        job: the agent's own words about the job.
    """

    config: Path
    job_id: int | None = None
    nfs_conf: Path = Path("/etc/nfs.conf")
    mounts: Path = Path("/proc/self/mounts")
    cred: KrbCred | None = None
    job: dict[str, Any] = field(default_factory=dict)


def clock(seconds: int) -> str:
    """UTC, as everywhere in our output."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def name_of(uid: int) -> str:
    """The account's name, or its uid if it has none here."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
