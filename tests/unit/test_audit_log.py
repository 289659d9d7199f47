"""Writing an audit log: crashes, full disks, rotation, and what is promised about each."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hipercow_slurm.audit import AuditLog, verify
from hipercow_slurm.errors import ConfigError, UnavailableError

KEY = bytes(range(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def ping(log: AuditLog, **more: Any) -> None:
    log.note_now(verb="ping", result="ok", **more)


def test_the_file_is_private(path: Path) -> None:
    old = os.umask(0)
    try:
        AuditLog(path, "auksd").close()
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("spoil", ["symlink", "fifo", "writable"])
def test_what_is_not_its_own_file_is_refused(path: Path, spoil: str) -> None:
    if spoil == "symlink":
        path.symlink_to(path.parent / "elsewhere")
    elif spoil == "fifo":
        os.mkfifo(path)
    else:
        path.touch()
        path.chmod(0o620)
    with pytest.raises(ConfigError):
        AuditLog(path, "auksd")
    assert not (path.parent / "elsewhere").exists()


def test_a_second_writer_is_refused(path: Path) -> None:
    first = AuditLog(path, "auksd")
    with pytest.raises(ConfigError, match="already being written"):
        AuditLog(path, "auksd")
    first.close()
    AuditLog(path, "auksd").close()


def test_the_chain_goes_on_after_a_restart(path: Path) -> None:
    for _ in range(3):
        log = AuditLog(path, "auksd", key=KEY)
        ping(log)
        log.close()
    report = verify([path], KEY)
    assert report.ok and report.lines == 6, report


def test_another_key_is_said_at_start_and_nothing_is_written(path: Path) -> None:
    log = AuditLog(path, "auksd", key=KEY)
    log.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="this key"):
        AuditLog(path, "auksd", key=b"x" * 32)
    assert path.read_bytes() == before


def test_a_log_without_key_is_not_continued_with_one(path: Path) -> None:
    AuditLog(path, "auksd").close()
    with pytest.raises(ConfigError, match="this key"):
        AuditLog(path, "auksd", key=KEY)


@pytest.mark.parametrize("cut", [1, 2, 40, 200])
def test_a_torn_last_line_is_told_and_the_chain_goes_on(path: Path, cut: int) -> None:
    log = AuditLog(path, "auksd", key=KEY)
    ping(log, request_id="whole")
    ping(log, request_id="torn")
    log.close()
    os.truncate(path, path.stat().st_size - cut)
    log = AuditLog(path, "auksd", key=KEY)
    ping(log)
    log.close()
    report = verify([path], KEY)
    assert report.ok and report.torn == [f"{path}:3"], report
    data = bytearray(path.read_bytes())
    data[data.index(b'"torn"' if cut == 40 else b"\n", data.index(b'"whole"')) + 3] ^= 1
    path.write_bytes(data)
    assert not verify([path], KEY).ok, "a torn line is covered too"


def test_a_crash_in_the_very_first_line(path: Path) -> None:
    path.write_bytes(b'{"seq":1,"ts"')
    path.chmod(0o600)
    AuditLog(path, "auksd", key=KEY).close()
    report = verify([path], KEY)
    assert report.ok and report.torn == [f"{path}:1"] and report.first == 1, report


def test_the_zeros_a_power_cut_leaves_are_torn_bytes_too(path: Path) -> None:
    AuditLog(path, "auksd").close()
    with path.open("ab") as file:
        file.write(bytes(4096))
    AuditLog(path, "auksd").close()
    assert verify([path]).torn == [f"{path}:2"]


WRITER = """
import sys
from pathlib import Path
from hipercow_slurm.audit import AuditLog
log = AuditLog(Path(sys.argv[1]), "auksd", sync="each")
n = 0
while True:
    n += 1
    print(log.note_now(verb="get", result="ok", uid=n).hash, flush=True)
