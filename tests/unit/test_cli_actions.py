"""Acting on jobs and files, and what every command has: JSON also of errors, exit statuses, no stack trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from starlette.responses import JSONResponse

from cli_laptop import PROGRAM, Laptop
from fake_api import give, passing, problem
from hipercow_slurm.cli.main import COMMANDS

USERS = [name for name, (_, extra, _) in COMMANDS.items() if extra is None]


def test_jobs_are_held_released_requeued_and_told_something(alice: Laptop) -> None:
    job_id = str(alice.api.new_job(state="PENDING"))
    for command, done in (("hold", "held"), ("release", "released"), ("requeue", "requeued")):
        assert alice.ok(command, job_id) == f"{done} job {job_id}\n"
    assert alice.ok("cancel", "--signal", "USR1", job_id) == f"signalled job {job_id}\n"
    acts = alice.api.jobs[int(job_id)]["acts"]
    assert acts == [(["hold"], None), (["release"], None), (["requeue"], None), (["signal"], {"signal": "USR1"})]


def test_what_cannot_be_held_does_not_keep_the_others_from_it(alice: Laptop) -> None:
    runs, waits = alice.api.new_job(state="RUNNING"), alice.api.new_job(state="PENDING")
    done = alice.run("hold", str(runs), str(waits))
    assert (done.returncode, done.stdout) == (5, f"held job {waits}\n")
    assert done.stderr == "error: Job is no longer pending execution [change-refused]\n"
    rows = json.loads(alice.run("hold", "--json", str(runs), str(waits)).stdout)
    assert [row["held"] for row in rows] == [False, True] and rows[0]["code"] == "change-refused"


def test_files_are_copied_both_ways(alice: Laptop) -> None:
    (alice.home / "data.csv").write_text("1,2\n")
    alice.ok("cp", "data.csv", ":/home/alice/")
    alice.ok("cp", "-", ":/home/alice/run-1.out", input="from a pipe\n")
    alice.ok("cp", "data.csv", ":/home/alice/run-2.out")
    assert sorted(alice.api.files) == ["/home/alice/data.csv", "/home/alice/run-1.out", "/home/alice/run-2.out"]
    assert alice.ok("cp", ":/home/alice/run-1.out", "-") == "from a pipe\n"
    (alice.home / "results").mkdir()
    rows = json.loads(alice.ok("cp", "--json", ":/home/alice/run-*.out", "results"))
    assert [Path(row["to"]).name for row in rows] == ["run-1.out", "run-2.out"]
    assert (alice.home / "results/run-2.out").read_text() == "1,2\n"
    assert "run-1.out" in alice.ok("ls", ":/home/alice")
    assert json.loads(alice.ok("ls", "--json", ":/home/alice"))[0]["name"] == "data.csv"


def test_paths_on_the_cluster_begin_at_home(alice: Laptop) -> None:
    (alice.home / "data.csv").write_text("1,2\n")
    alice.ok("mkdir", ":in", "out")
    alice.ok("mkdir", "-p", ":in/a/b", ":in")
    assert alice.api.folders >= {"/home/alice/in/a/b", "/home/alice/out"}
    alice.ok("cp", "data.csv", ":")
    alice.ok("cp", "data.csv", ":in/a/")
    alice.ok("cp", ":in/a/data.csv", "back.csv")
    assert (alice.home / "back.csv").read_text() == "1,2\n"
    assert set(alice.api.files) == {"/home/alice/data.csv", "/home/alice/in/a/data.csv"}
    assert [row["name"] for row in json.loads(alice.ok("ls", "--json"))] == ["data.csv", "in", "out"]
    assert len(alice.api.seen("GET", "/v1/sessions/current")) == 6, "once for each command that needs it"


def test_directories_are_copied_with_all_that_is_in_them(alice: Laptop) -> None:
    """As cp -r does it: into a directory that is there, else under the new name; links are left out and told."""
    tree = alice.home / "tree"
    (tree / "deep/er").mkdir(parents=True)
    (tree / "deep/er/x").write_text("x")
    (tree / "y").write_text("y")
    (tree / "circle").symlink_to(tree)
    (tree / "broken").symlink_to("nowhere")
    os.mkfifo(tree / "pipe")
    done = alice.run("cp", "-r", "tree", ":")
    assert done.returncode == 0 and done.stderr.count("is skipped") == 3, done.stderr
    assert alice.api.files == {"/home/alice/tree/deep/er/x": b"x", "/home/alice/tree/y": b"y"}
    alice.ok("cp", "-r", "tree/deep", ":copy")
    assert "/home/alice/copy/er/x" in alice.api.files
    (alice.home / "got").mkdir()
    rows = json.loads(alice.ok("cp", "-r", "--json", ":tree", ":copy", "got"))
    assert sorted(row["from"] for row in rows) == [
        ":/home/alice/copy/er/x",
        ":/home/alice/tree/deep/er/x",
        ":/home/alice/tree/y",
    ]
    assert (alice.home / "got/tree/deep/er/x").read_text() == "x" and (alice.home / "got/copy/er/x").exists()
    alice.ok("cp", "-r", ":tree", "fresh")
    assert (alice.home / "fresh/y").read_text() == "y"


def test_what_cannot_be_copied_does_not_keep_the_others_from_it(alice: Laptop) -> None:
    alice.api.files |= {f"/home/alice/run-{number}": b"x" for number in (1, 2, 3)}
    alice.api.answers["GET", "/v1/files"] = [passing, give(problem(403, "access-denied", detail="not yours"))]
    (alice.home / "got").mkdir()
    done = alice.run("cp", ":run-*", "got")
    assert done.returncode == 4 and "not yours [access-denied]" in done.stderr, done.stderr
    assert sorted(path.name for path in (alice.home / "got").iterdir()) == ["run-2", "run-3"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cp", "a", "b"), "one side must be on the cluster"),
        (("cp", ":/a", ":/b"), "one side must be on the cluster"),
        (("cp", "missing", ":/home/alice/x"), "cannot read missing: No such file"),
        (("cp", ":none", "x"), "there is no /home/alice/none"),
        (("cp", ".", ":"), ". is a directory"),
        (("cp", ":/home/alice", "."), ":/home/alice is a directory"),
        (("cp", "a", "b", ":new"), ":new is not a directory"),
        (("mkdir", ":"), ":/home/alice is there already"),
        (("mkdir", ":a/b"), "there is no /home/alice/a"),
        (("cp", ":/home/alice/no*", "x"), "no file on the cluster is named"),
        (("cp", ":/home/alice/none", "x"), "there is no /home/alice/none"),
        (("ls", ":/home/alice/here"), "is not a directory"),
        (("cancel", "abc"), "'abc' is not a job's number; `hipercow-slurm jobs` lists yours"),
        (("show", "99999999999999999999"), "is not a job's number"),
        (("cancle", "17"), "there is no command 'cancle'. Did you mean cancel"),
        (("zzz",), "there is no command 'zzz'."),
        (("jobs", "--watch"), "for people at a terminal"),
        (("sessions", "--end", "zzz"), "no session of yours"),
        (("jobs", "-M", "elsewhere"), "there is no cluster 'elsewhere'"),
    ],
)
def test_what_makes_no_sense_says_so_in_one_sentence(alice: Laptop, arguments: tuple[str, ...], words: str) -> None:
    alice.api.files["/home/alice/here"] = b"x"
    done = alice.run(*arguments)
    assert done.returncode in (2, 78) and done.stdout == "", done
    assert words in done.stderr and "Traceback" not in done.stderr, done.stderr
    as_json = alice.run(*arguments, "--json")
    error = json.loads(as_json.stderr)["error"]
    assert words in error["message"] and error["exit_status"] == as_json.returncode == done.returncode, as_json


def test_json_and_the_cluster_may_stand_before_the_command(alice: Laptop) -> None:
    """`hipercow-slurm --json jobs` was told: no such option, did you mean --version?"""
    alice.api.new_job(state="RUNNING")
    assert json.loads(alice.ok("--json", "jobs"))[0]["state"] == "RUNNING"
    refused = alice.run("--json", "-M", "elsewhere", "jobs")
    assert json.loads(refused.stderr)["error"]["code"] == "no-cluster" and refused.returncode == 78, refused


@pytest.mark.parametrize(
    ("status", "code", "exit_status"),
    [
        (400, "bad-request", 2),
        (403, "expired", 3),
        (403, "access-denied", 4),
        (422, "job-rejected", 5),
        (500, "bug", 70),
        (503, "scheduler-unreachable", 75),
    ],
)
def test_exit_statuses_are_the_families(alice: Laptop, status: int, code: str, exit_status: int) -> None:
    refusal = problem(status, code, detail="no", **({"Retry-After": "999"} if status == 503 else {}))
    alice.api.answers["GET", "/v1/jobs"] = [give(refusal)]
    done = alice.run("jobs", "--json")
    assert (done.returncode, done.stdout) == (exit_status, ""), done
    assert json.loads(done.stderr)["error"]["code"] == code


def test_a_reader_that_has_seen_enough_is_no_error(alice: Laptop) -> None:
    """`hipercow-slurm logs 100 | head -1` printed a stack trace."""
    job_id = alice.api.new_job(state="COMPLETED")
    alice.api.outputs[job_id, "stdout"] = b"line\n" * 400_000
    command = f"{' '.join(PROGRAM)} logs {job_id} | head -1"
    done = subprocess.run(["bash", "-c", command], env=alice.env, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("line\n", ""), done.stderr


def test_a_bug_of_ours_is_a_sentence_too(alice: Laptop) -> None:
    """Users get no stack trace, unless they ask for one to report it."""
    broken = alice.home / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import hipercow_slurm.cli.common as common\n"
        "def connect(**how): raise KeyError('of ours')\n"
        "common.connect = connect\n"
    )
    path = os.pathsep.join(filter(None, (str(broken), os.environ.get("PYTHONPATH"))))
    done = alice.run("jobs", PYTHONPATH=path)
    assert done.returncode == 70 and done.stderr.startswith("error: KeyError: 'of ours' [bug]\nhint: "), done.stderr
    assert "Traceback" in alice.run("jobs", PYTHONPATH=path, HIPERCOW_SLURM_TRACEBACK="1").stderr


def test_an_interrupted_command_ends_with_130(alice: Laptop) -> None:
    job_id = alice.api.new_job(state="RUNNING")
    alice.api.outputs[job_id, "stdout"] = b"so far\n"
    argv = [*PROGRAM, "logs", "-f", str(job_id)]
    with subprocess.Popen(argv, env=alice.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"so far\n"
        process.send_signal(signal.SIGINT)
        try:
            assert (process.wait(20), process.stderr.read().strip()) == (130, b"")
        finally:
            process.kill()


@pytest.mark.parametrize("command", USERS)
def test_every_command_has_examples(nobody: Laptop, command: str) -> None:
    assert "Examples:" in nobody.ok(command, "--help"), command


def test_help_starts_without_what_it_does_not_need() -> None:
    """Help is what people wait for most often: no HTTP client, table library or configuration is imported for it."""
    code = "import sys; from hipercow_slurm.cli.main import program; program(['--help'], standalone_mode=False); "
    code += "print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"httpx", "rich", "asyncio", "platformdirs", "tenacity", "ssl"} & set(done.stderr.split())
    assert not heavy and "Exit status:" in done.stdout, heavy


def test_a_silent_cache_is_not_a_ticket_that_is_missing(alice: Laptop) -> None:
    """Would have caught: "log in again" while the cache was down, which no login mends."""
    said = {"principal": "alice@REALM.TEST", "localname": "alice", "uid": 5001, "session": {}, "cache": None}
    alice.api.answers["GET", "/v1/ticket"] = [
        give(JSONResponse({**said, "cache_silent": True})),
        give(JSONResponse(said)),
    ]
    assert "not known: the credential cache does not answer" in alice.ok("ticket")
    assert "no ticket: log in again" in alice.ok("ticket")
