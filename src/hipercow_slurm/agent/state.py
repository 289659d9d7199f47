"""What the agent remembers of each job on disk, so that a restarted one goes on: ``STATE_DIR/JOBID.json``.

No secrets: who, where the ccache is, until when its ticket lives. The record is on the disk (fsync) before the ccache
is written: whatever happens then, somebody knows which file has to go.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgspec

from hipercow_slurm.agent.jobs import Job, Ticket
from hipercow_slurm.errors import ConfigError
from hipercow_slurm.values import TicketTimes

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One job as JSON.

    Attributes:
        boot: the kernel's boot id, a job of another boot has no process here.
        path: written by builds that knew files only, in place of ``ccache``.
    """

    job_id: int
    uid: int
    gid: int
    started: int
    boot: str
    ccache: str = ""
    path: str = ""
    client: str | None = None
    starttime: int = 0
    endtime: int = 0
    renew_till: int = 0

    def __post_init__(self) -> None:
        if bool(self.ccache) == bool(self.path):
            raise ValueError("it names no ccache, or two")


class State:
    """The folder; one agent at a time (a lock held as long as the process lives).

    Raises:
        ConfigError: the folder cannot be made or is in use by another agent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.boot = BOOT_ID.read_text().strip()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot use agent.state_dir {folder}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise ConfigError(f"another agent is using agent.state_dir {folder}") from error

    def close(self) -> None:
        os.close(self._lock)

    def save(self, job: Job, *, durable: bool) -> None:
        """Write the job's record aside and rename it; ``durable`` survives a power loss (needed once per job)."""
        aside, final = self._folder / f"{job.job_id}.new", self._folder / f"{job.job_id}.json"
        with open(aside, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(msgspec.json.encode(self._record(job)))
            file.flush()
            if durable:
                os.fsync(file.fileno())
        aside.replace(final)
        if durable:
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def forget(self, job_id: int) -> None:
        (self._folder / f"{job_id}.json").unlink(missing_ok=True)

    def load(self) -> tuple[list[Job], list[Job], list[str]]:
        """Jobs of this boot, jobs of earlier boots, and names of files that make no sense (left where they are)."""
        now: list[Job] = []
        gone: list[Job] = []
        strange: list[str] = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                record = msgspec.json.decode(path.read_bytes(), type=Record)
            except (OSError, msgspec.DecodeError):
                strange.append(path.name)
                continue
            (now if record.boot == self.boot else gone).append(_job(record))
        return now, gone, strange

    def _record(self, job: Job) -> Record:
        times = job.ticket.times if job.ticket else TicketTimes(0, 0, 0)
        client = job.ticket.client if job.ticket else None
        return Record(
            job.job_id, job.uid, job.gid, job.started, self.boot, job.ccache,
            client=client, starttime=times.starttime, endtime=times.endtime, renew_till=times.renew_till,
        )  # fmt: skip


def _job(record: Record) -> Job:
    times = TicketTimes(record.starttime, record.endtime, record.renew_till)
    ticket = Ticket(record.client, times) if record.client else None
    ccache = record.ccache or f"FILE:{record.path}"
    return Job(record.job_id, record.uid, record.gid, ccache, record.started, ticket)
