"""The users' commands on the real cluster, where it matters that jobs take time and output grows."""

from __future__ import annotations

import re

import pytest

from hipercow_slurm.testing.sandbox import Sandbox
from hipercow_slurm.testing.story import Laptop

pytestmark = pytest.mark.e2e

SCRIPT = """\
#!/bin/bash
#SBATCH -J from-script -t 2
#SBATCH -o %x-%j.out
for i in 1 2 3; do echo line $i; sleep 1; done
exit 7
"""


def test_submit_waits_and_ends_as_the_job_did(alice: Laptop) -> None:
    """Directives count, the exit status is the job's, and its output is where the script said."""
    done = alice.attempt("submit", "--wait", "-", input=SCRIPT, timeout=60)
    assert done.returncode == 7, done.stderr
    assert "FAILED (status 7)" in done.stderr.splitlines()[-1], done.stderr
    assert done.stdout == "line 1\nline 2\nline 3\n", "standard output is the job's own"
    assert "#SBATCH" not in done.stderr, "the directives were read; a warning that they are not is wrong"
    job_id = int(done.stderr.splitlines()[0].removeprefix("Submitted batch job "))
    job = alice.show(job_id)
    assert (job["name"], job["time_limit_min"], job["exit_code"]) == ("from-script", 2, 7), job
    assert job["output"].endswith(f"/from-script-{job_id}.out"), job["output"]
    assert alice.logs(job_id) == "line 1\nline 2\nline 3\n"


def test_one_request_id_from_the_laptop_to_slurmctld(sandbox: Sandbox, alice: Laptop) -> None:
    """Would have caught: an id that the API makes up, so that nobody at the laptop can say which request it was."""
    request = "laptop-2e2f7a.41"
    alice.env["HIPERCOW_SLURM_REQUEST_ID"] = request
    try:
        job_id = alice.submit("#!/bin/sh\n", "--hold")
    finally:
        del alice.env["HIPERCOW_SLURM_REQUEST_ID"]
    shown = sandbox.run("head", ["scontrol", "-o", "show", "job", str(job_id)]).stdout
    log = [line for line in sandbox.service("api").log().splitlines() if request in line]
    audited = sandbox.run("head", ["sh", "-c", "cat /var/lib/hipercow-slurm/api/audit*.log"]).stdout.splitlines()
    alice.do("cancel", str(job_id))
    assert f"request={request}" in shown, shown
    assert [line for line in log if "event=http.request" in line and "route=/v1/jobs " in line], log
    assert [line for line in log if "event=job.submitted" in line and f"job_id={job_id} " in line], log
    assert [line for line in audited if request in line and f"job_id={job_id}" in line], audited
    job_id = alice.submit("#!/bin/sh\n", "--hold")
    shown = sandbox.run("head", ["scontrol", "-o", "show", "job", str(job_id)]).stdout
    alice.do("cancel", str(job_id))
    assert re.search(r"request=[0-9a-f]{32}\b", shown), f"without the variable an id all the same: {shown}"


def test_following_output_gives_every_line_once(alice: Laptop) -> None:
    """The file server remembers sizes of files that nodes write on its disk directly; readers must not be misled."""
    lines = "".join(f"line {i}\n" for i in range(1, 9))
    job_id = alice.submit("#!/bin/bash\nfor i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 1; done\n", "-t", "1")
    assert alice.do("logs", "-f", str(job_id), timeout=60) == lines
    assert alice.logs(job_id) == lines


def test_a_directory_goes_to_the_cluster_and_back(sandbox: Sandbox, alice: Laptop) -> None:
    """Through the file server as alice: what comes back is what went, also what a job has written into it."""
    here = alice.env["HOME"]

    def shell(command: str) -> str:
        return str(sandbox.run("laptop", ["sh", "-ec", f"cd {here}; {command}"], user="laptop", timeout=60).stdout)

    shell("mkdir -p tree/deep; seq 100000 > tree/deep/numbers; echo x > 'tree/two words'")
    alice.do("cp", "-r", f"{here}/tree", ":")
    alice.do("mkdir", "-p", ":tree/out/plots")
    job_id = alice.submit("#!/bin/bash\nwc -l < tree/deep/numbers > tree/out/lines\n", "-t", "1")
    assert alice.ended(job_id, within_s=60)["state"] == "COMPLETED", alice.logs(job_id)
    alice.do("cp", "-r", ":tree", f"{here}/back")
    assert (
        shell("diff -r tree/deep back/deep; diff 'tree/two words' 'back/two words'; cat back/out/lines") == "100000\n"
    )
    assert "plots/" in alice.do("ls", ":tree/out")
