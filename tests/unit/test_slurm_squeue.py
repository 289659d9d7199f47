"""squeue's answers, as recorded from Slurm 22.05 (``slurm_answers/squeue-22.05``), and its ways to fail."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hipercow_slurm.errors import ProtocolError, UnavailableError
from hipercow_slurm.slurm import squeue

ANSWERS = Path(__file__).parent.parent / "slurm_answers" / "squeue-22.05"
NODES = ["c1", "c2", "c3", "gpu01-ib", "gpu02-ib", "n08", "n09", "n10"]


def recorded(name: str) -> squeue.JobTable:
    return squeue.parse((ANSWERS / name).read_text())


def nodes_of(table: squeue.JobTable, uid: int) -> set[str]:
    return {node for node in NODES if table.holds(uid, node)}


def test_running_and_suspended_jobs_hold_their_nodes() -> None:
    table = recorded("mixed.txt")
    assert nodes_of(table, 5001) == {"c1", "c2", "gpu01-ib"}
    assert nodes_of(table, 5002) == {"c3", "n08", "n09", "n10"}, "two array tasks on c3, and the suspended job"


def test_who_only_has_a_pending_job_holds_nothing_but_is_not_forgotten() -> None:
    table = recorded("mixed.txt")
    assert nodes_of(table, 5003) == set()
    assert table.uids == {5001, 5002, 5003}


def test_a_prolog_sees_its_own_job() -> None:
    assert recorded("prolog-of-job-1-on-c2.txt").holds(5001, "c2")


def test_a_completing_job_holds_only_the_nodes_that_are_not_done() -> None:
    assert nodes_of(recorded("completing.txt"), 5001) == {"c2", "gpu01-ib"}


def test_an_ended_job_holds_nothing_although_squeue_still_shows_its_nodes() -> None:
    assert "5001|CANCELLED|1|c[1-2]" in (ANSWERS / "all-states.txt").read_text()
    assert nodes_of(recorded("all-states.txt"), 5001) == {"gpu01-ib"}


def test_who_only_has_ended_jobs_may_be_forgotten() -> None:
    ended = "".join(f"5001|{state}|1|c1\n" for state in sorted(squeue.ENDED))
    assert squeue.parse(ended).uids == frozenset()
    live = [f"5001|{state}|1|c1\n" for state in sorted(squeue.HOLDING | squeue.WAITING)]
    assert all(squeue.parse(line).uids == {5001} for line in live)


def test_each_component_of_a_het_job_and_each_array_task_counts() -> None:
    assert nodes_of(recorded("arrays-and-het.txt"), 5002) == {"c1", "c3", "gpu02-ib"}


def test_an_unknown_state_opens_no_node_but_keeps_the_user() -> None:
    table = squeue.parse("5001|LEVITATING|1|c1\n")
    assert not table.holds(5001, "c1")
    assert (table.uids, table.unknown_states) == ({5001}, {"LEVITATING"})


def test_a_name_is_matched_whole() -> None:
    table = squeue.parse("5001|RUNNING|1|c1\n500|RUNNING|2|c11\n")
    assert nodes_of(table, 5001) == {"c1"}
    assert not table.holds(5001, "c11") and not table.holds(50, "c1") and not table.holds(5001, "c")


def test_private_data_looks_like_an_empty_cluster() -> None:
    """The trap ``blindness`` is for: exit 0, nothing shown, everyone forgotten."""
    assert recorded("private-data-as-5001.txt").uids == frozenset()
    config = (ANSWERS / "config-private-data.txt").read_text()
    assert "Operator" in (squeue.blindness(config, 5203) or "")
    assert squeue.blindness(config, 0) is None
    assert squeue.blindness(config, 64030) is None, "SlurmUser sees all"
    assert squeue.blindness(config.replace("jobs,usage", "usage"), 5203) is None
    assert squeue.blindness(config.replace("jobs,usage", "none"), 5203) is None


@pytest.mark.parametrize(
    "text",
    [
        "slurm_load_jobs error\n",
        "5001|RUNNING|1\n",
        "5001|RUNNING|1|c1|x\n",
        "-1|RUNNING|1|c1\n",
        "4294967296|RUNNING|1|c1\n",
        "alice|RUNNING|1|c1\n",
        "5001|running|1|c1\n",
        "5001|RUNNING|1|c1 c2\n",
        "5001|RUNNING|1|c[1-3\n",
        "5001|RUNNING|1|c1\n\n5001|RUNNING|2|c2\n",
        "\u0665|RUNNING|1|c1\n",
    ],
)
def test_one_bad_line_and_nothing_is_trusted(text: str) -> None:
    with pytest.raises(ProtocolError):
        squeue.parse("5002|RUNNING|9|c9\n" + text)


@given(st.text(alphabet="0159|RUNING_PEDc[]-,\n ", max_size=120))
def test_any_text_gives_a_table_or_a_protocol_error(text: str) -> None:
    try:
        table = squeue.parse(text)
    except ProtocolError:
        return
    assert set(table.held) <= table.uids


def test_hostlists_known_from_the_answer_before_are_not_expanded_again() -> None:
    before = squeue.parse("5001|RUNNING|1|c[1-3]\n")
    after = squeue.parse("5002|RUNNING|2|c[1-3]\n", before=before)
    assert after.names["c[1-3]"] is before.names["c[1-3]"]
    assert after.holds(5002, "c3") and not after.holds(5001, "c3")


def script(tmp_path: Path, body: str) -> list[str]:
    path = tmp_path / "squeue"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return [str(path)]


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and ") Z" not in stat.read_text()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def run(argv: list[str], *, timeout_s: float = 5.0, limit_bytes: int = 1000) -> str:
    return await squeue.run(argv, timeout_s=timeout_s, limit_bytes=limit_bytes)


async def test_run_gives_a_clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQUEUE_USERS=bob in the daemon's environment would hide everyone else."""
    monkeypatch.setenv("SQUEUE_USERS", "bob")
    monkeypatch.setenv("SLURM_CONF", "/etc/x.conf")
    seen = await run(script(tmp_path, "env | cut -d= -f1"))
    assert "SQUEUE_USERS" not in seen and "SLURM_CONF" in seen, seen


