"""``hipercow slurm check``: is everything there that the driver needs, and what to do about what is not.

Also ``cancel``, which hipercow has no word for. Printed as hipercow's ``dide check`` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hipercow import ui
from hipercow.driver import load_driver
from hipercow.root import OptionalRoot, open_root
from hipercow.task import check_task_id, task_status

from hipercow_slurm import Client
from hipercow_slurm.errors import Error
from hipercow_slurm.hipercow import paths, scripts, settling
from hipercow_slurm.hipercow.driver import DriverError, SlurmDriver, in_hipercows_words


def check(path: Path | None = None) -> None:
    """Print what was found; raises DriverError if something is missing."""
    here = (path or Path.cwd()).resolve()
    steps: tuple[tuple[str, Callable[[], str]], ...] = (
        ("Checking your login", _login),
        ("Checking paths", lambda: _share(here)),
        ("Checking hipercow root", lambda: _root(here)),
    )
    found = [_step(title, look) for title, look in steps]  # all of them, also after one that failed
    if not all(found):
        raise DriverError("You have issues to address before using hipercow")
    ui.alert_success("You look good to go!")


def _step(title: str, look: Callable[[], str]) -> bool:
    ui.alert_arrow(title)
    try:
        with in_hipercows_words():
            ui.alert_success(look(), indent=4)
    except Exception as error:  # hipercow raises plain ones
        ui.alert_danger(str(error), indent=4)
        return False
    return True


def _login() -> str:
    with Client() as client:
        ticket = client.ticket()
        return f"You are logged in at {client.url} as {ticket.principal}"


def _share(here: Path) -> str:
    with Client() as client:
        rows = paths.told(client.get("/v1/paths"))
    mount, on_nodes = paths.find(here, paths.mounts(), rows)
    return f"'{here}' is on the share '{mount.share}', and '{on_nodes}' on the nodes"


def _root(here: Path) -> str:
    root = open_root(here)
    load_driver(SlurmDriver.name, root)
    return f"hipercow is initialised at '{root.path}' and configured to use 'slurm'"


def cancel(task_ids: Sequence[str], root: OptionalRoot = None) -> None:
    """Cancel tasks' jobs. Raises DriverError: a task has no job, or the cluster cannot be asked."""
    root = open_root(root)
    numbers = []
    for task_id in task_ids:
        check_task_id(task_id)
        path = root.path_task(task_id) / scripts.JOB_ID
        if not path.exists():
            raise DriverError(f"Task '{task_id}' has not been submitted with the driver 'slurm'")
        if task_status(task_id, root).is_terminal():
            ui.alert_warning(f"Task '{task_id}' has ended already")
        else:
            numbers.append((task_id, int(path.read_text())))
    driver = load_driver(SlurmDriver.name, root)
    assert isinstance(driver, SlurmDriver)
    with in_hipercows_words(), driver.client() as client:
        for task_id, job_id in numbers:
            client.cancel(job_id)
            ui.alert_success(f"Cancelled task '{task_id}' (Slurm job {job_id})")


def settle_quietly() -> None:
    """Before a status is shown: what Slurm ended must not be shown as running."""
    try:
        settling.settle()
    except Error as error:
        ui.alert_warning(f"Could not ask Slurm about your tasks: {error.message}")
