"""hipercow's driver ``slurm``: what hipercow asks of a cluster, answered through the HTTP API.

The contract is hipercow's ``HipercowDriver``; a driver must register itself with the class decorator when it is
imported. Rule: whatever goes wrong leaves here as one sentence and the next step, as hipercow prints it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import taskwait
from hipercow import ui
from hipercow.driver import HipercowDriver, hipercow_driver
from hipercow.resources import ClusterResources, TaskResources
from hipercow.root import Root
from hipercow.task import task_status
from hipercow.util import check_python_version, read_file_if_exists
from pydantic import BaseModel

from hipercow_slurm import Client, Job
from hipercow_slurm.client.models import get, optional
from hipercow_slurm.client.options import JobOptions
from hipercow_slurm.errors import ConfigError, Error
from hipercow_slurm.hipercow import mapping, paths, scripts, settling


class DriverError(Exception):
    """What hipercow shows: what failed, and what to do."""


@contextlib.contextmanager
def in_hipercows_words() -> Iterator[None]:
    """Our errors have their hint apart; hipercow prints one sentence."""
    try:
        yield
    except Error as error:
        hint = f"; {error.hint}" if error.hint else ""
        # An error's hint may be a bare command, as the program prints it below the message.
        hint = f", please run '{error.hint}'" if (error.hint or "").startswith("hipercow-slurm ") else hint
        raise DriverError(f"{error.message}{hint}") from error


class SlurmConfiguration(BaseModel):
    """What ``driver configure slurm`` found out and wrote into the root.

    Attributes:
        url, cluster: the cluster, as ``hipercow-slurm`` knows it. share: where the root lies, for people.
        root: the root's folder on the nodes. python: a Python there that has hipercow.
    """

    url: str
    cluster: str | None = None
    share: str
    root: str
    python_version: str
    python: str
    setup: str = ""
    build_queue: str | None = None
    test_queue: str | None = None


@hipercow_driver
class SlurmDriver(HipercowDriver):
    """Tasks as Slurm jobs."""

    name = "slurm"
    config: SlurmConfiguration

    def __init__(self, config: BaseModel) -> None:
        assert isinstance(config, SlurmConfiguration)
        self.config = config

    @staticmethod
    def configure(root: Root, **kwargs: Any) -> SlurmConfiguration:
        """Find the root on the nodes. Arguments: ``python_version``, ``url``, ``cluster``; all may be left out."""
        unknown = set(kwargs) - {"python_version", "url", "cluster"}
        if unknown:
            raise DriverError(f"The driver 'slurm' has no argument '{min(unknown)}'")
        version = check_python_version(kwargs.get("python_version"))
        cluster = kwargs.get("cluster")
        with in_hipercows_words(), Client(kwargs.get("url"), cluster=cluster) as client:
            told = client.get("/v1/hipercow")
            rows = paths.told(client.get("/v1/paths"))
            mount, on_nodes = paths.find(root.path.resolve(), paths.mounts(), rows)
            return SlurmConfiguration(
                url=client.url,
                cluster=cluster,
                share=str(mount.share),
                root=on_nodes,
                python_version=version,
                python=_python(version, get(told, "python", dict)),
                setup=optional(told, "setup", str) or "",
                build_queue=optional(told, "build_queue", str),
                test_queue=optional(told, "test_queue", str),
            )

    @staticmethod
    def parse_configuration(data: str) -> SlurmConfiguration:
        """From what was written into the root."""
        return SlurmConfiguration.model_validate_json(data)

    def configuration(self) -> SlurmConfiguration:
        """What was found out when it was configured."""
        return self.config

    def show_configuration(self) -> None:
        """Print it as hipercow's own drivers print theirs."""
        ui.li(f"[bold]Cluster[/bold]: {self.config.url}")
        ui.li("[bold]Path mapping[/bold]")
        ui.li(f"share '{self.config.share}'", indent=2, symbol="-")
        ui.li(f"on the nodes '{self.config.root}'", indent=2, symbol="-")
        ui.li(f"[bold]Python version[/bold]: {self.config.python_version} ({self.config.python})")

    def submit(self, task_id: str, resources: TaskResources | None, root: Root) -> None:
        """Submit a task: however often it is tried, it becomes one job."""
        folder = _relative(root.path_task(task_id, relative=True))
        script = scripts.task(self._nodes, task_id, folder)
        with in_hipercows_words(), self.client() as client:
            job = self._submit(client, script, task_id, folder, mapping.job_options(resources))
            submitted = settling.Submitted(job.job_id, client.url, client.credentials.username)
        (root.path_task(task_id) / scripts.JOB_ID).write_text(f"{job.job_id}\n")
        settling.note(task_id, submitted, root)

    def provision(self, name: str, id: str, root: Root) -> None:
        """Provision an environment in a job, with its log here; raises if it fails."""
        folder = _relative(root.path_provision(name, id, relative=True))
        script = scripts.provision(self._nodes, name, id)
        with in_hipercows_words(), self.client() as client:
            build = self.resources().queues.build
            job = self._submit(client, script, id, folder, {"partition": build})
            result = taskwait.taskwait(_Provisioning(job, root.path_provision_log(name, id)))
        if result.status != "success":
            outer = read_file_if_exists(root.path / folder / scripts.OUTER_LOG)
            ui.logs("Slurm's log of the job", outer)
            raise DriverError(f"Provisioning failed: {mapping.sentence(job.info)}")
        ui.alert_success(f"Provisioned environment '{name}' (Slurm job {job.job_id})")

    def resources(self) -> ClusterResources:
        """Queues, and the largest node's cores and memory, as they are now."""
        with in_hipercows_words(), self.client() as client:
            return mapping.cluster_resources(
                client.partitions(), client.nodes(), build=self.config.build_queue, test=self.config.test_queue
            )

    def task_log(self, task_id: str, *, outer: bool = False, root: Root) -> str | None:
        """A task's log; ``outer``: what its job's script printed, and Slurm about it."""
        if outer:
            return read_file_if_exists(root.path_task(task_id) / scripts.OUTER_LOG)
        if not task_status(task_id, root).is_terminal():
            # hipercow asks for the log while it waits for a task, and asks a driver nothing else then.
            with in_hipercows_words(), self.client() as client:
                settling.settle_now_and_then(root, client)
        return super().task_log(task_id, outer=False, root=root)

    @property
    def _nodes(self) -> scripts.Nodes:
        return scripts.Nodes(self.config.root, self.config.python, self.config.setup)

    def client(self) -> Client:
        """The cluster that the root was configured for, with the session of the last login there."""
        return Client(self.config.url, cluster=self.config.cluster)

    def _submit(self, client: Client, script: str, name: str, folder: PurePosixPath, more: JobOptions) -> Job:
        options: JobOptions = {
            "name": name,
            "working_directory": self.config.root,
            "output": scripts.outer_log(self._nodes, folder),
            "ignore_directives": True,
            **more,
        }
        job = client.submit(script, idempotency_key=f"hipercow-{name}", **options)
        for warning in job.warnings:
            ui.alert_warning(warning)
        return job


class _Provisioning(taskwait.Task):
    """A provisioning job, for taskwait: its status by Slurm, its log on the share."""

    status_waiting = {"submitted"}
    status_running = {"running"}

    def __init__(self, job: Job, log: Path) -> None:
        self._job, self._log = job, log

    def status(self) -> str:
        return str(mapping.status(self._job.refresh()))

    def log(self) -> list[str] | None:
        text = read_file_if_exists(self._log)
        return text.splitlines() if text else None

    def has_log(self) -> bool:
        return True


def _python(version: str, known: dict[str, Any]) -> str:
    """The nodes' Python of that version. Raises ConfigError "no-python"."""
    if version not in known:
        raise ConfigError(
            f"Python {version} is not available on the cluster",
            code="no-python",
            hint=f"choose one with --python-version: {', '.join(sorted(known)) or 'its operator has named none'}",
        )
    return str(known[version])


def _relative(path: Path) -> PurePosixPath:
    """A path below the root, as the nodes write it."""
    return PurePosixPath(path.as_posix())