async def test_run_says_what_squeue_said(tmp_path: Path) -> None:
    down = (ANSWERS / "down.stderr").read_text()
    with pytest.raises(UnavailableError, match="Unable to contact slurm controller"):
        await run(script(tmp_path, f"echo '{down}' >&2; exit 1"))


async def test_run_kills_what_is_late_with_its_children(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    began = time.perf_counter()
    with pytest.raises(UnavailableError, match=r"no answer in 0\.3 s"):
        await run(script(tmp_path, f"sleep 60 & echo $! > {marker}; wait"), timeout_s=0.3)
    assert time.perf_counter() - began < 2
    await asyncio.sleep(0.1)
    assert not alive(int(marker.read_text())), "the child survived"


async def test_run_stops_a_flood(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="longer than 1000 bytes"):
        await run(script(tmp_path, "exec cat /dev/zero"))


async def test_run_keeps_only_the_end_of_a_flood_of_complaints(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as failed:
        await run(script(tmp_path, "head -c 3000000 /dev/zero | tr '\\0' x >&2; echo last words >&2; exit 3"))
    assert "exit 3" in failed.value.message and failed.value.message.endswith("last words")
    assert len(failed.value.message) < 500


async def test_run_refuses_what_is_not_ascii(tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="not ASCII"):
        await run(script(tmp_path, "printf '\\303\\244'"))


async def test_run_names_a_missing_program() -> None:
    with pytest.raises(UnavailableError, match="/no/such/squeue"):
        await run(["/no/such/squeue"])


async def test_run_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    argv = script(tmp_path, "echo hello")
    await run(argv)
    before = descriptors()
    for _ in range(5):
        await run(argv)
    assert descriptors() <= before
