"""The users' commands as programs, against a real HTTPS server that keeps the API's contract."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import threading
import time
from contextlib import closing
from typing import Any

import pytest
from starlette.responses import HTMLResponse

from cli_laptop import PROGRAM, Laptop
from fake_api import PASSWORD, FakeApi, give, lose, problem


def in_terminal(laptop: Laptop, *arguments: str, type_: str = "", columns: int = 80) -> tuple[int, str]:
    """Run in a real terminal of that width; exit status, and all that the terminal shows (its echo included)."""
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(laptop.home)
        os.execve(PROGRAM[0], [*PROGRAM, *arguments], {**laptop.env, "COLUMNS": str(columns)})
    shown, end, left = b"", time.monotonic() + 30, type_
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                piece = os.read(terminal, 65536)
            except OSError:  # Linux's way to say that the other side has closed it
                break
            shown += piece
        if left and b":" in shown:
            os.write(terminal, left.encode())
            left = ""
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


# ---- logging in ----------------------------------------------------------------------------------------------


def test_login_and_logout(nobody: Laptop) -> None:
    out = nobody.ok("login", "--username", "alice", "--password-stdin", input=PASSWORD + "\n")
    assert "alice@REALM.TEST" in out and nobody.api.url in out
    assert "2031-03-08" in out, "it must say until when"
    stored = [path for path in nobody.home.rglob("*") if path.is_file()]
    assert not [path for path in stored if PASSWORD in path.read_text()], "the password is on disk"
    token = next(iter(nobody.api.tokens))
    assert [path.name for path in stored if token in path.read_text()] == ["session.json"]
    assert nobody.run("jobs").returncode == 0
    nobody.ok("logout")
    assert nobody.api.tokens == {}, "the server still has the session"
    assert not [path for path in stored if token in path.read_text()], "the token is still here"
    after = nobody.run("jobs")
    assert (after.returncode, after.stderr.splitlines()) == (
        3,
        [f"error: you are not logged in at {nobody.api.url} [not-logged-in]", "hint: hipercow-slurm login"],
    )


def test_login_as_json_does_not_show_the_token(nobody: Laptop) -> None:
    out = nobody.ok("login", "--username", "alice", "--password-stdin", "--json", input=PASSWORD + "\n")
    answer = json.loads(out)
    assert answer["principal"] == "alice@REALM.TEST" and answer["ticket"]["valid_until"]
    assert next(iter(nobody.api.tokens)) not in out


def test_a_wrong_password(nobody: Laptop) -> None:
    for who in ("alice", "nobody-at-all"):
        done = nobody.run("login", "--username", who, "--password-stdin", input="wrong-secret\n")
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr == "error: wrong user name or password [login-failed]\nhint: check both\n"
    assert not (nobody.home / ".local").exists(), "a failed login left something"


def test_a_second_login_ends_the_first_session(nobody: Laptop) -> None:
    nobody.login()
    nobody.login()
    assert list(nobody.api.tokens) == ["secret-token-1"]


def test_the_password_is_asked_for_and_not_shown(nobody: Laptop) -> None:
    status, shown = in_terminal(nobody, "login", "-u", "alice", type_=PASSWORD + "\n")
    assert status == 0, shown
    assert f"Password of alice at {nobody.api.url}:" in shown
    assert PASSWORD not in shown and "correct" not in shown, "the terminal echoed the password"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("login",), "no-password"), (("login", "--password-stdin"), "no-password")],
)
def test_no_password_to_be_had(nobody: Laptop, arguments: tuple[str, ...], code: str) -> None:
    done = nobody.run(*arguments)
    assert done.returncode == 2 and f"[{code}]" in done.stderr, done.stderr
    assert nobody.api.requests == []


def test_no_cluster_known(nobody: Laptop) -> None:
    (nobody.home / ".config/hipercow-slurm/config.toml").unlink()
    done = nobody.run("login", "--password-stdin", input="x\n")
    assert done.returncode == 78 and "[no-url]" in done.stderr and "--url https://" in done.stderr, done.stderr


def test_the_session_goes_where_it_was_made(alice: Laptop) -> None:
    """A configuration that names another server later does not get the token."""
    with closing(FakeApi()) as other:
        (alice.home / ".config/hipercow-slurm/config.toml").write_text(f'url = "{other.url}"\n')
        alice.ok("jobs")
        assert other.requests == [] and len(alice.api.requests) == 1


def test_a_session_that_has_ended(alice: Laptop) -> None:
    alice.api.tokens.clear()
    done = alice.run("jobs")
    assert (done.returncode, "hint: hipercow-slurm login" in done.stderr) == (3, True), done.stderr
    assert alice.run("logout").returncode == 0, "logging out of what has ended is no error"


def test_ticket(alice: Laptop) -> None:
    out = alice.ok("ticket")
    assert re.search(r"session +renewed until 2031-03-08 10:00 \(in .* d.*\); good until 03-01 10:00", out), out
    assert json.loads(alice.ok("ticket", "--json"))["cache"]["valid_until"] == "2031-03-01T10:00:00Z"


# ---- submitting ----------------------------------------------------------------------------------------------

SCRIPT = """\
#!/bin/bash
#SBATCH -J from-script --time=1-12   # a comment
#SBATCH --mem 4G -n2
# a remark

