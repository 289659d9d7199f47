"""The command line as people meet it: in a real terminal (tmux), typed at, looked at."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from fake_api import PASSWORD, FakeApi, give, problem, wanted
from tmux import Terminal

LOGIN = ("POST", "/v1/sessions")
SCRIPT = Path(sys.executable).parent / "hipercow-slurm"
Open = Callable[..., Terminal]


@pytest.fixture(scope="module")
def server() -> Iterator[FakeApi]:
    with closing(FakeApi()) as api:
        yield api


@pytest.fixture
def api(server: FakeApi) -> FakeApi:
    server.reset()
    return server


@pytest.fixture
def terminal(api: FakeApi, tmp_path: Path) -> Iterator[Open]:
    """Opens a terminal with a shell, in a home with a configured cluster."""
    config = tmp_path / ".config/hipercow-slurm/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'url = "{api.url}"\nusername = "alice"\n')
    env = {"HOME": str(tmp_path), "PATH": f"{SCRIPT.parent}:{os.environ['PATH']}", "TZ": "UTC"}
    env |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    with ExitStack() as opened:

        def open_(*argv: str, width: int = 80, height: int = 24, **more: str) -> Terminal:
            shell = argv or ("env", "PS1=> ", "bash", "--norc", "--noprofile")
            place = tmp_path / f"terminal{len(list(tmp_path.glob('terminal*')))}"
            place.mkdir()
            made = Terminal(place, shell, {**env, **more}, width=width, height=height)
            opened.enter_context(made)
            made.shows("[>#%$]$")
            return made

        yield open_


@pytest.fixture
def session(api: FakeApi, tmp_path: Path) -> None:
    """alice has logged in."""
    api.tokens["her-token"] = "alice"
    path = tmp_path / ".local/state/hipercow-slurm/session.json"
    path.parent.mkdir(parents=True)
    path.touch(0o600)
    path.write_text(f'{{"url": "{api.url}", "ca": null, "username": "alice", "token": "her-token"}}')


def test_a_login_asks_hides_what_is_typed_and_says_until_when(api: FakeApi, terminal: Open) -> None:
    screen = terminal()
    screen.type("hipercow-slurm login")
    screen.shows(r"Password of alice at http://127\.0\.0\.1:\d+:")
    screen.type(PASSWORD)
    screen.shows(r"^logged in at http.* as alice@REALM\.TEST$")
    assert re.search(r"^your ticket renews itself until 2031-03-08 10:00 \(in \d+ d", screen.screen(), re.MULTILINE)
    assert "correct" not in screen.screen(), "the password is on the screen"


def test_a_wrong_password_says_what_to_do(api: FakeApi, terminal: Open) -> None:
    screen = terminal()
    screen.type("hipercow-slurm login; echo status $?")
    screen.shows("Password of")
    screen.type("wrong")
    screen.shows("^status 3$")
    assert screen.lines()[-4:-1] == [
        "error: wrong user name or password [login-failed]",
        "hint: check both",
        "status 3",
    ], screen.screen()


def test_questions_of_the_kdc_are_asked_hidden_or_not(api: FakeApi, terminal: Open) -> None:
    api.answers[LOGIN] = [wanted(("One-time code", True), ("Colour", False))]
    screen = terminal()
    screen.type("hipercow-slurm login")
    screen.shows("Password of")
    screen.type(PASSWORD)
    screen.shows("^One-time code:")
    screen.type("123456")
    screen.shows("^Colour:")
    screen.type("blue")
    screen.shows("^logged in")
    assert "123456" not in screen.screen() and "Colour: blue" in screen.screen()
    assert b'"answers":["123456","blue"]' in api.seen(*LOGIN)[-1][1]


def test_a_session_that_has_ended_is_begun_anew_in_the_middle_of_a_command(
    api: FakeApi, terminal: Open, session: None
) -> None:
    api.new_job(state="RUNNING", name="mine")
    api.tokens.clear()
    screen = terminal()
    screen.type("hipercow-slurm jobs")
    screen.shows(r"^You have no session at http")
    screen.type(PASSWORD)
    screen.shows(r"^100 +mine .*RUNNING")


def test_submit_and_wait_shows_status_and_output_and_ends_as_the_job_did(
    api: FakeApi, terminal: Open, session: None
) -> None:
    """One line that changes in place; the output above it, whole; the job's own exit status at the end."""
    screen = terminal()
    screen.type("hipercow-slurm submit --wait --wrap true; echo status $?")
    screen.shows(r"^job 100 PENDING")
    assert screen.lines()[1].startswith("Submitted batch job 100"), screen.screen()
    begun = "2026-03-01T10:00:00Z"
    api.jobs[100].update(state="RUNNING", start_time=begun, nodes=["c1"])
    screen.shows(r"^job 100 RUNNING on c1 ")
    api.outputs[100, "stdout"] = b"one\n"
    screen.shows(r"^one$")
    screen.shows(r"^job 100 RUNNING")
    api.outputs[100, "stdout"] = b"one\ntwo, not "
    screen.shows(r"^two, not$")
    assert not re.search("job 100 RUNNING", screen.screen()), "the status was drawn over a line that has not ended"
    api.outputs[100, "stdout"] = b"one\ntwo, not three\n"
    screen.shows(r"^job 100 RUNNING")
    api.jobs[100].update(state="FAILED", exit_code=7, end_time="2026-03-01T10:01:05Z")
    screen.shows(r"^status 7$")
    assert screen.lines()[1:] == [
        "Submitted batch job 100",
        "one",
        "two, not three",
        "job 100 FAILED (status 7) after 01:05",
        "status 7",
        ">",
    ], screen.screen()


