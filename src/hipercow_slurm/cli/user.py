"""``login``, ``logout``, ``ticket`` and ``completion``."""

from __future__ import annotations

import contextlib
import getpass
import os
import sys

import click

from hipercow_slurm.cli.common import EXAMPLES, as_json_option, connect, print_json, retrying, when
from hipercow_slurm.client import profile
from hipercow_slurm.client.http import Client, checked_url
from hipercow_slurm.client.models import Session, Validity
from hipercow_slurm.client.problems import MustChangeError
from hipercow_slurm.client.profile import Saved
from hipercow_slurm.errors import AccessError, ConfigError, CredentialError, Error, RequestError

PASSWORD_LIMIT = 4096


@click.command(
    epilog=EXAMPLES
    + "  hipercow-slurm login\n"
    + "  hipercow-slurm login --url https://head.example.org:8443 --username alice\n"
    + "  pass show cluster | hipercow-slurm login --password-stdin"
)
@click.option("-u", "--username", help="Name at the cluster (default: the last one used here, else your own).")
@click.option("--url", help="URL of the cluster's API (default: from the configuration).")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False), help="PEM file of the authority to trust.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input, one line.")
@as_json_option
def login(username: str | None, url: str | None, ca: str | None, password_stdin: bool, as_json: bool) -> None:
    """Log in with your password.

    The password goes to the API once, over TLS, and is stored nowhere. What is stored here is a session, good until
    your Kerberos ticket can no longer be renewed, or until you log out.
    """
    settings = profile.settings(url=url, ca=ca)
    if settings.url is None:
        raise ConfigError(
            "no cluster is known yet",
            code="no-url",
            hint=f'hipercow-slurm login --url https://HOST:PORT, or url = "..." in {profile.config_file()}',
        )
    where = checked_url(settings.url)
    who = username or settings.username or getpass.getuser()
    password = _password_from_stdin() if password_stdin else _ask(who, where)
    with Client(where, ca=settings.ca, retrying=retrying) as client:
        try:
            session = client.login(who, password)
        except MustChangeError as error:
            if password_stdin or not sys.stdin.isatty():
                raise
            session = _change(client, error)
    old = _old_token(where)
    profile.save(Saved(where, settings.ca, who, session.principal, session.token))
    if old is not None:
        _end_quietly(where, settings.ca, old)
    if as_json:
        print_json(session.raw)
        return
    click.echo(f"logged in at {where} as {session.principal}")
    click.echo(f"your ticket renews itself until {when(session.ticket.renewable_until or session.ticket.valid_until)}")


def _change(client: Client, error: MustChangeError) -> Session:
    """Ask for a new password until the KDC takes it, or does not want to hear another one."""
    click.echo(f"{error.message}.", err=True)
    while True:
        password = click.prompt("New password", hide_input=True, confirmation_prompt="The same again", err=True)
        try:
            return client.change_password(error.conversation, password)
        except RequestError as refused:
            if refused.code != "password-rejected":
                raise
            click.echo(refused.message, err=True)


def _password_from_stdin() -> str:
    line = sys.stdin.readline(PASSWORD_LIMIT).removesuffix("\n").removesuffix("\r")
    if not line:
        raise RequestError("no password on standard input", code="no-password")
    return line


def _ask(username: str, url: str) -> str:
    if not sys.stdin.isatty():
        raise RequestError(
            "there is no terminal to ask for the password",
            code="no-password",
            hint="use --password-stdin",
        )
    password: str = click.prompt(f"Password of {username} at {url}", hide_input=True, err=True)
    return password


def _old_token(url: str) -> str | None:
    """The token that a new login at the same place makes useless."""
    with contextlib.suppress(ConfigError):
        saved = profile.load()
        if saved is not None and saved.url == url:
            return saved.token
    return None


def _end_quietly(url: str, ca: str | None, token: str) -> None:
    with contextlib.suppress(Error), Client(url, token=token, ca=ca, timeout_s=5.0, patience_s=0.0) as client:
        client.logout()


@click.command()
@as_json_option
def logout(as_json: bool) -> None:
    """End this session, here and at the cluster. Jobs that run keep their ticket."""
    saved = profile.session()
    # Forgotten here first: whatever the server says, this machine no longer holds the session.
    profile.save(Saved(saved.url, saved.ca, saved.username))
    try:
        with Client(saved.url, token=saved.token, ca=saved.ca, patience_s=3.0, retrying=retrying) as client:
            client.logout()
    except (AccessError, CredentialError) as error:
        if error.status != 401:
            raise
        # The session had ended by itself.
    except Error as error:
        error.hint = "the session is forgotten here, but stays open at the cluster until it expires"
        raise
    if as_json:
        print_json({"logged_out": True})
    else:
        click.echo(f"logged out of {saved.url}")


@click.command()
@as_json_option
def ticket(as_json: bool) -> None:
    """Show until when your tickets are good: your session's, and the one your jobs are given."""
    with connect() as client:
        found = client.ticket()
    if as_json:
        print_json(found.raw)
        return
    click.echo(f"{found.principal} at {client.url}")
    click.echo(f"  session  {_validity(found.session)}")
    if found.cache is None:
        click.echo("  jobs     no ticket: log in again before you submit")
    else:
        click.echo(f"  jobs     {_validity(found.cache)}")


def _validity(validity: Validity) -> str:
    if validity.renewable_until is None:
        return f"good until {when(validity.valid_until)}, cannot be renewed"
    return f"good until {when(validity.valid_until)}, renewed until {when(validity.renewable_until)}"


@click.command(
    epilog=EXAMPLES
    + '  eval "$(hipercow-slurm completion bash)"      # in ~/.bashrc\n'
    + '  eval "$(hipercow-slurm completion zsh)"       # in ~/.zshrc\n'
    + "  hipercow-slurm completion fish | source       # in ~/.config/fish/config.fish"
)
@click.argument("shell", required=False, type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str | None) -> None:
    """Print a script that lets SHELL complete commands and options (default: the shell you use)."""
    from click.shell_completion import get_completion_class

    shell = shell or os.environ.get("SHELL", "").rpartition("/")[2]
    kind = get_completion_class(shell)
    if kind is None:
        raise RequestError(f"no completion for the shell {shell!r}", hint="name one: bash, zsh or fish")
    root = ctx.find_root()
    click.echo(kind(root.command, {}, root.info_name or "", "_HIPERCOW_SLURM_COMPLETE").source())
