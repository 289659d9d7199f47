"""Operators' commands: the long-running programs. Each imports its part only when it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

CONFIG_DIR = Path("/etc/hipercow-slurm")


def _config(
    name: str, *short: str, help: str = "Configuration file.", envvar: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option --config of a program whose file is ``name``."""
    return click.option(
        *short,
        "--config",
        "config_path",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar=envvar,
        default=CONFIG_DIR / name,
        show_default=True,
        help=help,
    )


@click.command()
@_config("api.toml")
@click.option("--worker", metavar="PLACE", hidden=True)
def api(config_path: Path, worker: str | None) -> None:
    """Run the HTTP API until it is told to stop (TERM)."""
    from hipercow_slurm import daemon
    from hipercow_slurm.api import main

    daemon.run("api", lambda stop: main.serve(config_path, stop, worker))


@click.command()
@_config("signer.toml")
@click.option("--init", "act", flag_value="init", help="Make the keys and slurmctld's JWKS file, and end.")
@click.option(
    "--rotate", "act", flag_value="rotate", help="Sign with the next key from now on, make a new next one, and end."
)
def signer(config_path: Path, act: str | None) -> None:
    """Run the token signer until it is told to stop (TERM).

    Slurm learns about keys when slurmctld starts. It knows the next key already when you rotate; restart the signer
    then to use it, and slurmctld some time before the rotation after.
    """
    from hipercow_slurm import daemon
    from hipercow_slurm.signer import config, keys, main

    if act is None:
        daemon.run("signer", lambda stop: main.serve(config_path, stop))
        return
    settings = config.load(config_path)
    make = {"init": keys.generate, "rotate": keys.rotate}[act]
    key = make(Path(settings.key), Path(settings.jwks))
    click.echo(f"{settings.key}: signs from the signer's next start on, as kid {key.kid}")
    click.echo(f"{settings.jwks}: for slurmctld, AuthAltParameters=jwks={settings.jwks}; restart it to read this")


@click.command()
@_config(
    "auksd.toml",
    "-f",
    help="Configuration file, TOML or an auks.conf as it is.  [env: AUKSD_CONF]",
    envvar="AUKSD_CONF",
)
@click.option("--check-config", is_flag=True, help="Read the configuration and the files it names, then exit.")
@click.option(
    "--import",
    "folder",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Take over the aukscc_* files of AUKS' CacheDir while no auksd runs, then exit.",
)
@click.option(
    "--rotate-key",
    is_flag=True,
    help="Make a new store key, wrap every record with it and retire the old one, auksd running or not; then exit.",
)
@click.option(
    "--state",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the store is when the configuration is an auks.conf.  [default: $STATE_DIRECTORY, "
    "/var/lib/hipercow-slurm/auksd]",
)
@click.option("--front", metavar="PLACE", hidden=True)
@click.option("-F", "foreground", is_flag=True, help="Accepted; it always stays in the foreground.")
@click.option("-v", "verbose", count=True, help="Accepted; every decision is logged.")
@click.option("-d", "debug", count=True, help="Accepted; every decision is logged.")
def auksd(
    config_path: Path,
    check_config: bool,
    folder: Path | None,
    rotate_key: bool,
    state: Path | None,
    front: str | None,
    **_as_auksd: int,
) -> None:
    """Run the credential cache until it is told to stop (TERM)."""
    from hipercow_slurm import daemon

    if front is not None:
        from hipercow_slurm.auksd.front import serve

        place = front
        daemon.run("auksd", lambda stop: serve(place, stop))
        return
    from hipercow_slurm.auksd import main

    if check_config:
        for warning in main.check(config_path, state=state):
            click.echo(f"warning: {warning}", err=True)
        click.echo(f"{config_path}: good")
    elif rotate_key:
        import asyncio

        from hipercow_slurm.auksd import rotation

        asyncio.run(rotation.rotate(config_path, say=click.echo, state=state))
    elif folder is not None:
        import asyncio

        from hipercow_slurm.auksd import importing

        done = asyncio.run(main.take_over(config_path, folder, state=state))
        for one in done:
            click.echo(f"{one.file}: {one.result}: {one.principal or '-'}: {one.why}")
        click.echo(importing.summary(done))
    else:
        daemon.run("auksd", lambda stop: main.serve(config_path, stop, state=state))


@click.command()
@click.option("--ccache", metavar="NAME", help="Credential cache to take the ticket from, if not the default one.")
@_config("agent.toml", help="Configuration file; its section [cache] says where the credential cache is.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing when all is well.")
@click.option("--stamp", "fresh_s", metavar="SECONDS", type=click.IntRange(0, 3600), default=0, hidden=True)
def upload(ccache: str | None, config_path: Path, quiet: bool, fresh_s: int) -> None:
    """Hand your own Kerberos ticket to the credential cache, so that your jobs have it."""
    from hipercow_slurm.client import upload as uploader

    done = uploader.run(config_path, ccache, fresh_s=fresh_s)
    if not quiet:
        click.echo(done)


@click.command()
@_config("agent.toml")
def agent(config_path: Path) -> None:
    """Run the node agent until it is told to stop (TERM); the tickets of running jobs stay where they are."""
    # One per node, so it is kept small: asyncio and hashlib load OpenSSL where they find it (3 MB), and do without it.
    for unused in ("ssl", "_hashlib"):
        sys.modules[unused] = None  # type: ignore[assignment]
    from hipercow_slurm import daemon
    from hipercow_slurm.agent import main

    daemon.run("agent", lambda stop: main.serve(config_path, stop), small=True)
