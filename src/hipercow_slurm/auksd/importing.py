"""Taking over what AUKS left in its CacheDir: files ``aukscc_<uid>``, each a FILE ccache with a TGT in clear.

The same rules as for an ADD by an administrator: the uid is derived from the principal, the number in the file name is
ignored (as AUKS does); what has expired or is bound to addresses stays out; a better ticket in the store stays. The
files are only read.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hipercow_slurm import log
from hipercow_slurm.auksd.config import Config
from hipercow_slurm.auksd.deciding import check_cred, replaces
from hipercow_slurm.auksd.service import UidOf
from hipercow_slurm.auksd.workers import Workers
from hipercow_slurm.errors import CredentialError, Error
from hipercow_slurm.krb5 import ccfile
from hipercow_slurm.store.base import Store
from hipercow_slurm.values import KrbCred

PREFIX = "aukscc_"
AT_ONCE = 64  # so that the store commits many together


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one file: ``stored``, ``kept-better`` or an error's code; ``why`` is a sentence."""

    file: str
    result: str
    why: str
    principal: str | None = None
    uid: int | None = None


async def import_dir(
    folder: Path,
    store: Store,
    accounts: UidOf,
    workers: Workers,
    *,
    now: Callable[[], float] = time.time,
) -> list[Taken]:
    """Take every file of ``folder`` over; one result each, by name.

    Raises:
        CredentialError: ``import-dir``: the folder cannot be read.
        UnavailableError: the store's; files before it are in.
    """
    files = await workers.run(_files, folder)
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(file: Path) -> Taken:
        async with turn:
            return await _import(file, store, accounts, workers, now)

    return list(await asyncio.gather(*map(one, files)))


@dataclass(frozen=True, slots=True)
class Begun:
    """An import at the first start; ``marker`` is a file that is there until it is done."""

    folder: Path
    marker: Path


def begin(config: Config, *, first: bool) -> Begun | None:
    """Note that the configured ``import_dir`` is to be imported; to be called before the store is made.

    None if there is nothing to do: no folder, or a store that has seen it. A daemon killed amid its import does it
    again at the next start, which changes nothing for what was imported already.
    """
    section = config.auksd
    marker = Path(section.store + ".importing")
    if section.import_dir is None or not (first or marker.exists()) or not Path(section.import_dir).is_dir():
        return None
    marker.touch(mode=0o600)
    return Begun(Path(section.import_dir), marker)


async def finish(begun: Begun, store: Store, accounts: UidOf, workers: Workers) -> None:
    """Import, and log what became of each file."""
    logger = log.get()
    try:
        done = await import_dir(begun.folder, store, accounts, workers)
    except CredentialError as error:
        logger.error("auksd.import_failed", folder=str(begun.folder), code=error.code, why=error.message)
        return
    for one in done:
        say = logger.info if one.uid is not None else logger.warning
        say("auksd.import", file=one.file, principal=one.principal, uid=one.uid, result=one.result, why=one.why)
    logger.info("auksd.imported", folder=str(begun.folder), summary=summary(done))
    begun.marker.unlink()


def summary(done: list[Taken]) -> str:
    """``3 files: 2 stored, 1 expired``."""
    counts = Counter(one.result for one in done)
    return f"{len(done)} files: " + (", ".join(f"{n} {result}" for result, n in counts.most_common()) or "nothing")


async def _import(file: Path, store: Store, accounts: UidOf, workers: Workers, now: Callable[[], float]) -> Taken:
    principal = None
    try:
        cred = await workers.run(_read, file)
        principal = cred.client
        check_cred(cred, now())
        uid = await accounts.uid(cred.client)
    except (Error, OSError) as error:
        code = error.code if isinstance(error, Error) else "unreadable"
        return Taken(file.name, code, str(error), principal)
    done = await store.put(uid, cred, lambda old, new: replaces(old, new, now()))
    if done.stored:
        return Taken(file.name, "stored", f"good until {cred.times.endtime}", principal, uid)
    return Taken(file.name, "kept-better", "the store holds a better one", principal, uid)


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.iterdir() if file.name.startswith(PREFIX))
    except OSError as error:
        raise CredentialError(f"cannot read {folder}: {error}", code="import-dir") from error


def _read(file: Path) -> KrbCred:
    """The TGT in a file; a link, a device or a FIFO is not opened."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as opened:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{file} is not a regular file")
        return ccfile.read_tgt(opened.read(ccfile.MAX_FILE + 1))
