"""The cluster with real kernels, as the acceptance tests use it: people, jobs that watch their files, and proofs."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import Laptop, Operator, eventually
from person import Person as Speaker

TICKET_LIFE_S = 40
RENEW_LIFE_S = 3600
NODES = ("k1", "k2")
# How often the agent asks the cache for something newer; its default, which the sandbox leaves.
POLL_S = 30
MANY_JOBS = 1000
MANY_FOLDER = "/srv/data/dave/many"
OPERATIONS = ("append", "reread", "open", "create")  # of watch_files.py
UID = {"alice": 5001, "bob": 5002, "carol": 5003, "dave": 5004}
WATCH = (Path(__file__).parent / "watch_files.py").read_text()


def watching(seconds: int, folder: str, *options: str) -> str:
    """A job script that works on files below ``folder`` for ``seconds`` and logs to the node's own /tmp.

    ``options`` are those of watch_files.py.
    """
    program = "/tmp/watch-$SLURM_JOB_ID.py"
    return (
        f"#!/bin/bash\ncat >{program} <<'END'\n{WATCH}\nEND\n"
        f"python3 {program} {seconds} {folder} /tmp/watch-$SLURM_JOB_ID.log {' '.join(options)}\n"
        f"code=$?\nrm -f {program}\nexit $code\n"
    )


@dataclass
class Person:
    """Somebody who sits at the laptop: its command line, and ssh to the login node with the password."""

    sandbox: Sandbox
    name: str
    laptop: Laptop = field(init=False)

    def __post_init__(self) -> None:
        self.laptop = Laptop(self.sandbox, self.name)

    def ssh(self, *argv: str, input: str | None = None, timeout: float = 120, check: bool = True) -> Any:
        """Run a command on the login node over ssh: sshd, PAM and the KDC see the password, nobody else does.

        The session's ticket is the one that pam_krb5 made, and gone at its end.
        """
        options = ["-o", "StrictHostKeyChecking=yes", "-o", "PreferredAuthentications=password"]
        return self.sandbox.run(
            "laptop",
            ["sshpass", "-e", "ssh", *options, f"{self.name}@login.sandbox.test", shlex.join(argv)],
            user="laptop",
            env={"SSHPASS": self.sandbox.passwords[self.name]},
            input=input,
            timeout=timeout,
            check=check,
        )

    def sbatch(self, script: str, *options: str) -> int:
        """Submit ``script`` on the login node; the job id."""
        done = self.ssh("sbatch", "--parsable", "-D", f"/home/{self.name}", *options, input=script)
        return int(done.stdout.strip().split(";")[0])


@dataclass
class Cluster:
    """Two nodes with kernels of their own, and who works with them."""

    sandbox: Sandbox
    operator: Operator = field(init=False)
    alice: Person = field(init=False)
    bob: Person = field(init=False)
    carol: Person = field(init=False)
    dave: Person = field(init=False)

    def __post_init__(self) -> None:
        self.operator = Operator(self.sandbox)
        self.alice, self.bob, self.carol, self.dave = (Person(self.sandbox, name) for name in UID)

    def on(self, node: str, *argv: str, user: str = "root", timeout: float = 120, check: bool = False) -> Any:
        """Run a command on a node."""
        return self.sandbox.run(node, list(argv), user=user, timeout=timeout, check=check)

    def agent(self, node: str, action: str) -> None:
        """start, stop, kill, pause or resume a node's agent."""
        scripts = "/run/program-source/hipercow_slurm/testing/uml"
        self.on(node, "bash", f"{scripts}/services.sh", action, "agent", check=True)

    def watched(self, node: str, job_id: int) -> list[dict[str, Any]]:
        """What the watching job has logged so far: changes of results, at last {"done": ...}."""
        text = self.on(node, "cat", f"/tmp/watch-{job_id}.log").stdout
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def outcome(self, node: str, job_id: int, *, within_s: float) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Wait for a watching job's summary; the summary and all changes before it."""

        def probe() -> list[dict[str, Any]] | None:
            seen = self.watched(node, job_id)
            return seen if seen and "done" in seen[-1] else None

        seen = eventually(f"the end of job {job_id} on {node}", probe, within_s=within_s, every_s=2)
        self.on(node, "rm", "-f", f"/tmp/watch-{job_id}.log")
        return seen[-1]["done"], seen[:-1]

    def nothing_left(self, node: str, job_id: int, uid: int, *, within_s: float = 30) -> None:
        """A job's ccache is gone from a node."""
        path = f"/tmp/krb5cc_{uid}_{job_id}"
        eventually(f"{path} gone from {node}", lambda: path not in self.operator.leftovers(node), within_s=within_s)