def test_ctrl_c_leaves_the_job_alone_and_says_so(api: FakeApi, terminal: Open, session: None) -> None:
    screen = terminal()
    screen.type("hipercow-slurm submit --wait --wrap true; echo status $?")
    screen.shows(r"^job 100 PENDING")
    screen.press("C-c")
    screen.shows(r"^status 130$")
    assert "job 100 goes on without you." in screen.screen() and "cancel 100" in screen.screen()
    assert api.jobs[100]["state"] == "PENDING" and "Traceback" not in screen.screen()


@pytest.mark.parametrize("command", ["logs -f 100", "login", "submit -"])
def test_ctrl_c_ends_quietly(api: FakeApi, terminal: Open, session: None, command: str) -> None:
    api.new_job(state="RUNNING")
    api.outputs[100, "stdout"] = b"so far\n"
    screen = terminal()
    screen.type(f"hipercow-slurm {command}; echo status $?")
    screen.shows({"logs -f 100": "^so far", "login": "Password of", "submit -": "^Type the script"}[command])
    screen.press("C-c")
    screen.shows(r"^status 130$")
    assert "Traceback" not in screen.screen() and "Aborted" not in screen.screen(), screen.screen()


def jobs_of_all_kinds(api: FakeApi) -> None:
    api.new_job(name="a rather long name for a job " * 3, state="PENDING", reason="Resources and more")
    api.new_job(name="\x1b[31mred", state="RUNNING", nodes=["c1", "c2"], start_time="2026-03-01T10:00:00Z")
    ended = {"start_time": "2026-03-01T10:00:00Z", "end_time": "2026-03-02T11:02:03Z"}
    api.new_job(name="\u65e5\u672c\u8a9e", state="OUT_OF_MEMORY", exit_code=7, **ended)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_tables_fit(api: FakeApi, terminal: Open, session: None, width: int) -> None:
    """A line that is too long wraps, and the table is one no more."""
    jobs_of_all_kinds(api)
    screen = terminal(width=width)
    screen.type("clear; hipercow-slurm jobs; hipercow-slurm ticket; hipercow-slurm sessions; echo done")
    screen.shows("^done$")
    lines = screen.lines()
    heads = [index for index, line in enumerate(lines) if re.search(r"\b(JOB|SESSION) ", line)]
    assert len(heads) == 3, screen.screen()
    table = lines[heads[0] : heads[0] + 4]
    assert [row.split()[0] for row in table] == ["JOB", "100", "101", "102"], screen.screen()
    for row, state in zip(table[1:], ("PENDING", "RUNNING", "OUT_OF_MEMORY"), strict=True):
        assert state in row, screen.screen()
    assert ("REASON" in table[0]) == (width > 60) and ("Resources and more" in table[1]) == (width == 200)
    assert [row.split()[0] for row in lines[heads[1] + 1 : heads[1] + 3]] == ["100", "101"], screen.screen()
    assert lines[heads[2] + 1].startswith("* "), screen.screen()


def test_colours_for_people_and_none_for_those_who_want_none(api: FakeApi, terminal: Open, session: None) -> None:
    jobs_of_all_kinds(api)
    green, any_colour = "\x1b[32mRUNNING", re.compile(r"\x1b\[3[1-7]m")
    screen = terminal()
    screen.type("hipercow-slurm jobs; hipercow-slurm show 7; echo done")
    screen.shows("^done$")
    assert green in screen.screen(colours=True) and "\x1b[31merror:" in screen.screen(colours=True)
    assert "\x1b[31mred" not in screen.screen(colours=True), "a job's name coloured the terminal"
    plain = terminal(NO_COLOR="1")
    plain.type("hipercow-slurm jobs; hipercow-slurm show 7; hipercow-slurm submit --wait --wrap true")
    plain.shows("^job 103 PENDING")
    assert not any_colour.search(plain.screen(colours=True)), plain.screen(colours=True)
    piped = terminal()
    piped.type("hipercow-slurm jobs | cat")
    piped.shows("^102 ")
    assert "\x1b" not in piped.screen(colours=True)


