"""Reading an audit log back: is every line there, as it was written, in its order?

The files of one log are put in their order by their first sequence numbers; ``.gz`` is read as it is. The first bad
line ends the reading: after it nothing is proved.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hipercow_slurm.audit import chain
from hipercow_slurm.audit.chain import GENESIS, START, Line, LineError, Link
from hipercow_slurm.errors import RequestError

_MAX_TORN = 1 << 20


@dataclass(frozen=True)
class Problem:
    """The first bad line.

    ``kind``: edited, removed, reordered, inserted, torn-end, truncated, unsealed.
    """

    file: str
    line: int
    kind: str
    what: str


@dataclass
class Report:
    """What ``verify`` found.

    Attributes:
        lines: lines that are proved.
        first, last: sequence numbers of the first and the last of them; ``last_hash`` is what to note elsewhere.
        unchecked: lines whose ``mac`` could not be checked for want of the key (their chain was).
        torn: ``file:line`` of torn lines that the log itself has told of.
        lost: lines the log says it could not write.
        notes: sentences about what this does not prove.
    """

    files: list[str]
    lines: int = 0
    first: int | None = None
    last: int | None = None
    last_hash: str | None = None
    unchecked: int = 0
    torn: list[str] = field(default_factory=list)
    lost: int = 0
    notes: list[str] = field(default_factory=list)
    problem: Problem | None = None

    @property
    def ok(self) -> bool:
        return self.problem is None


def verify(paths: Iterable[Path], key: bytes | None = None, *, expected: str | None = None) -> Report:
    """Check the files of one log.

    Args:
        key: the log's key, if it has one.
        expected: a line's hash noted earlier, which must still be in the log.

    Raises:
        RequestError: a file cannot be read.
    """
    ordered = sorted(paths, key=_first_seq)
    walk = _Walk(Report([str(path) for path in ordered]), ordered, key, expected)
    try:
        walk.run()
    except _Found:
        pass
    except (OSError, EOFError) as error:
        raise RequestError(f"cannot read the audit log: {error}", code="audit-unreadable") from error
    return walk.report


class _Found(Exception):  # noqa: N818 - it ends the reading; it is no error of ours
    """The report has its problem."""


@dataclass
class _Torn:
    """Bytes that are no line, until a line tells of them."""

    file: str
    line: int
    why: str
    data: bytes


class _Walk:
    """One pass over all files."""

    def __init__(self, report: Report, paths: list[Path], key: bytes | None, expected: str | None) -> None:
        self.report = report
        self._paths = paths
        self._key = key
        self._expected = expected
        self._link: Link | None = None
        self._at = ("", 0)  # where the last good line is
        self._torn: _Torn | None = None
        self._met = expected is None

    def run(self) -> None:
        for path in self._paths:
            beginning = True
            for number, raw in enumerate(_lines(path), start=1):
                line = self._read(str(path), number, raw)
                if line is None:
                    continue
                self._account_for_torn(str(path), number, line)
                self._follow(str(path), number, line)
                if beginning and line.verb != chain.OPENED:
                    self._stop(path, number, "removed", "the lines before it: a file begins with audit.opened")
                beginning = False
                self._accept(str(path), number, line)
        self._end()

    def _read(self, file: str, number: int, raw: bytes) -> Line | None:
        """The line, or None if it is not one: then it is put aside."""
        try:
            if not raw.endswith(b"\n"):
                raise LineError("it has no end")
            return chain.read(raw[:-1], self._key)
        except LineError as bad:
            if self._torn is None:
                self._torn = _Torn(file, number, str(bad), b"")
            self._torn.data += raw
            if len(self._torn.data) > _MAX_TORN:
                self._stop_torn()
            return None

    def _account_for_torn(self, file: str, number: int, line: Line) -> None:
        torn, self._torn = self._torn, None
        told = (line.torn_bytes, line.torn_sha256)
        if torn is None:
            if line.torn_bytes:
                self._stop(file, number, "removed", f"the {line.torn_bytes} torn bytes that it tells of")
            return
        # the newline that ends a torn line came with the line that tells of it
        for data in (torn.data.removesuffix(b"\n"), torn.data):
            if told == (len(data), chain.hash_of(data)):
                self.report.torn.append(f"{torn.file}:{torn.line}")
                return
        self._torn = torn
        self._stop_torn()

    def _follow(self, file: str, number: int, line: Line) -> None:
        """Check that the line is the one that comes next."""
        if self._link is None:
            if line.link.seq == 1 and line.prev != GENESIS:
                self._stop(file, number, "edited", "it is line 1 of the log but chained to another")
            if line.link.seq != 1:
                self.report.notes.append(f"begins at line {line.link.seq} of the log: earlier files were not given")
            return
        due = Link(self._link.seq + 1, self._link.hash)
        if (line.link.seq, line.prev) == (due.seq, due.hash):
            return
        if line.link.seq == due.seq:
            before = f"line {self._link.seq} of the log was changed and sealed again: the next is chained to another"
            self._stop(*self._at, "edited", before)
        if line.link.seq < due.seq:
            why = f"it is line {line.link.seq} of the log, and line {due.seq} was due: a copy, or of another log"
            self._stop(file, number, "inserted", why)
        if self._comes_later(file, number, due):
            self._stop(file, number, "reordered", f"line {due.seq} of the log was due here and comes later")
        missing = f"{due.seq} to {line.link.seq - 1}" if line.link.seq - 1 > due.seq else f"{due.seq}"
        self._stop(file, number, "removed", f"before it, of the log: {missing}")

    def _comes_later(self, file: str, number: int, due: Link) -> bool:
        started = False
        for path in self._paths:
            for at, raw in enumerate(_lines(path), start=1):
                started = started or (str(path) == file and at == number)
                if started:
                    try:
                        line = chain.read(raw.removesuffix(b"\n"), self._key)
                    except LineError:
                        continue
                    if (line.link.seq, line.prev) == (due.seq, due.hash):
                        return True
        return False

    def _accept(self, file: str, number: int, line: Line) -> None:
        report = self.report
        report.lines += 1
        report.first = report.first or line.link.seq
        report.last, report.last_hash = line.link.seq, line.link.hash
        report.unchecked += not line.checked
        report.lost += line.lost
        self._link, self._at = line.link, (file, number)
        self._met = self._met or line.link.hash == self._expected

    def _end(self) -> None:
        if self._torn is not None:
            self._stop_torn()
        if not self._met:
            file, number = self._at
            why = f"no line has the expected hash {self._expected}: lines were cut off the end"
            self._stop(file, number, "truncated", why)
        if self._link is None:
            self._stop(", ".join(self.report.files), 0, "removed", "every line: a log has at least audit.opened")
        if self.report.unchecked:
            self.report.notes.append(
                f"{self.report.unchecked} lines are sealed with a key that was not given: only their chain was checked"
            )

    def _stop_torn(self) -> None:
        assert self._torn is not None
        if self._torn.why == "it has no end":
            self._stop(self._torn.file, self._torn.line, "torn-end", "it has no end: a crash, or being written now")
        kind = "unsealed" if "not sealed" in self._torn.why else "edited"
        self._stop(self._torn.file, self._torn.line, kind, self._torn.why)

    def _stop(self, file: str | Path, number: int, kind: str, what: str) -> None:
        self.report.problem = Problem(str(file), number, kind, what)
        raise _Found


def _lines(path: Path) -> Iterator[bytes]:
    """Lines with their newlines; a longer one than any of ours comes in pieces, which are no lines."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        while line := file.readline(chain.MAX_LINE + 2):
            yield line


def _first_seq(path: Path) -> tuple[float, int, str]:
    """For sorting: by first readable line, then plain ``log`` after ``log.2`` after ``log.10``."""
    try:
        for number, raw in enumerate(_lines(path)):
            if number == 100:
                break
            try:
                seq = json.loads(raw)["seq"]
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            if type(seq) is int:
                return seq, 0, ""
    except (OSError, EOFError) as error:
        raise RequestError(f"cannot read the audit log {path}: {error}", code="audit-unreadable") from error
    return START.seq + float("inf"), 0, str(path)
