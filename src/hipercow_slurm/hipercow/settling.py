"""A task whose job Slurm ended must not look as if it ran for ever: what is done about it from the laptop.

    <root>/hipercow/py/slurm/unsettled/<task id>    written at submission, removed when the task has its last status:
                                                    {"job_id", "url", "username"}

The job's own script writes the task's last status wherever it can (scripts.py). Where it could not (killed with its
script, cancelled while it waited, node gone), ``settle`` asks Slurm and writes it. A root may be several people's: each
settles only what they submitted themselves, because nobody may see others' jobs.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType

from hipercow.root import OptionalRoot, Root, open_root
from hipercow.task import TaskStatus, is_valid_task_id, set_task_status, task_status

from hipercow_slurm import Client, JobInfo
from hipercow_slurm.errors import Error
from hipercow_slurm.hipercow import mapping

POLL_S = 5.0
# A success on a network file system may take this long to be seen here.
GRACE = timedelta(seconds=60)
_ONE_BY_ONE = 3


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job and whose it is."""

    job_id: int
    url: str
    username: str


def note(task_id: str, submitted: Submitted, root: Root) -> None:
    """Remember that ``task_id`` has a job whose end is to be looked after."""
    path = _folder(root) / task_id
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(submitted)))


def _folder(root: Root) -> Path:
    return root.path_base() / "slurm" / "unsettled"


def unsettled(root: Root) -> dict[str, Submitted]:
    """Tasks without a last status, and their jobs; those that have one are forgotten on the way."""
    found = {}
    for path in sorted(_folder(root).glob("*")):
        if not is_valid_task_id(path.name):
            continue
        if task_status(path.name, root) & (TaskStatus.TERMINAL | TaskStatus.MISSING):
            path.unlink(missing_ok=True)
            continue
        # Half-written by someone at this moment: the next look will find it whole.
        with contextlib.suppress(OSError, ValueError, TypeError):
            found[path.name] = Submitted(**json.loads(path.read_text()))
    return found


def settle(root: OptionalRoot = None, *, client: Client | None = None) -> dict[str, TaskStatus]:
    """Write the last status of each of one's tasks whose job has ended without writing it; what was written.

    Args:
        root: the hipercow root, or a path in it; None: from the working directory.
        client: whom to ask; None: the cluster and session of the last login.

    Raises:
        Error: nobody answers, or one is not logged in.
    """
    root = open_root(root)
    waiting = unsettled(root)
    if not waiting:
        return {}
    with contextlib.ExitStack() as stack:
        client = client or stack.enter_context(Client())
        me = (client.url, client.credentials.username)
        mine = {task_id: job for task_id, job in waiting.items() if (job.url, job.username) == me}
        jobs = _look(client, mine)
    settled = {}
    for task_id, job in mine.items():
        verdict = judge(task_id, jobs.get(job.job_id), job, now=datetime.now(UTC))
        if verdict is not None and not task_status(task_id, root).is_terminal():
            status, why = verdict
            with root.path_task_log(task_id).open("a") as log:
                log.write(f"{why}\n")
            set_task_status(task_id, status, None, root)
            (_folder(root) / task_id).unlink(missing_ok=True)
            settled[task_id] = status
    return settled


def _look(client: Client, tasks: Mapping[str, Submitted]) -> dict[int, JobInfo]:
    """Jobs by number; one request for each of a few, or one for all that there are."""
    if len(tasks) > _ONE_BY_ONE:
        return {job.job_id: job for job in client.job_infos(forgotten="true")}
    found = {}
    for task in tasks.values():
        try:
            found[task.job_id] = client.job_info(task.job_id)
        except Error as error:
            if error.code != "no-such-job":
                raise
    return found


def judge(task_id: str, job: JobInfo | None, known: Submitted, *, now: datetime) -> tuple[TaskStatus, str] | None:
    """A task's last status and why, by its job; None: it is not known yet, or better known by the task itself."""
    if job is None or job.name != task_id:
        return TaskStatus.FAILURE, f"Slurm no longer knows job {known.job_id}; how it ended is not known"
    if not job.ended:
        return None
    status = mapping.status(job)
    if status == TaskStatus.SUCCESS:
        if job.end_time is not None and now - job.end_time < GRACE:
            return None
        status = TaskStatus.FAILURE
    return status, mapping.sentence(job)


_last: dict[Path, float] = {}


def settle_now_and_then(root: Root, client: Client) -> None:
    """``settle``, at most once per POLL_S, and without a word if the cluster cannot be asked."""
    now = time.monotonic()
    if now - _last.get(root.path, -POLL_S) < POLL_S:
        return
    _last[root.path] = now
    with contextlib.suppress(Error):
        settle(root, client=client)


class Watcher:
    """Settles a root's tasks every few seconds, in a thread of its own, until the block ends.

    with Watcher():
        task_wait(task_id)
    """

    def __init__(self, root: OptionalRoot = None, *, poll_s: float = POLL_S) -> None:
        self._root, self._poll_s = open_root(root), poll_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hipercow-slurm-watcher", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end.set()

    def _run(self) -> None:
        said = ""
        for _ in self._ticks():
            try:
                settle(self._root)
            except (Error, OSError) as error:
                # Said once: whoever waits must know that a killed task would go unnoticed.
                if str(error) != said:
                    said = str(error)
                    print(f"warning: cannot ask Slurm about your tasks: {said}", file=sys.stderr, flush=True)

    def _ticks(self) -> Iterator[None]:
        yield
        while not self._end.wait(self._poll_s):
            yield
