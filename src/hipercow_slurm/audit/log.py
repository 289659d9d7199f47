"""The audit log as programs use it: what goes in a line, when it is on disk, what happens when it cannot be written.

Rule 1: with ``required`` (the default) a decision that cannot be noted is refused: ``note`` raises before anybody has
been told the result. Rule 2: without it the line is lost, the loss is counted, and the next line that can be written
says how many.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Required, TypedDict, Unpack

from hipercow_slurm import log
from hipercow_slurm.audit.chain import OWN, Link
from hipercow_slurm.audit.file import ChainFile
from hipercow_slurm.errors import UnavailableError

Sync = Literal["each", "interval"]


class Decision(TypedDict, total=False):
    """What one line says: who asked for what, from where, about whose ticket, and what came of it and why."""

    verb: Required[str]
    result: Required[str]
    who: str | None
    peer: str | None
    uid: int | None
    why: str | None
    request_id: str | None


class AuditLog:
    """One program's audit log. Thread-safe; ``note`` and its tasks belong to one event loop.

    Args:
        path: made 0600 if it is not there.
        program: goes into every line.
        key: 32 bytes (``read_key``), or None for a chain without a key.
        sync: ``each``: a noted line is on disk; ``interval``: at most ``interval_s`` later.
        required: raise when a line cannot be written.
        clock: seconds since 1970.

    Raises:
        ConfigError: see ``ChainFile``.
        UnavailableError: code ``audit-unwritable``: the first line cannot be written.
    """

    def __init__(
        self,
        path: Path,
        program: str,
        *,
        key: bytes | None = None,
        sync: Sync = "interval",
        interval_s: float = 1.0,
        required: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._program = program
        self._each = sync == "each"
        self._interval_s = interval_s
        self._required = required
        self._clock = clock
        self._lock = threading.Lock()
        self._synced = 0  # sequence number of the last line known to be on disk
        self._synced_at = time.monotonic()
        self._syncing: asyncio.Task[None] | None = None
        try:
            self._file = ChainFile(path, key=key, stamp=self._stamp)
        except OSError as error:
            raise self._unwritable(error) from error

    @property
    def last(self) -> Link:
        """Sequence number and hash of the last line; kept elsewhere, the hash shows a cut-off end."""
        return self._file.last

    @property
    def waits(self) -> bool:
        """True if ``note`` waits for the disk."""
        return self._each

    @property
    def lost(self) -> int:
        """Lines lost since the last one that was written."""
        return self._file.lost

    async def note(self, **decision: Unpack[Decision]) -> Link | None:
        """Write one decision; the wait for the disk (``each``) is shared and off the event loop.

        Returns:
            The line's link, or None if it was lost.

        Raises:
            UnavailableError: code ``audit-unwritable``, only with ``required``.
        """
        if not self._each:
            return self.note_soon(**decision)
        link = self._append(decision)
        if link is not None:
            await self._on_disk(link)
        return link

    def note_soon(self, **decision: Unpack[Decision]) -> Link | None:
        """As ``note``; the line is written, and on disk at most ``interval_s`` later, whatever ``sync`` says.

        Raises:
            UnavailableError: as ``note``.
        """
        link = self._append(decision)
        if link is not None and (self._syncing is None or self._syncing.done()):
            self._syncing = asyncio.create_task(self._sync_later())
        return link

    def note_now(self, **decision: Unpack[Decision]) -> Link | None:
        """As ``note``, for threads and programs without an event loop: waits for the disk itself.

        With ``interval`` a line is synced by the first one that comes ``interval_s`` after it, or by ``close``.
        """
        link = self._append(decision)
        if link is not None and (self._each or time.monotonic() - self._synced_at >= self._interval_s):
            try:
                self._sync()
            except OSError as error:
                self._not_on_disk(error)
        return link

    def reopen(self) -> None:
        """After a rotation (HUP): go on in a new file whose first line names the old one's last.

        Raises:
            ConfigError, UnavailableError: the new file cannot be used; the old one still is.
        """
        with self._lock:
            try:
                self._file.reopen()
            except OSError as error:
                raise self._unwritable(error) from error

    def close(self) -> None:
        """Sync and close; an error is logged, there is nobody left to tell."""
        if self._syncing is not None:
            self._syncing.cancel()
        with self._lock:
            self._synced = self._file.last.seq  # nobody waits beyond this point
            try:
                self._file.close()
            except OSError as error:
                log.get().error("audit.unwritable", path=str(self._path), why=error.strerror)

    def _append(self, decision: Decision) -> Link | None:
        assert not decision["verb"].startswith(OWN), decision["verb"]
        fields = {
            "verb": decision["verb"],
            "who": decision.get("who"),
            "from": decision.get("peer"),
            "uid": decision.get("uid"),
            "result": decision["result"],
            "why": decision.get("why"),
            "request_id": decision.get("request_id"),
        }
        with self._lock:
            try:
                return self._file.append(fields)
            except OSError as error:
                if self._required:
                    raise self._unwritable(error) from error
                if self._file.lost == 0:
                    log.get().error("audit.unwritable", path=str(self._path), why=error.strerror)
                self._file.lost += 1
                return None

    def _not_on_disk(self, error: OSError) -> None:
        """A written line may not survive a power cut."""
        if self._required:
            raise self._unwritable(error) from error
        log.get().error("audit.unwritable", path=str(self._path), why=error.strerror)

    def _unwritable(self, error: OSError) -> UnavailableError:
        return UnavailableError(
            f"cannot write the audit log {self._path}: {error.strerror}",
            code="audit-unwritable",
            hint="free space, or set audit.required = false to go on without a trace",
        )

    def _stamp(self) -> dict[str, Any]:
        return {"ts": log.moment(self._clock()), "program": self._program}

    def _sync(self) -> None:
        """Put everything written so far on disk. On a descriptor of its own: ``reopen`` may close the file meanwhile.

        Raises:
            OSError: it may not be there.
        """
        with self._lock:
            seq, fd = self._file.last.seq, os.dup(self._file.fd)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)
        with self._lock:
            self._synced, self._synced_at = max(self._synced, seq), time.monotonic()

    async def _on_disk(self, link: Link) -> None:
        """Wait for the sync under way, or start one; a waiter's cancellation leaves it to the others."""
        while self._synced < link.seq:
            if self._syncing is None or self._syncing.done():
                self._syncing = asyncio.create_task(asyncio.to_thread(self._sync))
            task = self._syncing
            await asyncio.wait({task})
            if not task.cancelled() and isinstance(error := task.exception(), OSError):
                self._not_on_disk(error)
                return

    async def _sync_later(self) -> None:
        """Sync until nothing is new; an error is logged, and the next note tries again."""
        while self._synced < self._file.last.seq:
            await asyncio.sleep(self._interval_s)
            try:
                await asyncio.to_thread(self._sync)
            except OSError as error:
                log.get().error("audit.unwritable", path=str(self._path), why=error.strerror)
                return
