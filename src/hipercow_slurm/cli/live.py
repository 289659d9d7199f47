"""What a waiting person sees: one line on standard error that changes in place, and the job's output beside it.

Rule 1: what is not a terminal gets no control characters, and a line only when something has changed.
Rule 2: the status line is taken away before anything else is written, so that output is never cut by it.
"""

from __future__ import annotations

import shutil
import sys
import time
from datetime import UTC, datetime

import click

from hipercow_slurm.cli.common import clock, tinted, warn
from hipercow_slurm.client.models import LINGER_S, JobInfo
from hipercow_slurm.client.problems import clean
from hipercow_slurm.client.sync.calls import Calls
from hipercow_slurm.client.sync.watch import Patient, Tail
from hipercow_slurm.errors import Error, UnavailableError

_COLOURS = {"PENDING": "yellow", "RUNNING": "green", "COMPLETED": "green", "COMPLETING": "green"}


class StatusLine:
    """One line about a job."""

    def __init__(self) -> None:
        self._terminal, self._last, self._shown = sys.stderr.isatty(), "", False
        self._job: JobInfo | None = None
        self._mid_line = False

    def job(self, job: JobInfo) -> None:
        """What it does now."""
        self._job = job
        self._say(_sentence(job))

    def trouble(self, error: Error) -> None:
        """Why nothing is known at the moment."""
        self._job = None
        self._say(f"{error.message}; still waiting")

    def tick(self) -> None:
        """Time goes by."""
        if self._terminal and self._job is not None:
            self._draw(f"{_sentence(self._job)} {_since(self._job)}", _COLOURS.get(self._job.state, "red"))

    def hide(self) -> None:
        """Take it away, to write something else."""
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)
            self._shown = False

    def wrote(self, data: bytes) -> None:
        """Something else was written to the terminal: a line that has not ended yet must not be drawn over."""
        self._mid_line = self._terminal and sys.stdout.isatty() and not data.endswith(b"\n")
        self.tick()

    def last(self, job: JobInfo) -> None:
        """The job's end stays on the screen."""
        self.hide()
        if self._mid_line:
            click.echo(err=True)
        colour = _COLOURS.get(job.state, "red")
        took = f" after {_since(job)}" if job.start_time and job.end_time else ""
        click.echo(f"job {job.job_id} {click.style(job.state, fg=colour)}{_how(job)}{took}", err=True, color=tinted())

    def _say(self, text: str) -> None:
        if not self._terminal and text != self._last:
            click.echo(text, err=True)
        elif self._terminal and self._job is None:
            self._draw(text, "red")
        self._last = text
        self.tick()

    def _draw(self, text: str, colour: str) -> None:
        if self._mid_line:
            return
        # One column is left free: a line that fills the last one makes some terminals scroll.
        width = shutil.get_terminal_size().columns - 1
        if len(text) > width:
            text = f"{text[: width - 1]}\u2026"
        # Back to the line's start, and clear what the last status left of it.
        click.echo(f"\r\x1b[K{click.style(text, fg=colour)}", nl=False, err=True, color=tinted())
        self._shown = True


def _sentence(job: JobInfo) -> str:
    reason = f" ({clean(job.reason)})" if job.reason and job.reason != "None" and not job.ended else ""
    where = f" on {clean(', '.join(job.nodes))}" if job.nodes and not job.ended else ""
    return f"job {job.job_id} {job.state}{where}{reason}"


def _since(job: JobInfo) -> str:
    now = job.end_time if job.ended and job.end_time else datetime.now(UTC)
    begin = job.submit_time if job.state == "PENDING" else job.start_time
    return clock(now - begin) if begin else ""


def _how(job: JobInfo) -> str:
    """What its end means for whoever reads the exit status."""
    if job.signal:
        return f" (killed by signal {job.signal})"
    return f" (status {job.exit_code})" if job.exit_code else ""


def accompany(calls: Calls, job: JobInfo, *, log: bool) -> JobInfo:
    """Wait for the job's end, with its status on standard error and, for ``log``, its output on standard output.

    Its standard error, where that is a file of its own, goes to our standard error.

    Raises:
        KeyboardInterrupt: somebody does not want to wait any longer; the job goes on.
    """
    line, tails = StatusLine(), _tails(calls, job) if log else {}
    patient, job_id = Patient(900.0, 2.0, line.trouble), job.job_id
    try:
        ended_at = None
        while True:
            job = patient.call(lambda: calls.job_info(job_id))
            if not job.ended:
                line.job(job)
            elif ended_at is None:
                ended_at = time.monotonic()
            _write_news(tails, line)
            if ended_at is not None and (not tails or time.monotonic() - ended_at >= LINGER_S):
                break
            _rest(line, 0.5 if ended_at is not None else 2.0 if job.state == "PENDING" else 1.0)
    finally:
        line.hide()
    line.last(job)
    return job


def _tails(calls: Calls, job: JobInfo) -> dict[str, Tail]:
    """The streams to follow: standard error only if it does not go to the same file."""
    tails = {"stdout": Tail(calls, job.job_id, "stdout")}
    if job.raw.get("error") and job.raw.get("error") != job.raw.get("output"):
        tails["stderr"] = Tail(calls, job.job_id, "stderr")
    return tails


def _write_news(tails: dict[str, Tail], line: StatusLine) -> None:
    """Write what is new; a stream that cannot be read is given up with a warning, and the job is still waited for."""
    for stream, tail in list(tails.items()):
        out = sys.stdout if stream == "stdout" else sys.stderr
        try:
            while data := tail.more():
                line.hide()
                out.buffer.write(data)
                out.flush()
                line.wrote(data)
        except UnavailableError:
            continue  # the next look tells
        except Error as error:
            line.hide()
            warn(f"its {stream} cannot be followed: {error.message}")
            del tails[stream]


def _rest(line: StatusLine, pause_s: float) -> None:
    """Sleep, with the clock going on."""
    end = time.monotonic() + pause_s
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 1.0))
        line.tick()
