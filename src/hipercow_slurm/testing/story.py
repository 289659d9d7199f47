"""The steps of the story, as the people in it take them: shared by the demo and the end-to-end tests.

Everything a user does goes through the commands a user types (``hipercow-slurm ...`` on the laptop, ``kinit`` and
``sbatch`` on the login node); everything else here only looks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hipercow_slurm.testing.sandbox import Sandbox

T = TypeVar("T")

FILES = "files.sandbox.test"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"}


def reader(seconds: int, path: str = "/data/alice/secret") -> str:
    """A job script that reads ``path`` from the krb5p share once a second for ``seconds``; fails if one read did."""
    return f"""#!/bin/bash
echo "ccache $KRB5CCNAME"
failed=0
reads=0
while [ $SECONDS -lt {seconds} ]; do
    if bytes=$(krbcat {FILES} {path} 2>&1 >/dev/null); then
        reads=$((reads + 1))
    else
        failed=$((failed + 1)); echo "$(date +%T) read failed: $bytes"
    fi
    sleep 1
done
echo "reads=$reads failed=$failed"
[ $failed -eq 0 ]
"""


def eventually(what: str, probe: Callable[[], T | None], *, within_s: float, every_s: float = 0.5) -> T:
    """``probe()`` until it is truthy; AssertionError naming ``what`` and the last answer after ``within_s``."""
    deadline = time.monotonic() + within_s
    while True:
        answer = probe()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what}: not within {within_s} s; last seen: {answer!r}"
        time.sleep(every_s)


@dataclass
class Laptop:
    """A person at an unprivileged laptop account that has nothing but Python and our client."""

    sandbox: Sandbox
    user: str
    account: str = "laptop"
    env: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        # Several people share the one laptop account in the sandbox: each has a home of their own.
        home = f"/home/{self.account}/{self.user}"
        self.sandbox.run("laptop", ["mkdir", "-p", home], user=self.account)
        self.env = {"HOME": home}

    def do(self, *args: str, input: str | None = None, timeout: float = 60) -> str:
        """Run ``hipercow-slurm ARGS`` and return what it printed; raises if it failed."""
        return str(self.attempt(*args, input=input, timeout=timeout, check=True).stdout)

    def attempt(self, *args: str, input: str | None = None, timeout: float = 60, check: bool = False) -> Any:
        """Run ``hipercow-slurm ARGS`` whatever comes of it."""
        return self.sandbox.run(
            "laptop",
            ["hipercow-slurm", *args],
            user=self.account,
            env=self.env,
            input=input,
            timeout=timeout,
            check=check,
        )

    def login(self, password: str | None = None) -> dict[str, Any]:
        """Give the password once."""
        given = password or self.sandbox.passwords[self.user]
        out = self.do("login", "--username", self.user, "--password-stdin", "--json", input=given + "\n")
        return dict(json.loads(out))

    def submit(self, script: str, *options: str) -> int:
        """Submit ``script`` from standard input; the job id."""
        return int(json.loads(self.do("submit", "--json", *options, "-", input=script))["job_id"])

    def show(self, job_id: int) -> dict[str, Any]:
        """The job as the API tells it."""
        return dict(json.loads(self.do("show", "--json", str(job_id))))

    def ended(self, job_id: int, *, within_s: float) -> dict[str, Any]:
        """Wait for the job's end and return its last state."""

        def probe() -> dict[str, Any] | None:
            job = self.show(job_id)
            return job if job["state"] in ENDED else None

        return eventually(f"end of job {job_id}", probe, within_s=within_s, every_s=1)

    def logs(self, job_id: int) -> str:
        """The job's output, read over krb5p by the API as this user."""
        return self.do("logs", str(job_id))