"""


def test_kill_9_loses_no_noted_line(path: Path) -> None:
    """What was noted before the kill is in the file, whole; and the next start goes on."""
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        noted = [writer.stdout.readline().strip() for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
        noted += writer.stdout.read().split("\n")[:-1]
        writer.wait()
        AuditLog(path, "auksd").close()
        report = verify([path], expected=noted[-1])
        assert report.ok, report.problem


def test_rotation_by_rename_and_reopen(path: Path) -> None:
    log = AuditLog(path, "auksd", key=KEY)
    ping(log)
    log.reopen()
    assert log.last.seq == 2, "without a rename there is nothing to do"
    path.rename(path.with_suffix(".log.1"))
    ping(log)
    log.reopen()
    ping(log)
    log.close()
    report = verify([path, path.with_suffix(".log.1")], KEY)
    assert report.ok and report.lines == 5, report


def test_rotation_while_the_program_was_down(path: Path) -> None:
    """logrotate at night, the daemon stopped: the new file still names the old one's last line."""
    for suffix in (".log.1", ".log-20261123"):
        log = AuditLog(path, "auksd", key=KEY)
        ping(log)
        log.close()
        path.rename(path.with_suffix(suffix))
    (path.parent / "audit.log.bak").write_text("not a log\n")
    AuditLog(path, "auksd", key=KEY).close()
    files = [path, path.with_suffix(".log.1"), path.with_suffix(".log-20261123")]
    report = verify(files, KEY)
    assert report.ok and report.lines == 5, report


def test_a_failed_rotation_stays_with_the_old_file(path: Path) -> None:
    log = AuditLog(path, "auksd")
    path.rename(path.with_suffix(".log.1"))
    path.mkdir()
    with pytest.raises(ConfigError):
        log.reopen()
    path.rmdir()
    path.write_bytes(b"somebody else's\n")
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        log.reopen()
    assert path.read_bytes() == b"somebody else's\n"
    ping(log)
    log.close()
    report = verify([path.with_suffix(".log.1")])
    assert report.ok and report.lines == 2, report


def test_a_hostile_name_can_neither_break_nor_flood_the_line(path: Path) -> None:
    log = AuditLog(path, "auksd", key=KEY)
    ping(log, who='x"}\n{"seq":9', why="\udcff\u2028" + "A" * 60000)
    log.close()
    assert len(path.read_bytes().splitlines()) == 2 and path.stat().st_size < 5000
    assert verify([path], KEY).ok


