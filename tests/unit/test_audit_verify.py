"""Whatever is done to an audit log afterwards shows, and the first bad line is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hipercow_slurm.audit import AuditLog, Report, chain, read_key, verify
from hipercow_slurm.audit.chain import START, Link
from hipercow_slurm.cli.audit import audit
from hipercow_slurm.errors import ConfigError, RequestError

KEY = bytes(range(32))
NAME = "audit.log"


def filled(path: Path, count: int, *, key: bytes | None = KEY) -> Link:
    """A log with ``audit.opened`` and ``count`` decisions."""
    log = AuditLog(path, "auksd", key=key, clock=lambda: 1767225600.25)
    for uid in range(5001, 5001 + count):
        log.note_now(verb="get", result="ok", who="host/c1@R", peer="10.0.0.7", uid=uid, request_id=f"r{uid}")
    last = log.last
    log.close()
    return last


@given(st.dictionaries(st.sampled_from(["who", "why", "from"]), st.one_of(st.none(), st.integers(), st.text())))
@example({"who": "\x7f"})
@example({"who": "half a character \udc80", "why": '\u202e\x1b[31m\x7f\n"', "uid": 2**70})
def test_a_line_is_ascii_and_the_same_whoever_encodes_it(fields: dict[str, object]) -> None:
    """Would have caught: a peer's own bytes in the log; a line that an older version would have written otherwise."""
    line, _ = chain.make(START, fields, None)
    body = json.dumps({"seq": 1, **fields, "prev": chain.GENESIS}, separators=(",", ":"))[:-1]
    assert line.isascii() and line.startswith(body.encode("ascii") + b',"sum":"'), line


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bytes], str]:
    """The six lines of a sealed log, without newlines, and the hash of the last."""
    path = tmp_path_factory.mktemp("sealed") / NAME
    last = filled(path, 5)
    return path.read_bytes().splitlines(), last.hash


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where hypothesis writes its examples."""
    return tmp_path_factory.mktemp("tampered") / NAME


def check(place: Path, data: bytes, *, key: bytes | None = KEY, expected: str | None = None) -> Report:
    place.write_bytes(data)
    return verify([place], key, expected=expected)


def lines_of(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines)


def test_an_untouched_log_is_good(sealed: tuple[list[bytes], str], place: Path) -> None:
    lines, last = sealed
    report = check(place, lines_of(lines), expected=last)
    assert report.ok and (report.lines, report.first, report.last, report.last_hash) == (6, 1, 6, last), report
    assert report.notes == [] and report.torn == []


def test_a_line_is_plain_json_with_who_what_and_whence(sealed: tuple[list[bytes], str]) -> None:
    first, decision = json.loads(sealed[0][0]), json.loads(sealed[0][1])
    assert (first["verb"], first["prev"]) == ("audit.opened", "0" * 64)
    assert decision.pop("prev") == chain.hash_of(sealed[0][0]) and len(decision.pop("mac")) == 64
    assert decision == {
        "seq": 2,
        "ts": "2026-01-01T00:00:00.250000Z",
        "program": "auksd",
        "verb": "get",
        "who": "host/c1@R",
        "from": "10.0.0.7",
        "uid": 5001,
        "result": "ok",
        "why": None,
        "request_id": "r5001",
    }


@settings(max_examples=300)
@given(data=st.data())
def test_any_changed_byte_is_found(data: st.DataObject, sealed: tuple[list[bytes], str], place: Path) -> None:
    whole = bytearray(lines_of(sealed[0]))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    line = bytes(lines_of(sealed[0]))[:at].count(b"\n") + 1
    report = check(place, bytes(whole))
    assert report.problem is not None, f"byte {at} changed to {whole[at]} unnoticed"
    assert report.problem.line == line, report.problem


@given(data=st.data())
def test_any_removed_line_is_found(data: st.DataObject, sealed: tuple[list[bytes], str], place: Path) -> None:
    lines, last = sealed
    begin = data.draw(st.integers(0, len(lines) - 1))
    end = data.draw(st.integers(begin + 1, len(lines)))
    report = check(place, lines_of(lines[:begin] + lines[end:]), expected=last)
    assert report.problem is not None, f"lines {begin + 1} to {end} removed unnoticed"
    # with everything gone, or only the end, there is no line left to be named but the last
    kinds = {"truncated"} if end == len(lines) else {"removed"}
    assert report.problem.kind in kinds, report.problem


@given(data=st.data())
def test_any_two_swapped_lines_are_found(data: st.DataObject, sealed: tuple[list[bytes], str], place: Path) -> None:
    lines = list(sealed[0])
    a, b = sorted(data.draw(st.sets(st.integers(0, len(lines) - 1), min_size=2, max_size=2)))
    lines[a], lines[b] = lines[b], lines[a]
    report = check(place, lines_of(lines))
    assert report.problem is not None and report.problem.line == a + 1, report.problem
    assert report.problem.kind == ("reordered" if a else "removed"), report.problem


@given(data=st.data())
def test_any_inserted_line_is_found(data: st.DataObject, sealed: tuple[list[bytes], str], place: Path) -> None:
    lines = list(sealed[0])
    forged, _ = chain.make(Link(2, chain.hash_of(lines[1])), {"verb": "get", "result": "ok"}, b"k" * 32)
    unsealed, _ = chain.make(Link(2, chain.hash_of(lines[1])), {"verb": "get", "result": "ok"}, None)
    new = data.draw(st.one_of(st.sampled_from([*lines, forged[:-1], unsealed[:-1], b""]), st.binary(max_size=80)))
    at = data.draw(st.integers(0, len(lines)))
    report = check(place, lines_of([*lines[:at], new.replace(b"\n", b""), *lines[at:]]))
    assert report.problem is not None, f"{new!r} inserted before line {at + 1} unnoticed"


def test_without_a_key_a_line_sealed_again_is_found_by_the_next(tmp_path: Path) -> None:
    filled(tmp_path / NAME, 5, key=None)
    lines = (tmp_path / NAME).read_bytes().splitlines()
    before = chain.read(lines[1], None).link
    again, _ = chain.make(before, {"verb": "get", "result": "ok", "who": "mallory"}, None)
    report = check(tmp_path / NAME, lines_of([*lines[:2], again[:-1], *lines[3:]]), key=None)
    assert report.problem is not None and (report.problem.line, report.problem.kind) == (3, "edited"), report.problem


def test_a_rewriter_without_the_key_is_caught(tmp_path: Path, place: Path) -> None:
    """Who rebuilds the whole chain gets past a log without a key, and not past one with it."""
    filled(tmp_path / NAME, 5)
    link, forged = START, b""
    for verb in ("audit.opened", "ping", "ping"):
        line, link = chain.make(link, {"verb": verb, "result": "ok"}, None)
        forged += line
    assert check(place, forged, key=None).ok
    report = check(place, forged)
    assert report.problem is not None and (report.problem.line, report.problem.kind) == (1, "unsealed")


def test_a_sealed_log_read_without_the_key_says_what_is_not_proved(
    sealed: tuple[list[bytes], str], place: Path
) -> None:
    report = check(place, lines_of(sealed[0]), key=None)
    assert report.ok and report.unchecked == 6 and "only their chain" in report.notes[0]
    changed = [*sealed[0][:2], sealed[0][2].replace(b"5002", b"5009"), *sealed[0][3:]]
    problem = check(place, lines_of(changed), key=None).problem
    assert problem is not None and problem.line == 3, problem


def test_the_wrong_key_proves_nothing(sealed: tuple[list[bytes], str], place: Path) -> None:
    problem = check(place, lines_of(sealed[0]), key=b"x" * 32).problem
    assert problem is not None and problem.line == 1 and "key is another" in problem.what


def test_a_hash_noted_earlier_may_have_newer_lines_after_it(sealed: tuple[list[bytes], str], place: Path) -> None:
    assert check(place, lines_of(sealed[0]), expected=chain.hash_of(sealed[0][2])).ok
    problem = check(place, lines_of(sealed[0][:3]), expected=sealed[1]).problem
    assert problem is not None and problem.kind == "truncated"


def test_a_cut_in_the_last_line_is_no_proof_of_anything(sealed: tuple[list[bytes], str], place: Path) -> None:
    problem = check(place, lines_of(sealed[0])[:-9]).problem
    assert problem is not None and (problem.line, problem.kind) == (6, "torn-end"), problem


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
def test_any_bytes_give_a_report(data: bytes, place: Path) -> None:
    assert not check(place, data).ok


def rotated(tmp_path: Path) -> list[Path]:
    """Three files of one log, the oldest compressed, given newest first."""
    path = tmp_path / NAME
    log = AuditLog(path, "auksd", key=KEY)
    for number in (2, 1):
        log.note_now(verb="ping", result="ok")
        path.rename(tmp_path / f"{NAME}.{number}")
        log.reopen()
    log.note_now(verb="ping", result="ok")
    log.close()
    old = tmp_path / f"{NAME}.2"
    (tmp_path / f"{NAME}.2.gz").write_bytes(gzip.compress(old.read_bytes()))
    old.unlink()
    return [path, tmp_path / f"{NAME}.1", tmp_path / f"{NAME}.2.gz"]


def test_the_chain_goes_on_across_rotated_and_compressed_files(tmp_path: Path) -> None:
    files = rotated(tmp_path)
    report = verify(files, KEY)
    assert report.ok and report.lines == 6 and report.notes == [], report
    assert [Path(name).suffix for name in report.files] == [".gz", ".1", ".log"]


def test_a_missing_file_is_found(tmp_path: Path) -> None:
    newest, middle, oldest = rotated(tmp_path)
    problem = verify([newest, oldest], KEY).problem
    assert problem is not None and (problem.kind, problem.file, problem.line) == ("removed", str(newest), 1)
    part = verify([newest, middle], KEY)
    assert part.ok and "begins at line 3" in part.notes[0], "older files may have been thrown away; it is said"


def test_two_files_with_exchanged_lines_are_found(tmp_path: Path) -> None:
    newest, middle, oldest = rotated(tmp_path)
    a, b = newest.read_bytes().splitlines(), middle.read_bytes().splitlines()
    a[1], b[1] = b[1], a[1]
    newest.write_bytes(lines_of(a))
    middle.write_bytes(lines_of(b))
    problem = verify([newest, middle, oldest], KEY).problem
    assert problem is not None and (problem.file, problem.line, problem.kind) == (str(middle), 2, "reordered")


def test_the_command_names_the_first_bad_line_and_fails(tmp_path: Path) -> None:
    path, key = tmp_path / NAME, tmp_path / "key"
    key.write_text(KEY.hex() + "\n")
    key.chmod(0o600)
    last = filled(path, 5)
    good = CliRunner().invoke(audit, ["verify", str(path), "--key", str(key), "--last", last.hash])
    assert good.exit_code == 0 and good.output.endswith("ok\n") and last.hash in good.output, good.output
    path.write_bytes(path.read_bytes().replace(b"r5003", b"r5004"))
    bad = CliRunner().invoke(audit, ["verify", str(path), "--key", str(key)])
    assert bad.exit_code == 1 and f"{path}:4: edited" in bad.output, bad.output
    as_json = CliRunner().invoke(audit, ["verify", str(path), "--key", str(key), "--json"])
    found = json.loads(as_json.output)
    assert as_json.exit_code == 1 and (found["ok"], found["problem"]["line"], found["lines"]) == (False, 4, 3), found
    assert KEY.hex() not in bad.output + as_json.output


def test_an_unreadable_file_is_an_error_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(RequestError):
        verify([tmp_path / "none"])
    broken = tmp_path / "x.gz"
    broken.write_bytes(gzip.compress(b"x" * 1000)[:-9])
    with pytest.raises(RequestError):
        verify([broken])


@pytest.mark.parametrize(("text", "mode"), [("ab" * 31, 0o600), ("zz" * 32, 0o600), ("ab" * 32, 0o640), ("", 0o600)])
def test_a_bad_key_file_is_refused_without_showing_it(tmp_path: Path, text: str, mode: int) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(ConfigError) as refused:
        read_key(path)
    assert not text or text not in str(refused.value)
