"""``hipercow-slurm audit``: is a program's audit log as it was written, and whom does a mark in it mean?"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import click

from hipercow_slurm.audit import Report, read_key
from hipercow_slurm.audit import verify as verify_files


@click.group()
def audit() -> None:
    """Check and read the audit logs that our programs write."""


@audit.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--key", type=click.Path(path_type=Path), help="The key file the log is sealed with.")
@click.option("--last", metavar="HASH", help="The hash of a line, noted earlier, that must still be there.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def verify(files: tuple[Path, ...], key: Path | None, last: str | None, as_json: bool) -> None:
    """Check that no line of a log was edited, removed, reordered or added.

    Give all files of one log (audit.log audit.log.1 audit.log.2.gz), in any order. Exit status 1 if not all is well:
    the first bad line is named. To notice lines cut off the end, keep the printed hash in another place, and give it
    with --last next time.
    """
    report = verify_files(files, read_key(key) if key else None, expected=last)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report) | {"ok": report.ok}))
    else:
        _show(report)
    sys.exit(0 if report.ok else 1)


@audit.command()
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("/etc/hipercow-slurm/api.toml"),
    show_default=True,
    help="The API's configuration file.",
)
def mark(config_path: Path) -> None:
    """Print what stands in the API's logs for a user name that has no account here.

    The name is read from standard input: it may be a password that was typed into the wrong field.
    """
    from hipercow_slurm.api import config, given, naming

    settings = config.load(config_path).api
    name = sys.stdin.readline().rstrip("\r\n")
    click.echo(naming.mark_for_operator(given.principal_of(name, settings.realm), settings.keytab))


def _show(report: Report) -> None:
    """Sentences; the verdict last."""
    if report.lines:
        click.echo(f"lines {report.first} to {report.last} of the log are as they were written")
        click.echo(f"last hash {report.last_hash}")
    for place in report.torn:
        click.echo(f"{place}: a torn line (a crash or a full disk), accounted for")
    if report.lost:
        click.echo(f"{report.lost} decisions could not be written, by the log's own account")
    for note in report.notes:
        click.echo(f"note: {note}")
    if report.problem is not None:
        problem = report.problem
        click.echo(f"{problem.file}:{problem.line}: {problem.kind}: {problem.what}")
    else:
        click.echo("ok")