@dataclass
class LoginNode:
    """A person with a shell on the login node and a ticket from kinit."""

    sandbox: Sandbox
    user: str

    def do(self, *argv: str, input: str | None = None, timeout: float = 60) -> str:
        """Run a command as the person; raises if it failed."""
        return str(self.sandbox.run("login", list(argv), user=self.user, input=input, timeout=timeout).stdout)

    def kinit(self) -> None:
        """Get a forwardable, renewable ticket with the password."""
        self.do("kinit", "-f", "-r", "7d", self.user, input=self.sandbox.passwords[self.user] + "\n")

    def sbatch(self, script: str, *options: str) -> int:
        """Submit ``script``; the job id."""
        out = self.do("sbatch", "--parsable", "-D", f"/home/{self.user}", *options, input=script)
        return int(out.strip().split(";")[0])


@dataclass
class Operator:
    """root on the cluster's machines, looking."""

    sandbox: Sandbox

    def job(self, job_id: int) -> dict[str, str]:
        """``scontrol show job`` as a mapping."""
        out = self.sandbox.run("head", ["scontrol", "-o", "show", "job", str(job_id)]).stdout
        return dict(pair.split("=", 1) for pair in out.split() if "=" in pair)

    def job_ended(self, job_id: int, *, within_s: float) -> dict[str, str]:
        """Wait for slurmctld to say the job is over."""

        def probe() -> dict[str, str] | None:
            job = self.job(job_id)
            return job if job["JobState"] in ENDED else None

        return eventually(f"end of job {job_id} at slurmctld", probe, within_s=within_s, every_s=1)

    def job_runs(self, job_id: int, *, within_s: float = 30) -> dict[str, str]:
        """Wait for slurmctld to say the job runs."""

        def probe() -> dict[str, str] | None:
            job = self.job(job_id)
            return job if job["JobState"] == "RUNNING" else None

        return eventually(f"start of job {job_id}", probe, within_s=within_s)

    def ccache(self, node: str, uid: int, job_id: int) -> dict[str, Any]:
        """Owner, mode, principal and times of a job's ccache on a node."""
        path = f"/tmp/krb5cc_{uid}_{job_id}"
        return dict(self._peek(node, "ccache", path))

    def installed(self, node: str, uid: int, job_id: int, *, within_s: float = 10) -> dict[str, Any]:
        """Wait for a job's ccache on a node and look at it."""

        def probe() -> dict[str, Any] | None:
            seen = self.ccache(node, uid, job_id)
            return seen if seen["exists"] else None

        return eventually(f"ccache of job {job_id} on {node}", probe, within_s=within_s)

    def fresher(self, node: str, uid: int, job_id: int, than: int, *, within_s: float) -> int:
        """Wait until a job's ccache ends later than ``than``; the new endtime."""

        def probe() -> int | None:
            endtime = int(self.ccache(node, uid, job_id).get("endtime", 0))
            return endtime if endtime > than else None

        return eventually(f"a fresher ticket for job {job_id} on {node}", probe, within_s=within_s)

    def cached(self, principal: str) -> dict[str, Any]:
        """The credential cache's record of a principal; KeyError when it has none."""
        for row in self.cache():
            if row["principal"] == principal:
                return row
        raise KeyError(f"the cache holds nothing of {principal}")

    def release(self, job_id: int) -> None:
        """Let a held job go."""
        self.sandbox.run("head", ["scontrol", "release", str(job_id)])

    def cache(self) -> list[dict[str, Any]]:
        """What the credential cache holds."""
        return list(self._peek("head", "cache"))

    def leftovers(self, node: str) -> list[str]:
        """Every ccache in a node's /tmp."""
        out = self.sandbox.run(node, ["find", "/tmp", "-maxdepth", "1", "-name", "*krb5cc*"]).stdout
        return [str(line) for line in out.splitlines()]

    def _peek(self, host: str, *args: str) -> Any:
        out = self.sandbox.run(host, ["hipercow-python", "-m", "hipercow_slurm.testing.peek", *args]).stdout
        return json.loads(out)
