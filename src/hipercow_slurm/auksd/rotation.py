"""``hipercow-slurm auksd --rotate-key``: a new key takes the old one's place, with the daemon running or not.

    key file: new, old --> every record wrapped with new --> old retired in the store --> key file: new

Each step is safe to stop after: run it again, and what is left over is done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from hipercow_slurm.auksd import config
from hipercow_slurm.errors import ConfigError, UnavailableError
from hipercow_slurm.store import keyfile
from hipercow_slurm.store.base import Store
from hipercow_slurm.store.choose import is_postgres, open_store
from hipercow_slurm.store.envelope import Keys, read_key_file
from hipercow_slurm.store.sqlite_file import key_use

GROUP = 256
LOOK_S = 0.2
Say = Callable[[str], None]


async def rotate(path: Path, *, wait_s: float = 120.0, say: Say = print, state: Path | None = None) -> None:
    """Rotate the key of the store that the configuration ``path`` names.

    Raises:
        ConfigError: the key file or the store cannot be used.
        UnavailableError: ``rotation-unfinished``: after ``wait_s`` an old key is still in use. Both keys stay in the
            file, so nothing is lost; run it again.
    """
    section = config.load(path, state=state).auksd
    file = Path(section.key_file)
    old = set(await asyncio.to_thread(read_key_file, file))
    keys = await asyncio.to_thread(keyfile.add_key, file)
    say(f"{file}: new key {keys.active}; {len(old)} old")
    end = time.monotonic() + wait_s
    store = await _ours(section.store, keys)
    try:
        retired = await (_by_hand(store, keys, end) if store is not None else _by_daemon(section.store, old, end))
    finally:
        if store is not None:
            await store.close()
    await asyncio.to_thread(keyfile.drop_keys, file, retired)
    for name in sorted(old & retired):
        say(f"{file}: key {name} is retired and gone from the file")
    if not old <= retired:
        raise UnavailableError(
            f"{', '.join(sorted(old - retired))} is still in use after {wait_s:.0f} s",
            code="rotation-unfinished",
            hint="is the new key file on every host that runs auksd, and readable for it? Then run this again",
        )


async def _ours(where: str, keys: Keys) -> Store | None:
    """The store, opened by us; None if the daemon has it (only SQLite's has one owner)."""
    try:
        return await open_store(where, keys)
    except ConfigError as error:
        if is_postgres(where) or "in use" not in error.message:
            raise
        return None


async def _by_hand(store: Store, keys: Keys, end: float) -> set[str]:
    while True:
        while await store.rewrap(GROUP):
            pass
        left = {name for name in keys if name != keys.active and not await store.retire(name)}
        left &= (await store.key_use()).known  # one that was never used need not be retired
        if not left or time.monotonic() > end:
            return {name for name in keys if name != keys.active} - left
        await asyncio.sleep(LOOK_S)


async def _by_daemon(where: str, old: set[str], end: float) -> set[str]:
    """Wait until the running daemon has retired the old keys; those it never used need not be."""
    while True:
        use = await asyncio.to_thread(key_use, Path(where))
        over = {name for name in old if name not in use.known}
        if over == old or time.monotonic() > end:
            return over
        await asyncio.sleep(LOOK_S)
