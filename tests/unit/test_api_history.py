"""Our record of how jobs ended, as several processes keep it together."""

from dataclasses import dataclass

import msgspec
import pytest

from hipercow_slurm.api import submissions_db
from hipercow_slurm.api.database import opened
from hipercow_slurm.api.history import History
from hipercow_slurm.api.submissions_db import Submission
from hipercow_slurm.slurm.model import Job

JOB = Job(
    job_id=7, name="j", user="alice", uid=5001, partition="main", state="FAILED", reason=None,
    exit_code=3, signal=None, nodes=("c1",), node_count=1, submit_time=1000, start_time=1001, end_time=1002,
    latest_end=None, time_limit_min=None, working_directory="/", output="/o", error="/e",
)  # fmt: skip


@dataclass
class Alice:
    principal = "alice@R"
    localname = "alice"
    uid = 5001


@pytest.fixture
async def database(tmp_path):
    async with opened(str(tmp_path / "api.sqlite")) as database:
        yield database


async def test_a_job_put_back_through_another_process_has_its_second_end(database):
    """Would have caught: the process that noted the first end takes the second for the same: UNKNOWN later."""
    row = Submission("m", "alice@R", None, b"d", 1, 5001, "r", "/", "/o", "/e", 7)
    await database.run(submissions_db.record(row))
    one, other = History(database), History(database)
    await one.note(Alice(), [JOB])
    assert await other.of(Alice(), 7) == JOB
    await other.reopen(Alice(), 7)
    assert (await one.of(Alice(), 7)).state == "UNKNOWN"
    await one.note(Alice(), [msgspec.structs.replace(JOB, state="PENDING", end_time=None)])
    second = msgspec.structs.replace(JOB, state="COMPLETED", exit_code=0, end_time=2000)
    await one.note(Alice(), [second])
    assert await other.of(Alice(), 7) == second
