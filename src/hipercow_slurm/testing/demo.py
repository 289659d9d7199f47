"""The story of the design, told by the real parts: one line per hop with its proof, then ``demo: passed``."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import FILES, Laptop, LoginNode, Operator, eventually, reader

TICKET_LIFE_S = 30
ALICE = 5001
PRINCIPAL = "alice@SANDBOX.TEST"
CLAIMS = {"sun", "iat", "exp", "kid"}


def when(seconds: int) -> str:
    """A ticket time as a person reads it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%SZ")


class Demo:
    """Prints each hop as it is proved, and remembers which one it is in for the case that it fails."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.current = "sandbox"

    @contextmanager
    def hop(self, name: str) -> Iterator[Callable[[str], None]]:
        """One hop; call what it yields with the proof."""
        self.current = name
        yield lambda proof: print(f"[{time.monotonic() - self.started:6.1f} s] {name:<28} {proof}", flush=True)


def run() -> None:
    """Run the demo; exits 1 naming the hop that failed."""
    demo = Demo()
    try:
        with Sandbox(ticket_life=f"{TICKET_LIFE_S}s", renew_life="30m") as sandbox:
            try:
                _story(demo, sandbox)
            except BaseException:
                print(sandbox.tail_logs(), file=sys.stderr)
                raise
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        print(f"demo: failed at hop '{demo.current}': {error}", file=sys.stderr)
        sys.exit(1)
    print("demo: passed")


def _story(demo: Demo, sandbox: Sandbox) -> None:
    with demo.hop("sandbox") as proved:
        proved("up: " + " ".join(row["name"] for row in sandbox.status()))
    laptop, operator = Laptop(sandbox, "alice"), Operator(sandbox)
    _login(demo, sandbox, laptop, operator)
    job_id = _submit(demo, sandbox, laptop)
    _queued(demo, operator, job_id)
    _started(demo, operator, job_id)
    _on_the_node(demo, operator, job_id)
    _read(demo, laptop, job_id)
    _from_the_login_node(demo, sandbox, operator)
    _gone(demo, laptop, operator, job_id)


def _login(demo: Demo, sandbox: Sandbox, laptop: Laptop, operator: Operator) -> None:
    with demo.hop("laptop -> api -> KDC") as proved:
        who = sandbox.run("laptop", ["id", "-un"], user="laptop").stdout.strip()
        session = laptop.login()
        ticket = session["ticket"]
        proved(
            f"account {who!r} logged in as {session['principal']}, "
            f"valid until {ticket['valid_until']}, renewable until {ticket['renewable_until']}"
        )
    with demo.hop("wrong password refused") as proved:
        refused = Laptop(sandbox, "bob").attempt(
            "login", "--username", "alice", "--password-stdin", input="not-her-password\n"
        )
        assert refused.returncode != 0, "a wrong password was accepted"
        proved(refused.stderr.strip().splitlines()[0])
    with demo.hop("api -> credential cache") as proved:
        record = operator.cached(session["principal"])
        assert record["uid"] == ALICE, record
        proved(f"filed under uid {record['uid']}, renew_till {when(record['renew_till'])}")


def _submit(demo: Demo, sandbox: Sandbox, laptop: Laptop) -> int:
    script = reader(TICKET_LIFE_S + 15) + f"krbcat {FILES} /data/alice/secret\n"
    script += (
        f"smbclient -N --use-kerberos=required --client-protection=encrypt "
        f"//{FILES}/data -c 'get alice/secret -' 2>/dev/null\n"
    )
    with demo.hop("laptop -> api") as proved:
        job_id = laptop.submit(script, "-J", "demo", "-t", "5", "-N", "2", "--hold")
        proved(f"job {job_id} submitted, to wait in the queue at first")
    with demo.hop("api -> signer") as proved:
        line = next(row for row in sandbox.service("signer").log().splitlines() if "signer.signed" in row)
        claims = {key: value for key, value in re.findall(r"(\w+)=(\S+)", line) if key in CLAIMS}
        assert claims["sun"] == "alice", line
        proved("claims " + json.dumps(claims) + f" (life {int(claims['exp']) - int(claims['iat'])} s)")
    return job_id


def _started(demo: Demo, operator: Operator, job_id: int) -> None:
    with demo.hop("slurmrestd -> slurmctld") as proved:
        operator.release(job_id)
        job = operator.job_runs(job_id)
        assert job["UserId"] == f"alice({ALICE})", job["UserId"]
        proved(f"job {job_id} is {job['UserId']}'s, {job['JobState']} on {job['NodeList']}")


def _queued(demo: Demo, operator: Operator, job_id: int) -> None:
    with demo.hop("renewed while queued") as proved:
        assert operator.job(job_id)["JobState"] == "PENDING", operator.job(job_id)
        before = operator.cached(PRINCIPAL)["endtime"]

        def renewed() -> int | None:
            endtime = int(operator.cached(PRINCIPAL)["endtime"])
            return endtime if endtime > before else None

        now = eventually("a renewed ticket in the cache", renewed, within_s=TICKET_LIFE_S)
        proved(f"job {job_id} waits; the cache's ticket ends {when(before)} -> {when(now)}")


def _on_the_node(demo: Demo, operator: Operator, job_id: int) -> None:
    first = {}
    for node in ("c1", "c2"):
        with demo.hop(f"agent@{node}") as proved:
            seen = operator.installed(node, ALICE, job_id)
            assert (seen["uid"], seen["mode"], seen["regular"]) == (ALICE, "0600", True), seen
            first[node] = seen["endtime"]
            proved(f"{seen['path']} uid {seen['uid']} mode {seen['mode']} endtime {when(seen['endtime'])}")
    with demo.hop("replaced while running") as proved:
        now = operator.fresher("c1", ALICE, job_id, first["c1"], within_s=TICKET_LIFE_S)
        proved(f"endtime {when(first['c1'])} -> {when(now)}")


def _read(demo: Demo, laptop: Laptop, job_id: int) -> None:
    with demo.hop("job -> krb5p NFS, SMB3") as proved:
        job = laptop.ended(job_id, within_s=TICKET_LIFE_S * 3)
        output = laptop.logs(job_id)
        assert job["state"] == "COMPLETED", f"{job['state']}: {output}"
        reads = re.search(r"reads=(\d+) failed=0", output)
        assert reads, output
        secrets = output.count("secret of alice")
        assert secrets == 2, f"NFS and SMB should each have read the secret: {output}"
        size = len("secret of alice\n")
        proved(
            f"{reads[1]} reads of {size} bytes over {TICKET_LIFE_S + 15} s with tickets of {TICKET_LIFE_S} s, "
            f"none failed; SMB too"
        )
    with demo.hop("output -> laptop") as proved:
        proved(f"{len(output)} bytes, read by the API over krb5p with alice's own ticket")


def _from_the_login_node(demo: Demo, sandbox: Sandbox, operator: Operator) -> None:
    with demo.hop("login node, bob refused") as proved:
        bob = LoginNode(sandbox, "bob")
        bob.kinit()
        script = f"#!/bin/bash\nkrbcat {FILES} /data/bob/secret\nkrbcat {FILES} /data/alice/secret 2>&1\n"
        job_id = bob.sbatch(script, "-o", "bob-%j.out")
        operator.job_ended(job_id, within_s=40)
        output = sandbox.run("login", ["cat", f"/home/bob/bob-{job_id}.out"], user="bob").stdout
        assert "secret of bob" in output, output
        assert "secret of alice" not in output, output
        assert "denied" in output.lower(), output
        proved(f"his job {job_id} read his own file, and of alice's got: {output.strip().splitlines()[-1]}")


def _gone(demo: Demo, laptop: Laptop, operator: Operator, job_id: int) -> None:
    with demo.hop("nothing left") as proved:
        eventually(
            "no ccache on either node",
            lambda: not operator.leftovers("c1") and not operator.leftovers("c2"),
            within_s=15,
        )
        laptop.do("logout")
        after = laptop.attempt("jobs")
        assert after.returncode != 0, "the session outlived logout"
        proved(f"no ccache on c1, c2 after job {job_id}; logged out: {after.stderr.strip().splitlines()[0]}")