@dataclass(frozen=True)
class Expiry:
    """What a job saw whose user's ticket ended, with nothing that could renew it, until a new login.

    Attributes:
        job_id: the job.
        done, changes: what ``Cluster.outcome`` tells.
        endtime: of the ticket; unix time.
        again: when the user logged in again; unix time.
    """

    job_id: int
    done: dict[str, Any]
    changes: list[dict[str, Any]]
    endtime: float
    again: float

    @property
    def errors(self) -> dict[str, str]:
        """Each operation's error."""
        return {change["op"]: change["result"] for change in self.changes if change["result"] != "ok"}

    def without_a_trace(self, expected: set[str], hang_s: float, failing: Collection[str] = OPERATIONS) -> str:
        """Each operation of ``failing`` failed with one of these errors, none hung, all work again; the evidence."""
        assert set(self.errors) == set(failing), self.changes
        assert set(self.errors.values()) <= expected, self.changes
        assert {change["result"] for change in {change["op"]: change for change in self.changes}.values()} == {"ok"}, (
            self.changes
        )
        slowest = max(self.done["slowest_s"].values())
        assert slowest < hang_s, f"something hung: {self.done}"
        first = min(change["wall"] for change in self.changes if change["result"] != "ok")
        back = max(change["wall"] for change in self.changes)
        return (
            f"{self.errors} {first - self.endtime:.0f} s after the ticket's end, slowest call {slowest} s; "
            f"all back {back - self.again:.0f} s after the new login, open files too"
        )


def forget(cluster: Cluster, name: str) -> None:
    """API and cache have nothing of this user: what an earlier login left there would be renewed, and be the better."""
    speaker = Speaker(cluster.sandbox, name)
    for row in speaker.ask("GET", "/v1/sessions").json["sessions"]:
        if not row["current"]:
            assert speaker.ask("DELETE", f"/v1/sessions/{row['session_id']}").status == 204, row
    assert speaker.ask("DELETE", "/v1/ticket").status == 204
    assert speaker.ask("DELETE", "/v1/sessions/current").status == 204


def expiry(
    cluster: Cluster,
    person: Person,
    folder: str,
    node: str,
    *options: str,
    without_s: int = 15,
    after_s: int = POLL_S + 25,
) -> Expiry:
    """A job works in ``folder`` while its ticket, which cannot be renewed, ends; ``without_s`` later its user logs in
    again, and it goes on for ``after_s``."""

    def longest_renewal(seconds: int) -> None:
        query = f"modprinc -maxrenewlife {seconds}s {person.name}"
        cluster.sandbox.run("head", ["kadmin.local", "-q", query])

    forget(cluster, person.name)
    longest_renewal(0)
    person.laptop.login()
    # From here on a login is renewable again: only the ticket that is out there is not.
    longest_renewal(RENEW_LIFE_S)
    seconds = TICKET_LIFE_S + without_s + after_s
    job_id = person.laptop.submit(watching(seconds, folder, *options), "-w", node, "-t", "10")
    cluster.operator.job_runs(job_id, within_s=60)
    endtime = float(cluster.operator.installed(node, UID[person.name], job_id)["endtime"])
    time.sleep(max(0.0, endtime + without_s - time.time()))
    again = time.time()
    person.laptop.login()
    done, changes = cluster.outcome(node, job_id, within_s=seconds + 120)
    return Expiry(job_id, done, changes, endtime, again)


def without_an_error(done: dict[str, Any], changes: list[dict[str, Any]], seconds: int) -> str:
    """A watching job saw no error and worked all the time; its evidence, or AssertionError with what went wrong."""
    assert not done["errors"], f"{done['errors']}; {changes}"
    assert done["seconds"] >= seconds, done
    least = min(done["count"].values())
    assert least > seconds / 5, f"hardly worked: {done}"
    return f"{sum(done['count'].values())} operations in {done['seconds']} s, none failed, slowest {done['slowest_s']}"


def at_session_ends(done: dict[str, Any], changes: list[dict[str, Any]], most: int) -> dict[str, int]:
    """How often an operation on SMB met the very end of a session: Linux 6.1 answers it with EAGAIN, and the same
    works when it is done again. AssertionError if anything else went wrong, or it did not work again at once."""
    for name, errors in done["errors"].items():
        results = [change for change in changes if change["op"] == name]
        waits = [after["at"] - one["at"] for one, after in pairwise(results) if one["result"] != "ok"]
        assert set(errors) == {"EAGAIN"} and errors["EAGAIN"] == len(waits) <= most, f"{done['errors']}; {changes}"
        assert max(waits) < 3 and results[-1]["result"] == "ok", f"not at once: {changes}"
    return {name: errors["EAGAIN"] for name, errors in done["errors"].items()}