def test_threads_share_one_chain(path: Path) -> None:
    log = AuditLog(path, "signer")
    threads = [threading.Thread(target=lambda: [ping(log) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    report = verify([path])
    assert report.ok and report.lines == 201


class Syncs:
    """Counts fdatasync, and makes it slow or fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.error: OSError | None = None
        self.gate = threading.Event()
        self.gate.set()
        self._real = os.fdatasync
        monkeypatch.setattr("os.fdatasync", self)

    def __call__(self, fd: int) -> None:
        self.count += 1
        self.gate.wait(5)
        if self.error:
            raise self.error
        self._real(fd)

    async def reach(self, count: int) -> None:
        """Wait until the disk was asked so many times."""
        end = time.monotonic() + 10
        while self.count < count:
            assert time.monotonic() < end, f"{self.count} syncs and not {count}"
            await asyncio.sleep(0.01)


async def test_each_waits_for_the_disk_and_many_share_one_wait(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = Syncs(monkeypatch)
    log = AuditLog(path, "auksd", sync="each")
    syncs.gate.clear()
    notes = [asyncio.create_task(log.note(verb="ping", result="ok")) for _ in range(100)]
    await asyncio.sleep(0.05)
    assert not any(note.done() for note in notes), "said to be noted, and not on disk"
    assert log.last.seq == 101, "the event loop was held by the disk"
    syncs.gate.set()
    await asyncio.gather(*notes)
    assert syncs.count <= 2, f"{syncs.count} syncs for 100 lines"
    log.close()


async def test_each_passes_a_disk_error_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = Syncs(monkeypatch)
    syncs.error = OSError(5, "Input/output error")
    strict, loose = AuditLog(path, "a", sync="each"), AuditLog(path.with_name("b"), "b", sync="each", required=False)
    with pytest.raises(UnavailableError) as refused:
        await strict.note(verb="ping", result="ok")
    assert refused.value.code == "audit-unwritable"
    with pytest.raises(UnavailableError):
        ping(strict)
    assert await loose.note(verb="ping", result="ok") is not None, "the line is written, if not safe"
    strict.close()
    loose.close()


async def test_interval_syncs_within_the_interval_and_then_rests(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = Syncs(monkeypatch)
    log = AuditLog(path, "auksd", interval_s=0.5)
    for _ in range(100):
        await log.note(verb="ping", result="ok")
    assert syncs.count == 0, "it waits for nothing"
    await syncs.reach(1)
    syncs.gate.clear()
    await log.note(verb="ping", result="ok")
    await syncs.reach(2)  # and is stuck
    await log.note(verb="ping", result="ok")  # comes too late for it
    syncs.gate.set()
    await syncs.reach(3)
    await asyncio.sleep(1)
    assert syncs.count == 3, "there is nothing to sync"
    log.close()


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 kilobytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk], check=True, timeout=10)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True, timeout=10)


def fill(log: AuditLog) -> int:
    """Note until it fails."""
    for count in range(200):
        try:
            ping(log)
        except UnavailableError as error:
            assert error.code == "audit-unwritable" and "No space left" in error.message
            return count
    raise AssertionError("16 kilobytes took 200 lines")


def test_a_full_disk_refuses_and_leaves_the_log_whole(tiny: Path) -> None:
    ballast = tiny / "ballast"
    ballast.write_bytes(bytes(8192))
    log = AuditLog(tiny / "audit.log", "auksd", key=KEY)
    count = fill(log)
    last = log.last
    report = verify([tiny / "audit.log"], KEY, expected=last.hash)
    assert report.ok and report.lines == count + 1 and report.torn == [], report
    ballast.unlink()
    ping(log)
    log.close()
    report = verify([tiny / "audit.log"], KEY)
    assert report.ok and report.lines == count + 2 and report.lost == 0, "what was refused is not lost"


def test_a_full_disk_without_required_counts_what_it_loses(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ballast = tiny / "ballast"
    ballast.write_bytes(bytes(8192))
    log = AuditLog(tiny / "audit.log", "auksd", key=KEY, required=False)
    while not log.lost:
        ping(log)
    for _ in range(4):
        ping(log)
    assert log.lost == 5
    assert capsys.readouterr().out.count("audit.unwritable") <= 1, "one line per outage"
    ballast.unlink()
    ping(log)
    log.close()
    report = verify([tiny / "audit.log"], KEY)
    assert report.ok and report.lost == 5 and log.lost == 0, report


def test_half_a_line_that_cannot_be_taken_back_is_told(tiny: Path) -> None:
    """An append-only file forbids the truncation: the fragment stays, and the next line accounts for it."""
    ballast = tiny / "ballast"
    ballast.write_bytes(bytes(8192))
    log = AuditLog(tiny / "audit.log", "auksd", key=KEY)
    subprocess.run(["chattr", "+a", tiny / "audit.log"], check=True, timeout=10)
    count = fill(log)
    fill(log)
    assert not verify([tiny / "audit.log"], KEY).ok, "so far it looks like a crash"
    ballast.unlink()
    ping(log)
    log.close()
    report = verify([tiny / "audit.log"], KEY)
    assert report.ok and report.torn == [f"{tiny}/audit.log:{count + 2}"], report


def test_no_room_for_the_first_line_is_said_at_start(tiny: Path) -> None:
    (tiny / "ballast").write_bytes(bytes(16384))
    with pytest.raises(UnavailableError, match="No space left"):
        AuditLog(tiny / "audit.log", "auksd")
