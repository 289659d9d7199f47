"""Jobs in the hands of a program: submitted one by one or by the hundred, waited for, read; files beside them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import get_type_hints

import pytest
from starlette.responses import JSONResponse

from fake_api import FakeApi, give, lose, problem
from hipercow_slurm import Client, Job, JobSpec
from hipercow_slurm.client.options import JobOptions
from hipercow_slurm.errors import Error, RequestError, SchedulerError, UnavailableError
from hipercow_slurm.sbatch_options import OPTIONS


@pytest.fixture(scope="module")
def server() -> Iterator[FakeApi]:
    with closing(FakeApi()) as api:
        yield api


@pytest.fixture
def api(server: FakeApi) -> FakeApi:
    server.reset()
    server.tokens["token"] = "alice"
    return server


@pytest.fixture
def client(api: FakeApi) -> Iterator[Client]:
    with Client(api.url, token="token", timeout_s=2.0, patience_s=1.0) as client:
        yield client


def failing(ask: Callable[[], object]) -> Error:
    with pytest.raises(Error) as caught:
        ask()
    return caught.value


def test_the_five_lines_of_the_readme(api: FakeApi, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hipercow_slurm.client.sync.watch.LINGER_S", 0.1)
    job = client.submit("echo hi")
    assert api.jobs[job.job_id]["spec"] == {"script": "#!/bin/sh\necho hi\n"}

    def run() -> None:
        time.sleep(0.2)
        api.jobs[job.job_id].update(state="RUNNING")
        time.sleep(0.2)
        api.outputs[job.job_id, "stdout"] = b"hi\n"
        api.jobs[job.job_id].update(state="COMPLETED", exit_code=0)

    seen: list[str] = []
    threading.Thread(target=run, daemon=True).start()
    job.wait(poll_s=0.05, on_progress=lambda info: seen.append(info.state))
    assert (seen[0], seen[-1], job.state, job.exit_status) == ("PENDING", "COMPLETED", "COMPLETED", 0)
    assert "RUNNING" in seen and job.output() == "hi\n" and repr(job).endswith("'' COMPLETED>")


def test_a_script_file_gives_the_job_its_name(api: FakeApi, client: Client, tmp_path: Path) -> None:
    script = tmp_path / "fit.sh"
    script.write_text("#!/bin/bash\ntrue\n")
    client.submit(script, time_limit_min=5, environment={"A": "1"})
    spec = {"script": "#!/bin/bash\ntrue\n", "name": "fit.sh", "time_limit_min": 5, "environment": {"A": "1"}}
    assert api.jobs[100]["spec"] == spec
    assert failing(lambda: client.submit(tmp_path / "missing.sh")).code == "no-script"
    script.write_bytes(b"\x7fELF\xff")
    assert "UTF-8" in failing(lambda: client.submit(script)).message


def test_keyword_arguments_are_the_apis_fields() -> None:
    """A field that the API and the command line learn is one that programs can use."""
    from hipercow_slurm.api.schemas import JobBody

    keywords, fields = set(get_type_hints(JobOptions)), set(JobBody.__struct_fields__)
    assert keywords == fields - {"script"}
    assert {option.key for option in OPTIONS} - {"export"} <= keywords


def test_waiting_has_an_end_if_one_wants(api: FakeApi, client: Client) -> None:
    job = client.submit("sleep 1000")
    error = failing(lambda: job.wait(timeout_s=0.2, poll_s=0.05))
    assert (type(error), error.code) == (UnavailableError, "wait-timeout") and "PENDING" in error.message


def test_output_so_far_and_output_that_never_was(api: FakeApi, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hipercow_slurm.client.sync.watch.LINGER_S", 0.05)
    job = client.submit("true")
    assert job.output() == "", "a job that waits has written nothing"
    api.outputs[job.job_id, "stdout"] = b"caf\xc3\xa9 \xff"
    assert (job.output(), job.output_bytes()) == ("caf\u00e9 \ufffd", b"caf\xc3\xa9 \xff")
    api.jobs[job.job_id].update(state="FAILED", exit_code=1)
    job.refresh()
    assert failing(lambda: job.output("stderr")).code == "no-output"


def test_a_job_is_held_released_and_cancelled(api: FakeApi, client: Client) -> None:
    job = client.submit("true")
    job.hold()
    job.release()
    client.requeue(job.job_id)
    client.signal(job.job_id, "USR1")
    client.change(job.job_id, time_limit_min=3)
    acts = [(["hold"], None), (["release"], None), (["requeue"], None), (["signal"], {"signal": "USR1"})]
    assert api.jobs[job.job_id]["acts"] == [*acts, ([], {"time_limit_min": 3})]
    job.cancel()
    assert job.refresh().state == "CANCELLED"
    assert isinstance(failing(job.hold), SchedulerError)


def test_a_signal_whose_answer_is_lost_is_not_sent_twice(api: FakeApi, client: Client) -> None:
    """A second USR1 may be a second checkpoint; a second hold is the same hold."""
    job = client.submit("true")
    for action, times in (("signal", 1), ("hold", 2)):
        path = f"/v1/jobs/{job.job_id}/{action}"
        api.answers["POST", path] = [lose]
        if action == "signal":
            assert failing(lambda: client.signal(job.job_id, "USR1")).code == "api-broke-off"
        else:
            client.hold(job.job_id)
        assert len(api.seen("POST", path)) == times


def test_many_jobs_in_few_requests(api: FakeApi, client: Client) -> None:
    """Five jobs, two at a time, one refused, one answer lost: five outcomes in order, no job twice."""
    specs: list[JobSpec] = [{"script": "true", "name": f"job{i}"} for i in range(5)]
    specs[3]["partition"] = "nope"
    api.answers["POST", "/v1/jobs:bulk"] = [lose]
    told: list[tuple[int, int]] = []
    outcome = client.submit_many(specs, on_progress=lambda done, of: told.append((done, of)))
    assert [one.name if isinstance(one, Job) else one.code for one in outcome] == [
        "job0",
        "job1",
        "job2",
        "job-rejected",
        "job4",
    ]
    assert len(api.jobs) == 4 and told == [(2, 5), (4, 5), (5, 5)]
    keys = [headers["idempotency-key"] for headers, _ in api.seen("POST", "/v1/jobs:bulk")]
    assert keys[0] == keys[1] and len(set(keys)) == 3, keys


def test_a_long_list_comes_in_pages(api: FakeApi, client: Client) -> None:
    api.page = 3
    for number in range(8):
        api.new_job(state="RUNNING" if number % 2 else "PENDING")
    assert [job.job_id for job in client.jobs()] == list(range(100, 108))
    assert [job.job_id for job in client.jobs("RUNNING")] == [101, 103, 105, 107]


def test_files_go_both_ways(api: FakeApi, client: Client, tmp_path: Path) -> None:
    here, there = tmp_path / "here.csv", tmp_path / "there.csv"
    here.write_bytes(b"1,2\n" * 1000)
    here.chmod(0o640)
    sent: list[tuple[int, int]] = []
    assert client.upload(here, "/home/alice/data.csv", on_progress=lambda *now: sent.append(now)) == 4000
    assert sent == [(4000, 4000)] and api.files["/home/alice/data.csv"] == here.read_bytes()
    assert api.queries[-1]["mode"] == "0640"
    told: list[tuple[int, int | None]] = []
    assert client.download("/home/alice/data.csv", there, on_progress=lambda *now: told.append(now)) == 4000
    assert there.read_bytes() == here.read_bytes() and told[-1] == (4000, 4000)
    assert [one.name for one in client.entries("/home/alice")] == ["data.csv"]
    assert client.is_directory("/home/alice") and not client.is_directory("/home/alice/data.csv")
    assert not client.is_directory("/nowhere")
    assert client.whoami().home == "/home/alice"
    assert client.mkdir("/home/alice/new") and not client.mkdir("/home/alice/new")
    assert failing(lambda: client.mkdir("/nowhere/new")).code == "no-such-file"
    assert failing(lambda: client.read("/home/alice")).code == "is-a-directory"
    assert failing(lambda: client.entries("/home/alice/data.csv")).code == "not-a-directory"


def test_progress_of_an_upload_and_the_body_again_when_it_must_be_sent_twice(api: FakeApi, client: Client) -> None:
    """A body that is told of piece by piece can only be read once: the repetition would send nothing."""
    data, sent = bytes(range(256)) * 1024, []
    api.answers["PUT", "/v1/files"] = [give(problem(503, "file-server-busy"))]
    client.write("/home/alice/x", data, on_progress=lambda *now: sent.append(now))
    assert api.files["/home/alice/x"] == data
    once = [(64 * 1024 * part, len(data)) for part in (1, 2, 3, 4)]
    assert sent == once * 2, sent


@pytest.mark.parametrize("name", ["../evil", "..", "a/b", ""])
def test_a_listing_never_names_what_is_outside(api: FakeApi, client: Client, name: str) -> None:
    """`cp -r` from a server that is not what it was would write anywhere in one's home."""
    rows = [{"name": name, "type": "file", "size": 1, "mode": None, "modified_at": None}]
    api.answers["GET", "/v1/files"] = [give(JSONResponse({"path": "/home/alice", "entries": rows}))]
    assert failing(lambda: client.entries("/home/alice")).code == "bad-answer"


def test_a_download_that_breaks_off_leaves_what_was_there(api: FakeApi, client: Client, tmp_path: Path) -> None:
    """Half a file under the name of a whole one is worse than none."""
    there = tmp_path / "there"
    there.write_text("old")
    api.files["/home/alice/x"] = b"new"
    api.answers["GET", "/v1/files"] = [give(problem(403, "access-denied"))]
    assert failing(lambda: client.download("/home/alice/x", there)).code == "access-denied"
    assert there.read_text() == "old" and list(tmp_path.iterdir()) == [there]
    client.download("/home/alice/x", there)
    assert there.read_text() == "new" and list(tmp_path.iterdir()) == [there]
    assert isinstance(failing(lambda: client.download("/home/alice/x", tmp_path / "no/folder")), RequestError)
