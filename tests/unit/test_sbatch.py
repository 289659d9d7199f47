"""sbatch's options and times as its users write them; what is measured with sbatch 22.05 says so."""

from __future__ import annotations

import datetime
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipercow_slurm.errors import RequestError
from hipercow_slurm.sbatch import directives
from hipercow_slurm.sbatch_options import mebibytes, nodes
from hipercow_slurm.sbatch_time import minutes, moment
from hipercow_slurm.slurm.model import JobSpec

NOW = datetime.datetime(2026, 3, 1, 18, 30, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("1:30", 2), ("1:00:00", 60), ("2-12", 3600), ("1-0:30", 1470), ("0-0:0:1", 1), ("00:90:00", 90)],
)
def test_lengths(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", "2026-03-01T18:30:00Z"),
        ("now+60", "2026-03-01T18:31:00Z"),
        ("now + 2hours", "2026-03-01T20:30:00Z"),
        ("now+1week", "2026-03-08T18:30:00Z"),
        ("20:00", "2026-03-01T20:00:00Z"),
        ("18:00", "2026-03-02T18:00:00Z"),
        ("8:15 PM", "2026-03-01T20:15:00Z"),
        ("midnight", "2026-03-02T00:00:00Z"),
        ("today", "2026-03-01T00:00:00Z"),
        ("tomorrow", "2026-03-02T00:00:00Z"),
        ("tomorrowT10:00", "2026-03-02T10:00:00Z"),
        ("16:00 tomorrow", "2026-03-02T16:00:00Z"),
        ("4:15 PM 4/3/30", "2030-04-03T16:15:00Z"),
        ("0131", "2027-01-31T00:00:00Z"),
        ("12.30", "2026-12-30T00:00:00Z"),
        ("3/1T18:00", "2027-03-01T18:00:00Z"),
        ("2030-01-31T20:00:00+02:00", "2030-01-31T18:00:00Z"),
        ("013130T10:00", "2030-01-31T10:00:00Z"),
        ("1/31/30", "2030-01-31T00:00:00Z"),
        ("1/31/30-", None),
        ("25:00", None),
        ("now+1fortnight", None),
        ("now-1", None),
        ("2030-02-31", None),
        ("02/30", None),
        ("now+999999999weeks", None),
        ("9999-12-31T23:59:59-14:00", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("9" * 70, None),
        ("", None),
    ],
)
def test_moments(text: str, expected: str | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="is not a moment"):
            moment(text, now=NOW)
    else:
        assert moment(text, now=NOW) == expected


def test_a_time_of_day_is_that_of_its_own_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would have caught: in winter a summer's 20:00 was an hour late, by today's offset from UTC."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    try:
        found = [moment(text) for text in ("1/15/30T20:00", "7/15/30T20:00")]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found == ["2030-01-15T19:00:00Z", "2030-07-15T18:00:00Z"]


@given(st.text(max_size=40))
def test_no_text_breaks_a_reader(text: str) -> None:
    for read in (minutes, mebibytes, moment):
        try:
            read(text)
        except ValueError:
            pass


@given(st.text(alphabet="#SBATCH -=\n'\"\\njtNab01234", max_size=200))
def test_no_script_breaks_the_reader_of_directives(text: str) -> None:
    try:
        directives("#SBATCH " + text)
    except RequestError as error:
        assert error.code == "bad-directive"


def test_getopts_ways_to_write_an_option() -> None:
    script = "#SBATCH -n2 -N 1 --time 5 --mem=1G --cpus-per-t 3 --exclusive --nice --hold\n"
    assert directives(script) == {
        "tasks": 2,
        "nodes": 1,
        "time_limit_min": 5,
        "memory_mb": 1024,
        "cpus_per_task": 3,
        "exclusive": True,
        "nice": 100,
        "hold": True,
    }


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--gpus-per=1", "could be any of --gpus-per-node, --gpus-per-task, --gpus-per-socket"),
        ("--mem-b=local", "no such option here: --mem-bind: slurmrestd cannot be asked for it"),
        ("-M other", "no such option here: -M: a job runs at the cluster that it is sent to"),
        ("-N 4-2", "fewer than the fewest"),
        ("-N 0-2", "whole number from 1 on"),
        ("--no-kill=on", "none of off, no"),
        ("--kill-on-invalid-dep=1", "none of yes, no"),
        ("-Z 1", "no such option here: -Z"),
        ("-HZ", "no such option here: -Z"),
        ("-J ''", "it is empty"),
        ("--comment=" + "x" * 70_000, "more than 65536 characters"),
        ("--hold=yes", "takes no argument"),
        ("job.sh", "is no option"),
        ("-J 'open", "No closing quotation"),
        ("--exclusive=topo", "none of user, mcs"),
    ],
)
def test_what_sbatch_would_refuse(line: str, words: str) -> None:
    with pytest.raises(RequestError) as caught:
        directives(f"#!/bin/sh\n#SBATCH {line}\n")
    assert caught.value.code == "bad-directive" and words in caught.value.message, caught.value


def test_sbatchs_own_words_and_lines() -> None:
    """Its rules are not the shell's; tests/e2e/test_as_sbatch.py has sbatch itself as the judge."""
    script = (
        "#!/bin/sh\n\n#SBATCH--time=5 -J a'b \\'c'\\ e#d\n  # -n 9\n#SBATCH -HN\n#SBATCH 2 \\\n#SBATCH -o None\ntrue\n"
    )
    assert directives(script + "#SBATCH -n 7\n") == {
        "time_limit_min": 5,
        "name": "ab 'c e",
        "hold": True,
        "nodes": 2,
        "output": "/dev/null",
    }


@pytest.mark.parametrize("filler", ["\n", "# x\n", "#SBATCH -n 1\n", "#SBATCH --export=A=1\n"])
def test_a_long_head_does_not_hold_up_the_service(filler: str) -> None:
    """Would have caught: minutes of the service's time for 3 MiB of --export lines."""
    script = "#!/bin/sh\n" + filler * (3_000_000 // len(filler)) + "#SBATCH -n 2\n"
    begin = time.process_time()
    try:
        assert directives(script) == {"tasks": 2}
    except RequestError as error:
        assert "65536" in error.message
    assert time.process_time() - begin < 1, "seconds"


def test_every_option_sets_something_a_job_has() -> None:
    from hipercow_slurm.sbatch_options import OPTIONS

    unknown = {option.key for option in OPTIONS} - set(JobSpec.__struct_fields__) - {"export"}
    assert not unknown


def test_what_concerns_sbatch_alone_is_not_the_jobs() -> None:
    """Would have caught: scripts with -Q, --parsable or --wait refused, which sbatch takes every day."""
    script = "#!/bin/sh\n#SBATCH -QWvv --parsable --ignore-pbs -N 1-3 -k --wait-all-nodes=0\n"
    asked = {"nodes": "1-3", "no_kill": True, "wait_all_nodes": False}
    assert directives(script) == asked
    own = dict.fromkeys(("quiet", "wait", "verbose", "parsable", "ignore_pbs"), True)
    assert directives(script, own=True) == asked | own


@pytest.mark.parametrize(("text", "read"), [("3", 3), ("2-2", 2), ("2-4", "2-4"), ("-4", "1-4")])
def test_numbers_of_nodes(text: str, read: object) -> None:
    assert nodes(text) == read
