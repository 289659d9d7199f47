"""``cp``, ``ls`` and ``mkdir``: files on the cluster, read and written as the user over the Kerberized share."""

from __future__ import annotations

import posixpath
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from hipercow_slurm.cli.common import EXAMPLES, connect, print_error, print_json, user_options
from hipercow_slurm.cli.copying import Cluster, Step, inside_here
from hipercow_slurm.client.local import make_folder
from hipercow_slurm.client.problems import clean
from hipercow_slurm.client.sync.client import Client
from hipercow_slurm.errors import AccessError, RequestError

Progress = Callable[[int, int | None], None]


@click.command(
    epilog=EXAMPLES
    + "  hipercow-slurm cp data.csv :\n"
    + "  hipercow-slurm cp -r scripts/ :project/scripts\n"
    + "  hipercow-slurm cp ':run-*.out' results/\n"
    + "  hipercow-slurm cp :/home/alice/slurm-17.out - | less"
)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.argument("target", metavar="TARGET")
@click.option("-r", "--recursive", is_flag=True, help="Copy directories with all that is in them.")
@user_options
def cp(sources: tuple[str, ...], target: str, recursive: bool, as_json: bool) -> None:
    """Copy files to the cluster or from it. A path on the cluster begins with a colon: :data.csv, :/data/alice/x.csv.

    It begins in your home directory if it does not begin with a slash. * and ? in its last part stand for several
    files. - is standard output or input. What cannot be copied does not keep the others from it.
    """
    if len({source.startswith(":") for source in sources}) > 1 or sources[0].startswith(":") == target.startswith(":"):
        raise click.UsageError("one side must be on the cluster (it begins with a colon), the other one here")
    with connect() as client:
        copy: _Copy = (_Up if target.startswith(":") else _Down)(client, recursive=recursive, quiet=as_json)
        if target == "-":
            for source in sources:
                _to_stdout(client, copy.cluster.path(source))
            return
        steps = copy.steps(sources, target)
        if len(steps) == 1:
            copy.one(steps[0])
        else:
            copy.each(steps)
    if as_json:
        print_json(copy.told)
    click.get_current_context().exit(copy.status)


class _Copy:
    """Copies step by step; ``told`` is what became of each file, ``status`` that of the first failure."""

    def __init__(self, client: Client, *, recursive: bool, quiet: bool) -> None:
        self.client, self.recursive, self.quiet = client, recursive, quiet
        self.cluster = Cluster(client)
        self.told: list[dict[str, str | int | None]] = []
        self.status = 0

    def steps(self, sources: tuple[str, ...], target: str) -> list[Step]:
        """What there is to do. RequestError: the target or a source makes no sense."""
        raise NotImplementedError

    def one(self, step: Step) -> None:
        """Copy one file, or make one directory."""
        raise NotImplementedError

    def each(self, steps: Iterable[Step]) -> None:
        """Copy all that can be copied; what is not one file's fault ends it all."""
        for step in steps:
            try:
                self.one(step)
            except (AccessError, RequestError) as error:
                self.status = self.status or error.EXIT
                self.told.append({"from": step.source, "to": step.to, "code": error.code, "error": error.message})
                if not self.quiet:
                    print_error(error)

    def done(self, source: str, to: str, size: int) -> None:
        """Tell what was copied."""
        self.told.append({"from": source, "to": to, "size": size})
        if not self.quiet and sys.stderr.isatty():
            click.echo(clean(f"{source} -> {to} ({_bytes(size)})"), err=True)