def test_watching_jobs(api: FakeApi, terminal: Open, session: None) -> None:
    """It changes by itself, follows the window's size, lives through an outage, and leaves the screen as it was."""
    jobs_of_all_kinds(api)
    screen = terminal(width=100)
    screen.type("echo before; hipercow-slurm jobs --watch=0.5; echo status $?")
    screen.shows(r"^101 .*RUNNING")
    assert "before" not in screen.screen() and "Ctrl-C ends" in screen.lines()[0]
    api.jobs[101].update(state="COMPLETED")
    screen.shows(r"^101 .*COMPLETED")
    screen.resize(60, 24)
    screen.until("the table is narrow", lambda: "REASON" not in screen.screen() and "102" in screen.screen())
    api.answers["GET", "/v1/jobs"] = [give(problem(503, "scheduler-unreachable", detail="Slurm is away"))] * 3
    screen.shows("Slurm is away")
    assert "101" in screen.screen(), "what was known last is gone"
    screen.until("the outage is over", lambda: "Slurm is away" not in screen.screen())
    screen.press("C-c")
    screen.shows(r"^status 0$")
    assert "before" in screen.screen() and "COMPLETED" not in screen.screen()


def test_watching_more_jobs_than_fit(api: FakeApi, terminal: Open, session: None) -> None:
    for number in range(40):
        api.new_job(name=f"job{number}", state="PENDING")
    screen = terminal(height=15)
    screen.type("hipercow-slurm jobs -w")
    screen.shows(r"^29 older ones are not shown")
    assert re.search(r"^139 ", screen.screen(), re.MULTILINE), screen.screen()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_tab_completes(api: FakeApi, terminal: Open, session: None, shell: str) -> None:
    """Commands, job ids of the right kind, and partitions, in the shells themselves."""
    api.new_job(state="RUNNING", name="runs")
    api.new_job(state="COMPLETED", name="is over")
    start = {
        "bash": ("env", "PS1=> ", "bash", "--norc", "--noprofile", "-i"),
        "zsh": ("env", "PS1=> ", "zsh", "-f", "-i"),
        "fish": ("fish", "--no-config", "-i"),
    }[shell]
    screen = terminal(*start)
    if shell == "zsh":
        screen.type("autoload -U compinit && compinit -u -D")
    screen.type(
        "hipercow-slurm completion fish | source; clear"
        if shell == "fish"
        else f'eval "$(hipercow-slurm completion {shell})"; clear'
    )
    screen.until("the shell is ready", lambda: re.fullmatch(r".*[>#%$]", screen.screen()) is not None)
    for typed, completed in (
        ("hipercow-slurm canc", "hipercow-slurm cancel "),
        ("hipercow-slurm cancel 1", "hipercow-slurm cancel 100 "),
        ("hipercow-slurm submit -p l", "hipercow-slurm submit -p long "),
    ):
        screen.write(typed)
        screen.shows(re.escape(typed))
        screen.press("Tab")
        screen.shows(re.escape(completed.rstrip()))
        assert "101" not in screen.screen(), "a job that has ended cannot be cancelled"
        screen.press("C-u")
    assert "Traceback" not in screen.screen()


def test_completion_without_a_session_is_silent_and_quick(api: FakeApi, terminal: Open) -> None:
    """A shell that hangs, or asks for a password, at a Tab."""
    screen = terminal()
    screen.type('eval "$(hipercow-slurm completion bash)"; clear')
    screen.until("the shell is ready", lambda: "completion" not in screen.screen() and ">" in screen.screen())
    screen.write("hipercow-slurm cancel 1")
    screen.press("Tab")
    screen.write("23")
    screen.shows(r"^> hipercow-slurm cancel 123$")
    assert api.requests == []
    screen.press("C-u")
    screen.write("hipercow-slurm zzz ")
    screen.press("Tab")
    screen.write("45")
    screen.shows(r"^> hipercow-slurm zzz 45$")


def test_copying_shows_where_to(api: FakeApi, terminal: Open, session: None, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes(b"x" * 3_400_000)
    screen = terminal()
    screen.type("cd; hipercow-slurm cp data.csv :/home/alice/; hipercow-slurm cp :/home/alice/data.csv back; echo done")
    screen.shows("^done$")
    shown = screen.screen()
    assert "data.csv -> :/home/alice/data.csv (3.4 MB)" in shown and ":/home/alice/data.csv -> back (3.4 MB)" in shown
    assert (tmp_path / "back").read_bytes() == (tmp_path / "data.csv").read_bytes()


def test_long_sentences_break_between_words(api: FakeApi, terminal: Open, session: None) -> None:
    sentence = "the scheduler refuses because " + "of this and that and " * 6 + "nothing else"
    api.answers["POST", "/v1/jobs"] = [give(problem(422, "job-rejected", detail=sentence))]
    screen = terminal(width=60)
    screen.type("clear; hipercow-slurm submit --wrap true; echo done")
    screen.shows("^done$")
    words = " ".join(" ".join(screen.lines()).split())
    assert f"error: {sentence} [job-rejected]" in words, screen.screen()
