"""sbatch's options and times as its users write them; what is measured with sbatch 22.05 says so."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipercow_slurm.errors import RequestError
from hipercow_slurm.sbatch import directives, mebibytes, minutes, moment
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
        ("tomorrow", "2026-03-02T18:30:00Z"),
        ("2030-01-31T20:00:00+02:00", "2030-01-31T18:00:00Z"),
        ("013130T10:00", "2030-01-31T10:00:00Z"),
        ("1/31/30", "2030-01-31T00:00:00Z"),
        ("1/31/30-", None),
        ("25:00", None),
        ("now+1fortnight", None),
        ("now-1", None),
        ("2030-02-31", None),
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
    script = "#SBATCH -n2 -N 1 --time 5 --mem=1G --cpus 3 --exclusive --nice --hold\n"
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
        ("--gpus-per=1", "could be any of --gpus-per-node, --gpus-per-task"),
        ("-Z 1", "no such option here: -Z"),
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


def test_every_option_sets_something_a_job_has() -> None:
    from hipercow_slurm.sbatch import OPTIONS

    unknown = {option.key for option in OPTIONS} - set(JobSpec.__struct_fields__) - {"export"}
    assert not unknown
