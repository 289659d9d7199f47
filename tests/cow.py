"""alice at a laptop with the project share, who types ``hipercow-slurm hipercow ...``."""

from __future__ import annotations

from typing import Any

from hipercow_slurm.testing.sandbox import Sandbox, layout
from hipercow_slurm.testing.story import Laptop

PROJECT = f"{layout.SHARE_ON_LAPTOP}/alice/project"
ON_NODES = f"{layout.SHARE_ON_NODES}/alice/project"
# The beginning of a program that makes a task with resources.
WITH_RESOURCES = """
import hipercow_slurm.hipercow
from hipercow.resources import TaskResources
from hipercow.task_create import task_create_shell
"""


class Cow:
    """alice at a laptop with the share, typing ``hipercow-slurm hipercow ...`` in her project."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.laptop = Laptop(sandbox, "alice", account="pat")
        self.laptop.login()
        sandbox.run("laptop", ["mkdir", "-p", PROJECT], user="pat")

    def type(self, *words: str, check: bool = True, timeout: float = 60, input: str | None = None) -> str:
        """What it printed, both streams."""
        done = self.attempt(*words, timeout=timeout)
        assert done.returncode == 0 or not check, done
        return str(done.stdout + done.stderr)

    def attempt(self, *words: str, timeout: float = 60) -> Any:
        command = ["sh", "-c", f'cd {PROJECT} && exec hipercow-slurm hipercow "$@"', "sh", *words]
        return self.laptop.sandbox.run("laptop", command, user="pat", env=self.laptop.env, timeout=timeout, check=False)

    def create(self, *words: str) -> str:
        return self.type("task", "create", "--", *words).strip().splitlines()[-1]

    def python(self, program: str, timeout: float = 60) -> str:
        """A Python program in the project."""
        command = ["sh", "-c", f'cd {PROJECT} && exec hipercow-python -c "$1"', "sh", program]
        return str(self.laptop.sandbox.run("laptop", command, user="pat", env=self.laptop.env, timeout=timeout).stdout)

    def task_file(self, task_id: str, name: str) -> str:
        path = f"{PROJECT}/hipercow/py/tasks/{task_id[:2]}/{task_id[2:]}/{name}"
        return str(self.laptop.sandbox.read("laptop", path))

    def job_id(self, task_id: str) -> int:
        return int(self.task_file(task_id, "slurm_id"))

    def started(self) -> Cow:
        """With a root in her project, configured."""
        assert "nitialised hipercow" in self.type("init", ".")
        assert "hipercow to use 'slurm'" in self.type("driver", "configure", "slurm")
        return self
