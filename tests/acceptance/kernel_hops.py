"""Where the time goes between a login and the end of a job: out of our programs' logs, to the microsecond."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime

from kernel_cluster import TICKET_LIFE_S, UID, Cluster

from hipercow_slurm.testing.story import eventually

NODE = "k1"
SECONDS = TICKET_LIFE_S
# O_DIRECT: the server is asked, not the page cache. The marks are unix times.
JOB = f"""#!/usr/bin/python3
import os, time
def mark(name): print("mark", name, time.time(), flush=True)
mark("started")
with open("/data/alice/secret") as file: file.read()
mark("first read")
with open("/data/alice/secret") as file: os.pread(os.open("/data/alice/secret", os.O_RDONLY | os.O_DIRECT), 1, 0)
mark("second read")
with open("/data/alice/hops", "w") as file: file.write("x" * 65536); file.flush(); os.fsync(file.fileno())
mark("written")
time.sleep({SECONDS})
with open("/data/alice/hops", "a") as file: file.write("y"); file.flush(); os.fsync(file.fileno())
mark("end")
"""


@dataclass(frozen=True)
class Line:
    """One line of a log: when it was written (unix time) and its fields."""

    at: float
    fields: dict[str, str]

    @property
    def begun(self) -> float:
        """When a request began that this line tells the end of."""
        return self.at - float(self.fields["ms"]) / 1000


class Logs:
    """What our programs logged since ``since``."""

    def __init__(self, cluster: Cluster, since: float) -> None:
        self._folder, self._since = cluster.sandbox.path / "log", since

    def first(self, program: str, within_s: float = 60, **fields: str) -> Line:
        """The first line of a program with these fields; waits for it."""

        return eventually(f"{fields} in {program}'s log", lambda: self.found(program, **fields), within_s=within_s)

    def found(self, program: str, **fields: str) -> Line | None:
        """The same, without waiting."""
        for text in (self._folder / f"{program}.log").read_text(errors="replace").splitlines():
            found = dict(pair.partition("=")[::2] for pair in text.split())
            if "ts" not in found or any(found.get(name) != value for name, value in fields.items()):
                continue
            at = datetime.fromisoformat(found["ts"]).timestamp()
            if at >= self._since:
                return Line(at, found)
        return None


def measure(cluster: Cluster) -> list[tuple[str, float]]:
    """One login, one job that outlives its ticket: each hop and its seconds, in the order in which they happen.

    Each is the difference of two times of one clock: the node's may be a second behind the machine's.
    """
    alice, logs = cluster.alice.laptop, Logs(cluster, time.time())
    typed = time.time()
    alice.login()
    logged_in = time.time()
    login = logs.first("api", event="http.request", method="POST", route="/v1/sessions")
    hers = {"principal": "alice@SANDBOX.TEST"}
    uid, node = str(UID["alice"]), cluster.sandbox.options.addresses[NODE]
    filed = logs.first("auksd", event="auksd.request", verb="add", **hers)

    submitting, job = time.time(), Logs(cluster, time.time())
    job_id = alice.submit(JOB, "-w", NODE, "-t", "5")
    submitted = time.time()
    submit = job.first("api", event="http.request", method="POST", route="/v1/jobs", **hers)
    agent = Logs(cluster, 0)  # by its own clock, and the job's number is new
    installed = agent.first(f"agent@{NODE}", event="agent.ticket_installed", job_id=str(job_id))
    renewed = job.first("auksd", event="renew.done", uid=uid, stored="true")
    replaced = agent.first(f"agent@{NODE}", event="agent.ticket_replaced", job_id=str(job_id))
    alice.ended(job_id, within_s=SECONDS + 90)
    removed = agent.first(f"agent@{NODE}", event="agent.ticket_removed", job_id=str(job_id))
    marks = {}
    for line in alice.logs(job_id).splitlines():
        if line.startswith("mark "):
            name, _, at = line.removeprefix("mark ").rpartition(" ")
            marks[name] = float(at)
    assert set(marks) == {"started", "first read", "second read", "written", "end"}, alice.logs(job_id)
    signed = job.found("signer", event="signer.signed", **hers)
    if signed is None or signed.at > submit.at:  # this API process had a token of hers
        api = [("... of it the API, slurmrestd and slurmctld", submit.at - submit.begun)]
    else:
        api = [
            ("... of it the API: session opened, signer asked with an AP-REQ, token signed", signed.at - submit.begun),
            ("... slurmrestd and slurmctld have the job, until the API's answer", submit.at - signed.at),
        ]
    fetched = job.first("auksd", event="auksd.request", verb="get", role="node", uid=uid, peer=node)
    ended = float(installed.fields["endtime"])
    return [
        ("`hipercow-slurm login`, from the password typed to its end", logged_in - typed),
        ("... of it the API: KDC asked, its proof by our keytab, session sealed", filed.at - login.begun),
        ("... ticket acknowledged by the cache until the API's answer", login.at - filed.at),
        ("`hipercow-slurm submit`, whole", submitted - submitting),
        *api,
        ("job in the queue, until the cache gives the node's agent the ticket", fetched.at - submit.at),
        # slurmstepd opens the output as the user: there rpc.gssd is asked, and gets the service ticket and the context.
        (
            "ccache written, until the job's first line; its output was opened on the mount",
            marks["started"] - installed.at,
        ),
        ("first read on the mount", marks["first read"] - marks["started"]),
        ("second read", marks["second read"] - marks["first read"]),
        ("64 KiB written and synced", marks["written"] - marks["second read"]),
        ("ticket renewed by the cache, before its end", ended - renewed.at),
        ("... in the job's ccache, before its end", ended - replaced.at),
        ("job's last line until its ccache is gone", removed.at - marks["end"]),
    ]