class _Up(_Copy):
    """From here to the cluster."""

    def steps(self, sources: tuple[str, ...], target: str) -> list[Step]:
        path = self.cluster.path(target)
        is_there = self.client.is_directory(path)
        folder = is_there or (target.endswith("/") and not self.recursive)
        if len(sources) > 1 and not folder:
            hint = f"hipercow-slurm mkdir {target}"
            raise RequestError(f"{target} is not a directory", code="not-a-directory", hint=hint)
        steps: list[Step] = []
        for source in sources:
            if source == "-" and folder:
                raise RequestError("standard input needs a file's name on the cluster", code="bad-path")
            name = Path(source).name or Path(source).resolve().name
            to = posixpath.join(path, name) if folder else path.rstrip("/")
            if Path(source).is_dir():
                _only_recursive(source, self.recursive)
            steps.append(Step(source, to, directory=Path(source).is_dir()))
        return steps

    def one(self, step: Step) -> None:
        if step.directory:
            self.client.mkdir(step.to)
            self.each(inside_here(step))
            return
        with _progress(step.source, quiet=self.quiet) as progress:
            if step.source == "-":
                data = sys.stdin.buffer.read()
                self.client.write(step.to, data, on_progress=progress)
                size = len(data)
            else:
                size = self.client.upload(step.source, step.to, on_progress=progress)
        self.done(step.source, f":{step.to}", size)


class _Down(_Copy):
    """From the cluster to here."""

    def steps(self, sources: tuple[str, ...], target: str) -> list[Step]:
        paths = [self.cluster.path(source) for source in sources]
        found = [one for path in paths for one in self.cluster.expanded(path, directories=self.recursive)]
        folder = Path(target).is_dir() or (target.endswith("/") and not self.recursive)
        if len(found) > 1 and not folder:
            raise RequestError(f"{target} is not a directory here", code="not-a-directory", hint=f"mkdir {target}")
        steps: list[Step] = []
        for path in found:
            to = Path(target) / posixpath.basename(path.rstrip("/")) if folder else Path(target)
            steps.append(Step(path, str(to), directory=self.recursive and self.client.is_directory(path)))
        return steps

    def one(self, step: Step) -> None:
        if step.directory:
            make_folder(Path(step.to))
            self.each(self.cluster.inside(step))
            return
        with _progress(step.source, quiet=self.quiet) as progress:
            try:
                size = self.client.download(step.source, step.to, on_progress=progress)
            except RequestError as error:
                if error.code == "is-a-directory":
                    _only_recursive(f":{step.source}", recursive=False)
                raise
        self.done(f":{step.source}", step.to, size)


def _only_recursive(source: str, recursive: bool) -> None:
    if not recursive:
        raise RequestError(f"{source} is a directory", code="is-a-directory", hint="cp -r copies directories")


def _to_stdout(client: Client, path: str) -> int:
    offset = 0
    while True:
        piece = client.read(path, offset=offset)
        sys.stdout.buffer.write(piece.data)
        offset += len(piece.data)
        if not piece.data or offset >= (piece.size or 0):
            sys.stdout.flush()
            return offset


@click.command(epilog=EXAMPLES + "  hipercow-slurm mkdir :results\n  hipercow-slurm mkdir -p :project/run-1/plots")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("-p", "--parents", is_flag=True, help="Make what is missing above it, too; no error if it is there.")
@user_options
def mkdir(paths: tuple[str, ...], parents: bool, as_json: bool) -> None:
    """Make directories on the cluster, for you alone (mode 0700)."""
    rows = []
    with connect() as client:
        cluster = Cluster(client)
        for path in map(cluster.path, paths):
            created = _with_parents(client, path) if parents else client.mkdir(path)
            if not (created or parents):
                raise RequestError(f":{path} is there already", code="file-exists", status=409)
            rows.append({"path": path, "created": created})
    if as_json:
        print_json(rows)


def _with_parents(client: Client, path: str) -> bool:
    """Make the directory, and those above it where they are missing."""
    try:
        return client.mkdir(path)
    except RequestError as error:
        above = posixpath.dirname(path.rstrip("/"))
        if error.code != "no-such-file" or above in ("", "/"):
            raise
        _with_parents(client, above)
        return client.mkdir(path)


@click.command(epilog=EXAMPLES + "  hipercow-slurm ls\n  hipercow-slurm ls --json :/home/alice/results")
@click.argument("path", metavar="[PATH]", default=":", required=False)
@user_options
def ls(path: str, as_json: bool) -> None:
    """List a directory on the cluster; your home directory if none is named."""
    with connect() as client:
        found = sorted(client.entries(Cluster(client).path(path)), key=lambda one: one.name)
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