#SBATCH --export=A=1 --export "B='x,y'"
echo hello
#SBATCH --time=1
"""


def test_submit_reads_directives_and_the_command_line_wins(alice: Laptop) -> None:
    (alice.home / "job.sh").write_text(SCRIPT)
    out = alice.ok("submit", "-t", "1:30:01", "-N", "2", "--export", "C=3", "job.sh")
    assert out == "Submitted batch job 100\n"
    assert alice.spec() == {
        "script": SCRIPT,
        "name": "from-script",
        "time_limit_min": 91,
        "memory_mb": 4096,
        "tasks": 2,
        "nodes": 2,
        "environment": {"C": "3"},
        "ignore_directives": True,
    }
    alice.ok("submit", "job.sh")
    assert (alice.spec()["time_limit_min"], alice.spec()["environment"]) == (2160, {"B": "x,y"})
    alice.ok("submit", "--ignore-directives", "job.sh")
    assert alice.spec() == {"script": SCRIPT, "name": "job.sh", "ignore_directives": True}


def test_submit_takes_sbatch_s_options(alice: Laptop) -> None:
    options = "-J name -p debug -A acct -q high -t 5 -N 1 -n 4 -c 2 --mem 500M -a 0-9%2 -D /work -o o.%j -e e.%j -H"
    alice.ok(
        "submit",
        *options.split(),
        "--comment",
        "two words",
        "--export",
        r"HERE,X=a b,Y=c:\d",
        "-",
        input="#!/bin/sh\n",
        HERE="h",
    )
    assert alice.spec() == {
        "script": "#!/bin/sh\n",
        "name": "name",
        "partition": "debug",
        "account": "acct",
        "qos": "high",
        "time_limit_min": 5,
        "nodes": 1,
        "tasks": 4,
        "cpus_per_task": 2,
        "memory_mb": 500,
        "array": "0-9%2",
        "working_directory": "/work",
        "output": "o.%j",
        "error": "e.%j",
        "hold": True,
        "comment": "two words",
        "environment": {"HERE": "h", "X": "a b", "Y": r"c:\d"},
    }


def test_submit_takes_the_rarer_of_sbatch_s_options(alice: Laptop) -> None:
    options = "--ntasks-per-node 2 --mem-per-cpu 2G -G a100:2 --gres=gpu:1 -C fast -w c[1-2] -d afterok:17 --nice 50"
    more = "-b 2030-01-31T20:00:00Z -L matlab:2 --reservation r --no-requeue --open-mode append --exclusive -"
    alice.ok(
        "submit",
        *options.split(),
        *more.split(),
        input="#!/bin/sh\n",
    )
    assert alice.spec() == {
        "script": "#!/bin/sh\n",
        "tasks_per_node": 2,
        "memory_per_cpu_mb": 2048,
        "gpus": "a100:2",
        "gres": "gpu:1",
        "constraint": "fast",
        "nodelist": "c[1-2]",
        "dependency": "afterok:17",
        "begin_time": "2030-01-31T20:00:00Z",
        "licenses": "matlab:2",
        "reservation": "r",
        "requeue": False,
        "open_mode": "append",
        "exclusive": True,
        "nice": 50,
    }


def test_submit_wraps_a_command(alice: Laptop) -> None:
    assert alice.ok("submit", "--parsable", "--wrap", "echo $HOSTNAME") == "100\n"
    assert alice.spec() == {"script": "#!/bin/sh\necho $HOSTNAME\n", "name": "wrap"}
    assert json.loads(alice.ok("submit", "--json", "--wrap", "true"))["job_id"] == 101


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("submit",), "either a script"),
        (("submit", "--wrap", "true", "job.sh"), "either a script"),
        (("submit", "missing.sh"), "missing.sh: No such file"),
        (("submit", "."), "Is a directory"),
        (("submit", "binary"), "UTF-8"),
        (("submit", "gpu.sh"), "line 2 of the script, #SBATCH --wibble=gpu:1: no such option"),
        (("submit", "quote.sh"), "line 2 of the script"),
        (("submit", "--wrap", "x", "-t", "0"), "at least a minute"),
        (("submit", "--wrap", "x", "-t", "UNLIMITED"), "needs a time limit"),
        (("submit", "--wrap", "x", "-t", "1:2:3:4"), "not a time"),
        (("submit", "--wrap", "x", "--mem", "lots"), "not a size"),
        (("submit", "--wrap", "x", "-N", "4-1"), "fewer than the fewest"),
        (("submit", "--wrap", "x", "--wait-all-nodes", "2"), "none of 0, 1"),
        (("submit", "--wrap", "x", "-n", "0"), "whole number"),
        (("submit", "--wrap", "x", "--export", "ALL"), "is not sent"),
        (("submit", "--wrap", "x", "--export", "UNSET_HERE"), "UNSET_HERE is not set"),
        (("submit", "--wrap", "x", "--export", "2X=1"), "not the name"),
    ],
)
def test_submissions_that_make_no_sense_are_not_sent(alice: Laptop, arguments: tuple[str, ...], words: str) -> None:
    (alice.home / "job.sh").write_text("#!/bin/sh\n")
    (alice.home / "binary").write_bytes(b"\x7fELF\xff\xfe")
    (alice.home / "gpu.sh").write_text("#!/bin/sh\n#SBATCH --wibble=gpu:1\n")
    (alice.home / "quote.sh").write_text("#!/bin/sh\n#SBATCH -J 'open\n")
    done = alice.run(*arguments)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert words in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert alice.api.requests == []


def test_warnings_are_told_at_submit(alice: Laptop) -> None:
    """That the ticket may not last, above all."""

    def warned(request: Any, own: Any) -> Any:
        job = json.loads(own.body) | {"warnings": ["your ticket ends\x1b"]}
        return type(own)(job, 201)

    alice.api.answers["POST", "/v1/jobs"] = [warned]
    done = alice.run("submit", "-", input="#!/bin/sh\n#SBATCH -n1\n")
    assert (done.stdout, done.stderr) == ("Submitted batch job 100\n", "warning: your ticket ends\n")


def test_a_lost_answer_is_no_second_job(alice: Laptop) -> None:
    alice.api.answers["POST", "/v1/jobs"] = [lose, give(HTMLResponse("", 503))]
    assert alice.ok("submit", "--wrap", "true") == "Submitted batch job 100\n"
    assert len(alice.api.jobs) == 1 and len(alice.api.seen("POST", "/v1/jobs")) == 3


def test_slurm_s_refusal(alice: Laptop) -> None:
    refusal = problem(422, "job-rejected", detail="Invalid partition name specified", hint="sinfo lists them")
    alice.api.answers["POST", "/v1/jobs"] = [give(refusal)]
    done = alice.run("submit", "-p", "nope", "--wrap", "true")
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == "error: Invalid partition name specified [job-rejected]\nhint: sinfo lists them\n"


@pytest.mark.parametrize(("state", "code", "signal", "status"), [("COMPLETED", 0, None, 0), ("FAILED", 7, None, 7)])
def test_waiting_for_a_job(alice: Laptop, state: str, code: int, signal: int | None, status: int) -> None:
    def play() -> None:
        while not alice.api.jobs:
            time.sleep(0.02)
        alice.api.jobs[100].update(state="RUNNING", start_time="2026-03-01T10:00:00Z")
        time.sleep(1)
        alice.api.jobs[100].update(state=state, exit_code=code, signal=signal)

    threading.Thread(target=play, daemon=True).start()
    done = alice.run("submit", "--wait", "--json", "--wrap", "true")
    assert done.returncode == status, done.stderr
    assert json.loads(done.stdout)["state"] == state, "one JSON document, of the ended job"
    assert done.stderr.splitlines()[-1].startswith(f"job 100 {state}"), done.stderr


# ---- looking -------------------------------------------------------------------------------------------------


def jobs_of_all_kinds(api: FakeApi) -> None:
    api.new_job(name="a rather long name for a job " * 3, state="PENDING", reason="Resources and [bold]more[/bold]")
    api.new_job(name="\x1b[31mred", state="RUNNING", nodes=["c1", "c2"], start_time="2026-03-01T10:00:00Z")
    ended = {"start_time": "2026-03-01T10:00:00Z", "end_time": "2026-03-02T11:02:03Z"}
    api.new_job(name="over", state="FAILED", exit_code=7, **ended)


def test_the_table_of_jobs_is_whole_in_a_pipe(alice: Laptop) -> None:
    assert alice.run("jobs").stderr == "no jobs\n"
    jobs_of_all_kinds(alice.api)
    lines = alice.ok("jobs", COLUMNS="40").splitlines()
    assert lines[0].split() == ["JOB", "NAME", "PARTITION", "STATE", "TIME", "NODES", "TICKET", "REASON"]
    assert lines[1].endswith("Resources and [bold]more[/bold]") and "job a rather" in lines[1]
    assert "1-01:02:03" in lines[3] and "ok Sat 10:00" in lines[1], lines
    assert "\x1b" not in "".join(lines)
    assert [job["job_id"] for job in json.loads(alice.ok("jobs", "--json", "--state", "running"))] == [101]


@pytest.mark.parametrize("columns", [40, 60, 100])
def test_the_table_of_jobs_fits_the_terminal(alice: Laptop, columns: int) -> None:
    jobs_of_all_kinds(alice.api)
    status, shown = in_terminal(alice, "jobs", columns=columns)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert status == 0 and "\x1b[32m" in shown, "no colour"
    assert "\x1b[31mred" not in shown, "a job's name coloured the terminal"
    lines = plain.splitlines()
    assert len(lines) == 4 and max(map(len, lines)) <= columns, plain
    for job_id, state in ((100, "PENDING"), (101, "RUNNING"), (102, "FAILED")):
        assert re.search(rf"^{job_id} .*{state}", plain, re.MULTILINE), plain


def test_show(alice: Laptop) -> None:
    jobs_of_all_kinds(alice.api)
    out = alice.ok("show", "102")
    assert out.startswith("job 102 over: FAILED\n") and re.search(r"result +status 7", out), out
    assert re.search(r"ticket +ok: good until then", alice.ok("show", "101"))
    assert "ticket" not in out, "a job that has ended needs none"
    assert json.loads(alice.ok("show", "--json", "101"))["nodes"] == ["c1", "c2"]
    missing = alice.run("show", "7")
    assert (missing.returncode, missing.stderr) == (2, "error: you have no job 7 [no-such-job]\n")


def test_logs_are_the_job_s_own_bytes(alice: Laptop) -> None:
    job_id = str(alice.api.new_job(state="RUNNING"))
    none = alice.run("logs", job_id)
    assert none.returncode == 2 and "RUNNING" in none.stderr and "logs -f" in none.stderr, none.stderr
    alice.api.outputs[int(job_id), "stdout"] = "caf\u00e9 \x1b[1m\n".encode() + b"\xff"
    alice.api.outputs[int(job_id), "stderr"] = b"trouble"
    raw = subprocess.run([*PROGRAM, "logs", job_id], env=alice.env, capture_output=True, check=True).stdout
    assert raw == "caf\u00e9 \x1b[1m\n".encode() + b"\xff"
    assert alice.ok("logs", "--stderr", job_id) == "trouble"
    assert json.loads(alice.ok("logs", "--json", job_id))["output"] == "caf\u00e9 \x1b[1m\n\ufffd"


def test_logs_follow_until_the_end(alice: Laptop) -> None:
    job_id = alice.api.new_job(state="PENDING")

    def play() -> None:
        time.sleep(0.8)
        alice.api.outputs[job_id, "stdout"] = b"one\n"
        alice.api.jobs[job_id].update(state="RUNNING")
        time.sleep(0.8)
        alice.api.outputs[job_id, "stdout"] = b"one\ntwo\n"
        alice.api.jobs[job_id].update(state="COMPLETED")

    threading.Thread(target=play, daemon=True).start()
    assert alice.ok("logs", "-f", str(job_id)) == "one\ntwo\n"


def test_cancel_does_what_it_can(alice: Laptop) -> None:
    first, second = alice.api.new_job(state="RUNNING"), alice.api.new_job(state="PENDING")
    done = alice.run("cancel", str(first), "7", str(second))
    assert [alice.api.jobs[job]["state"] for job in (first, second)] == ["CANCELLED"] * 2
    assert done.returncode == 2 and done.stdout == f"cancelled job {first}\ncancelled job {second}\n"
    assert done.stderr == "error: you have no job 7 [no-such-job]\n"
    rows = json.loads(alice.run("cancel", "--json", "7").stdout)
    assert rows == [{"job_id": 7, "cancelled": False, "code": "no-such-job", "error": "you have no job 7"}]


def test_nobody_answers(alice: Laptop) -> None:
    session = alice.home / ".local/state/hipercow-slurm/session.json"
    session.write_text(session.read_text().replace(alice.api.url, "https://127.0.0.1:1"))
    done = alice.run("logout")
    assert done.returncode == 75 and "127.0.0.1:1" in done.stderr and "forgotten here" in done.stderr, done.stderr
    assert "her-token" not in session.read_text()


# ---- the program ---------------------------------------------------------------------------------------------


def loaded(module: str) -> set[str]:
    """Top names of all modules that are there after importing ``module`` in a new process."""
    code = f"import sys, {module}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


NOT_ON_A_LAPTOP = {"msgspec", "cffi", "structlog", "cryptography", "gssapi", "aiohttp", "starlette"}


def test_the_user_s_commands_need_only_the_base_install() -> None:
    """Not even where the rest is installed: nothing tries, nothing falls back."""
    modules = (
        "cli.main",
        "cli.user",
        "cli.jobs",
        "cli.job_table",
        "cli.ticket",
        "client.sync.client",
        "client.profile",
    )
    everything = loaded(", ".join(f"hipercow_slurm.{module}" for module in modules))
    ours = {"hipercow_slurm", "anyio", "click", "httpx", "rich", "platformdirs", "tenacity"}
    brought = {"httpcore", "h11", "anyio", "sniffio", "certifi", "idna", "pygments", "markdown_it", "mdurl"}
    foreign = everything - set(sys.stdlib_module_names) - {"__main__", "sitecustomize"}
    foreign = {name for name in foreign if not name.startswith(("_", "__editable__"))}
    assert not everything & NOT_ON_A_LAPTOP
    assert foreign <= ours | brought | {"typing_extensions", "colorama"}, foreign - ours - brought


def test_submit_starts_without_what_it_does_not_need() -> None:
    assert not loaded("hipercow_slurm.cli.main, hipercow_slurm.cli.jobs") & {"rich", "pygments", "asyncio"}


@pytest.mark.parametrize("command", ["login", "logout", "submit", "jobs", "show", "logs", "cancel", "ticket"])
def test_every_command_explains_itself(nobody: Laptop, command: str) -> None:
    out = nobody.ok(command, "--help")
    assert f"Usage: hipercow-slurm {command}" in out and "--json" in out


def complete(laptop: Laptop, line: str) -> list[str]:
    words = line.split(" ")
    out = laptop.ok(_HIPERCOW_SLURM_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
    return [row.partition(",")[2] for row in out.splitlines()]


def test_completion(nobody: Laptop) -> None:
    assert {"login", "logout", "logs"} == set(complete(nobody, "hipercow-slurm lo"))
    assert complete(nobody, "hipercow-slurm submit --part") == ["--partition"]
    script = nobody.home / "completion.sh"
    for shell in ("bash", "zsh", "fish"):
        assert "_HIPERCOW_SLURM_COMPLETE" in nobody.ok("completion", shell)
    script.write_text(nobody.ok("completion", SHELL="/bin/bash"))
    checked = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_a_script_says_how_it_wants_to_be_submitted(alice: Laptop) -> None:
    """Would have caught: ``#SBATCH --parsable`` an error, or without effect; yes and no lost on their way."""
    script = "#!/bin/sh\n#SBATCH --parsable -N2-4 -x c[1-2] --signal=B:USR1@60 --wait-all-nodes=0 -k\n"
    assert alice.ok("submit", "--kill-on-invalid-dep", "no", "-", input=script) == "100\n"
    sent = alice.spec()
    assert sent.pop("ignore_directives") is True and sent.pop("script") == script
    asked = {"nodes": "2-4", "exclude": "c[1-2]", "signal": "B:USR1@60", "no_kill": True}
    assert sent == asked | {"wait_all_nodes": False, "kill_on_invalid_dep": False}
    assert alice.ok("submit", "-", input="#!/bin/sh\n#SBATCH -Q\n") == ""
