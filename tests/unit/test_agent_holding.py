"""Which job to put back, under which name, and what is left in its comments. The real Slurm is in tests/e2e."""

from __future__ import annotations

from hipercow_slurm.agent.holding import MARKER, Known, comments, read

PLAIN = (
    "JobId=7 JobName=wrap UserId=alice(5001) JobState=RUNNING Requeue=1 Restarts=0 BatchFlag=1 "
    "AdminComment=by hand  Comment=hcs:abc request=1 x  StdErr=/tmp/o StdIn=/dev/null\n"
)


def test_plain_batch_job() -> None:
    assert read(PLAIN, 7) == Known("7", True, "hcs:abc request=1 x")


def test_no_comment_at_all() -> None:
    assert read("JobId=7 Requeue=1 BatchFlag=1 StdErr=/tmp/o\n", 7) == Known("7", True, "")


def test_interactive_and_no_requeue_are_not_put_back() -> None:
    for fields in ("Requeue=1 BatchFlag=0", "Requeue=0 BatchFlag=1"):
        known = read(f"JobId=7 {fields} StdErr=/x\n", 7)
        assert known is not None and not known.batch, fields


def test_one_task_of_an_array_and_not_the_array() -> None:
    """The last task has the array's own id: to requeue "20" would stop all of them."""
    shown = (
        "JobId=21 ArrayJobId=20 ArrayTaskId=1 Requeue=1 BatchFlag=1\n"
        "JobId=20 ArrayJobId=20 ArrayTaskId=2 Requeue=1 BatchFlag=1\n"
    )
    found = read(shown, 20)
    assert found is not None and found.name == "20_2", found


def test_part_of_a_heterogeneous_job_means_the_whole() -> None:
    shown = (
        "JobId=30 HetJobId=30 HetJobOffset=0 Requeue=1 BatchFlag=1\n"
        "JobId=31 HetJobId=30 HetJobOffset=1 Requeue=1 BatchFlag=0\n"
    )
    found = read(shown, 31)
    assert found is not None and (found.name, found.batch) == ("30", True), found


def test_unknown_job() -> None:
    assert read(PLAIN, 8) is None and read("", 7) is None


def test_comment_keeps_how_it_began() -> None:
    """The API finds its jobs by their first word; the reason comes after it, and only once."""
    first, admin = comments(Known("7", True, "hcs:abc request=1"), 'no "ticket"\nnow')
    assert first.startswith("hcs:abc request=1 | ") and MARKER in first, first
    assert admin.startswith(MARKER) and "scontrol release 7" in admin and '"' not in admin and "\n" not in admin, admin
    again, _ = comments(Known("7", True, first), "still none")
    assert again.count(MARKER) == 1 and again.startswith("hcs:abc request=1 | "), again
