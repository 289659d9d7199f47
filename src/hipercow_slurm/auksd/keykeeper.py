"""Takes over a changed key file while the daemon runs: adopt, wrap every record anew, retire what nobody needs.

A file that cannot be used (a key missing that records need, a syntax error) changes nothing: it is logged, and the
keys that were in use stay in use.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from hipercow_slurm import log
from hipercow_slurm.errors import Error
from hipercow_slurm.store.base import Store
from hipercow_slurm.store.envelope import Keys, read_key_file

LOOK_S = 1.0
AGAIN_S = 5.0  # while old keys are in the file: other instances may still seal with them
GROUP = 64  # records per step: requests get in between


class KeyKeeper:
    """Watches the key file ``path`` of ``store``, which was opened with ``keys``."""

    def __init__(self, store: Store, path: Path, keys: Keys) -> None:
        self._store = store
        self._path = path
        self._keys = keys
        self._seen = self._stamp()
        self._log = log.get()

    async def run(self) -> None:
        """Watch until cancelled."""
        loop = asyncio.get_running_loop()
        again = loop.time()
        while True:
            try:
                if (stamp := self._stamp()) != self._seen:
                    self._seen = stamp
                    again = loop.time()
                    await self._adopt()
                if len(list(self._keys)) > 1 and loop.time() >= again:
                    again = loop.time() + AGAIN_S
                    await self._clear_out()
            except Error as error:
                self._log.error("store.key_refused", code=error.code, why=error.message)
            await asyncio.sleep(LOOK_S)

    async def _adopt(self) -> None:
        keys = await asyncio.to_thread(read_key_file, self._path)
        await self._store.adopt(keys)
        if keys.active != self._keys.active:
            self._log.info("store.key_active", key=keys.active)
        self._keys = keys

    async def _clear_out(self) -> None:
        count = 0
        while done := await self._store.rewrap(GROUP):
            count += done
        if count:
            self._log.info("store.rewrapped", key=self._keys.active, records=count)
        known = (await self._store.key_use()).retired
        for name in self._keys:
            if name not in known and name != self._keys.active and await self._store.retire(name):
                self._log.info("store.key_retired", key=name)

    def _stamp(self) -> tuple[int, int, int]:
        try:
            found = os.stat(self._path)  # noqa: PTH116  # as quick as it gets, each second
        except OSError:
            return (0, 0, 0)
        return (found.st_ino, found.st_mtime_ns, found.st_size)
