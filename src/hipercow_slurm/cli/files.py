"""``cp`` and ``ls``: files on the cluster, read and written as the user over the Kerberized share."""

from __future__ import annotations

import fnmatch
import posixpath
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from hipercow_slurm.cli.common import EXAMPLES, connect, print_json, user_options
from hipercow_slurm.client.problems import clean
from hipercow_slurm.client.sync.client import Client
from hipercow_slurm.errors import RequestError

Progress = Callable[[int, int | None], None]


@click.command(
    epilog=EXAMPLES
    + "  hipercow-slurm cp data.csv :/home/alice/data.csv\n"
    + "  hipercow-slurm cp ':/home/alice/run-*.out' results/\n"
    + "  hipercow-slurm cp :/home/alice/slurm-17.out - | less"
)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.argument("target", metavar="TARGET")
@user_options
def cp(sources: tuple[str, ...], target: str, as_json: bool) -> None:
    """Copy files to the cluster or from it. A path on the cluster begins with a colon: :/home/alice/data.csv.

    * and ? in the last part of a path on the cluster stand for several files. - is standard output or input.
    """
    if len({source.startswith(":") for source in sources}) > 1 or sources[0].startswith(":") == target.startswith(":"):
        raise click.UsageError("one side must be on the cluster (it begins with a colon), the other one here")
    with connect() as client:
        if target.startswith(":"):
            copied = _upload(client, sources, _remote(target), quiet=as_json)
        else:
            remote = [path for source in sources for path in _expanded(client, _remote(source))]
            copied = _download(client, remote, target, quiet=as_json)
    if as_json and target != "-":
        print_json([{"from": source, "to": to, "size": size} for source, to, size in copied])


def _upload(client: Client, sources: tuple[str, ...], target: str, *, quiet: bool) -> list[tuple[str, str, int]]:
    folder = target.endswith("/") or client.is_directory(target)
    if len(sources) > 1 and not folder:
        raise RequestError(f":{target} is not a directory", code="not-a-directory")
    copied = []
    for source in sources:
        if source == "-" and folder:
            raise RequestError("standard input needs a file's name on the cluster", code="bad-path")
        to = posixpath.join(target, Path(source).name) if folder else target
        if source == "-":
            data = sys.stdin.buffer.read()
            client.write(to, data)
            size = len(data)
        else:
            size = client.upload(source, to)
        copied.append((source, f":{to}", size))
        _tell(f"{source} -> :{to} ({_bytes(size)})", quiet=quiet)
    return copied


def _download(client: Client, sources: list[str], target: str, *, quiet: bool) -> list[tuple[str, str, int]]:
    folder = target.endswith("/") or Path(target).is_dir()
    if target == "-":
        return [(f":{source}", "-", _to_stdout(client, source)) for source in sources]
    if len(sources) > 1 and not folder:
        raise RequestError(f"{target} is not a directory here", code="not-a-directory", hint=f"mkdir {target}")
    copied = []
    for source in sources:
        to = Path(target) / posixpath.basename(source) if folder else Path(target)
        with _progress(source, quiet=quiet) as progress:
            size = client.download(source, to, on_progress=progress)
        copied.append((f":{source}", str(to), size))
        _tell(f":{source} -> {to} ({_bytes(size)})", quiet=quiet)
    return copied


def _to_stdout(client: Client, path: str) -> int:
    offset = 0
    while True:
        piece = client.read(path, offset=offset)
        sys.stdout.buffer.write(piece.data)
        offset += len(piece.data)
        if not piece.data or offset >= (piece.size or 0):
            sys.stdout.flush()
            return offset


def _remote(argument: str) -> str:
    """The path on the cluster."""
    path = argument.removeprefix(":")
    if not path.startswith("/"):
        raise RequestError(
            f"{argument}: a path on the cluster is absolute",
            code="bad-path",
            hint=":/home/alice/data.csv; `hipercow-slurm show JOB_ID` names the folder of a job",
        )
    return path


def _expanded(client: Client, path: str) -> list[str]:
    """The files that a pattern in the last part stands for."""
    folder, pattern = posixpath.split(path)
    if not set("*?[") & set(pattern):
        return [path]
    names = [one.name for one in client.entries(folder or "/") if one.type == "file"]
    found = sorted(fnmatch.filter(names, pattern))
    if not found:
        raise RequestError(f"no file on the cluster is named :{path}", code="no-such-file", status=404)
    return [posixpath.join(folder, name) for name in found]


@click.command(epilog=EXAMPLES + "  hipercow-slurm ls :/home/alice\n  hipercow-slurm ls --json :/home/alice")
@click.argument("path", metavar="PATH")
@user_options
def ls(path: str, as_json: bool) -> None:
    """List a directory on the cluster."""
    with connect() as client:
        found = sorted(client.entries(_remote(path)), key=lambda one: one.name)
    if as_json:
        print_json([one.raw for one in found])
        return
    from hipercow_slurm.cli.table import Table

    rows: list[tuple[str, ...]] = [
        (
            clean(one.mode or ""),
            "" if one.size is None else _bytes(one.size),
            f"{one.modified_at.astimezone():%Y-%m-%d %H:%M}" if one.modified_at else "",
            clean(one.name) + ("/" if one.type == "directory" else ""),
        )
        for one in found
    ]
    if rows:
        Table(
            ("MODE", "SIZE", "MODIFIED", "NAME"), right=("SIZE",), whole=("NAME",), dropped=("MODE", "MODIFIED")
        ).print(rows)


@contextmanager
def _progress(name: str, *, quiet: bool) -> Iterator[Progress | None]:
    """A bar on a terminal, for files that take longer than a moment."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(clean(posixpath.basename(name)), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _tell(text: str, *, quiet: bool) -> None:
    if not quiet and sys.stderr.isatty():
        click.echo(clean(text), err=True)


def _bytes(size: int) -> str:
    """``512 B``, ``3.4 MB``: powers of ten, as disks are sold."""
    amount, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 1000 and len(units) > 1:
        amount, units = amount / 1000, units[1:]
    return f"{amount:.0f} B" if units[0] == "B" else f"{amount:.1f} {units[0]}"
