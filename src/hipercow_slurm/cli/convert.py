"""``hipercow-slurm config convert``: an ``auks.conf`` to our TOML, or back."""

from __future__ import annotations

import socket
from pathlib import Path

import click

from hipercow_slurm.auksconf import conf as auks_conf
from hipercow_slurm.auksconf import grammar
from hipercow_slurm.auksconf.conf import End
from hipercow_slurm.auksconf.grammar import Block
from hipercow_slurm.auksd import acl, from_auks, rules
from hipercow_slurm.auksd import config as auksd_config
from hipercow_slurm.auksd import convert as converting
from hipercow_slurm.client import upload
from hipercow_slurm.errors import ConfigError

FILE = click.Path(dir_okay=False, path_type=Path)


@click.group()
def config() -> None:
    """Work on configuration files."""


@config.command()
@click.argument("source", metavar="FROM", type=FILE)
@click.argument("target", metavar="TO", type=FILE)
@click.option("--cache", type=FILE, help="The agent.toml with [cache] servers: written from an auks.conf, or read.")
@click.option("--hostname", help="Whose auksd it is: AUKS tells primary from secondary by it.  [default: this host's]")
@click.option("--state", type=click.Path(path_type=Path), help="Where the daemon's store is to be.")
def convert(source: Path, target: Path, cache: Path | None, hostname: str | None, state: Path | None) -> None:
    """Write FROM in the other grammar to TO; an existing file is never overwritten.

    An auks.conf and the ACL file it names become one TOML file. A TOML file becomes an auks.conf, and its [[rule]]
    tables an ACL file beside it. What the other side cannot say is listed on standard error.
    """
    hostname = hostname or socket.gethostname()
    if auks_conf.is_auks(source):
        written, left_out = _to_toml(source, target, cache, hostname, state or from_auks.state_dir())
    else:
        written, left_out = _to_auks(source, target, cache, hostname)
    for path, text in written.items():
        _write(path, text)
        click.echo(f"wrote {path}")
    for one in left_out:
        click.echo(f"not carried over: {one}", err=True)


def _to_toml(
    source: Path, target: Path, cache: Path | None, hostname: str, state: Path
) -> tuple[dict[Path, str], list[str]]:
    found = auks_conf.load(source, daemon=True)
    made = from_auks.configuration(found, state=state, hostname=hostname)
    assert made.auksd.acl is not None, "an auks.conf always names a file"
    acl_file = Path(made.auksd.acl)
    blocks, left_out = _rules(acl_file)
    clients = converting.cache_toml(found)
    written = {target: converting.daemon_toml(made, blocks)}
    if cache is not None:
        written[cache] = clients.text
    return written, [*made.findings, *made.notes, *left_out, *clients.left_out]


def _rules(file: Path) -> tuple[list[Block], list[str]]:
    """The rules of an ACL file that can match anybody, and a sentence for each of the others."""
    acl.load(file, lenient=True)  # whatever keeps the daemon from starting is told now
    good, left_out = [], []
    for block in grammar.parse(file.read_text(encoding="utf-8"), str(file)):
        try:
            acl.of_blocks([block], str(file), resolve=lambda name: ["0.0.0.0"])  # noqa: S104  # not asked here
            good.append(block)
        except ConfigError as error:
            left_out.append(f"{file}:{block.line}: this block matches nobody ({error.message})")
    return good, left_out


def _to_auks(source: Path, target: Path, cache: Path | None, hostname: str) -> tuple[dict[Path, str], list[str]]:
    found = auksd_config.load(source)
    acl_file = target.with_suffix(".acl") if found.auksd.acl is None else Path(found.auksd.acl)
    clients = converting.Clients()
    if cache is not None:
        servers = upload.read_servers(cache)
        ends = [End(one.host, one.host, one.port, one.principal) for one in servers]
        texts = upload.read_texts(cache, "cross_realm", "helper")
        clients = converting.Clients(ends, any(one.nat for one in servers), *texts)
    made = converting.auks_conf(found, clients, hostname=hostname, acl_file=str(acl_file.absolute()))
    written = {target: made.text}
    if found.rule:
        written[acl_file] = converting.acl(rules.blocks(found))
    return written, list(made.left_out)


def _write(path: Path, text: str) -> None:
    """A new file; there is no secret in it."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error}") from error
