"""``login``, ``logout``, ``sessions`` and ``clusters``: who one is, and where."""

from __future__ import annotations

import contextlib
import sys

import click

from hipercow_slurm.cli.common import (
    EXAMPLES,
    answer,
    ask_password,
    cluster_name,
    connect,
    named_cluster,
    print_json,
    retrying,
    user_options,
    warn,
    when,
)
from hipercow_slurm.client import profile
from hipercow_slurm.client.models import Session, SessionInfo
from hipercow_slurm.client.problems import MustChangeError, clean
from hipercow_slurm.client.sync.client import Client
from hipercow_slurm.errors import ConfigError, CredentialError, Error, RequestError

PASSWORD_LIMIT = 4096


@click.command(
    epilog=EXAMPLES
    + "  hipercow-slurm login\n"
    + "  hipercow-slurm login --url https://head.example.org:8443 --username alice\n"
    + "  hipercow-slurm login --cluster big --url https://big.example.org:8443\n"
    + "  kinit -f alice && hipercow-slurm login --kerberos\n"
    + "  pass show cluster | hipercow-slurm login --password-stdin"
)
@click.option("-u", "--username", help="Name at the cluster (default: the last one used here, else your own).")
@click.option("--url", help="URL of the cluster's API (default: from the configuration).")
@click.option("--ca", type=click.Path(exists=True, dir_okay=False), help="PEM file of the authority to trust.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input, one line.")
@click.option("-k", "--kerberos", is_flag=True, help="Use the Kerberos ticket that is here, or fail.")
@click.option(
    "--keyring/--no-keyring",
    default=None,
    help="Keep the password in your system's keyring, to log in again by itself (or remove it from there).",
)
@user_options
def login(
    username: str | None,
    url: str | None,
    ca: str | None,
    password_stdin: bool,
    kerberos: bool,
    keyring: bool | None,
    as_json: bool,
) -> None:
    """Log in with your password, or with the Kerberos ticket that you have.

    The password goes to the API once, over TLS, and is stored nowhere unless you ask for --keyring. What is stored
    here is a session, good until your Kerberos ticket can no longer be renewed, or until you log out.
    """
    # Not connect(): a login must not be held up by the session it replaces.
    # A URL on the command line means that no default is wanted.
    name = cluster_name() if url is None else named_cluster()
    settings = profile.settings(name, url=url, ca=ca)
    client = Client(
        settings.url,
        cluster=name,
        username=username or settings.username,
        ca=settings.ca,
        keyring=settings.keyring if keyring is None else keyring,
        answer=answer,
        on_retry=retrying,
    )
    with client:
        old = _old_token(client)
        if kerberos or (not (password_stdin or username) and _has_ticket()):
            session = _with_ticket(client, must=kerberos)
        else:
            session = _with_password(client, from_stdin=password_stdin)
        if old is not None:
            _end_quietly(client, old)
        where = client.url
    if as_json:
        print_json(session.raw)
        return
    click.echo(f"logged in at {where} as {session.principal}")
    click.echo(f"your ticket renews itself until {when(session.ticket.renewable_until or session.ticket.valid_until)}")


def _has_ticket() -> bool:
    from hipercow_slurm.client.negotiate import available

    return available()


def _with_ticket(client: Client, *, must: bool) -> Session:
    """Negotiate; where nobody asked for it in so many words, the password is the other way."""
    try:
        return client.login_with_ticket()
    except Error as error:
        if must or not sys.stdin.isatty():
            raise
        warn(f"your Kerberos ticket is of no use here: {error.message}")
    return _with_password(client, from_stdin=False)


def _with_password(client: Client, *, from_stdin: bool) -> Session:
    credentials = client.credentials
    who, where = credentials.username, client.url
    password = _password_from_stdin() if from_stdin else _kept(client) or _ask(who, where)
    try:
        session = client.login(who, password)
    except MustChangeError as error:
        if from_stdin or not sys.stdin.isatty():
            raise
        session, password = _change(client, error)
    _keep(client, password)
    return session


def _kept(client: Client) -> str | None:
    """The keyring's password, where there is one; a person can always be asked instead."""
    if not client.credentials.keyring:
        return None
    from hipercow_slurm.client import keys

    return keys.password(client.url, client.credentials.username)


def _keep(client: Client, password: str) -> None:
    """Do with the password what ``--keyring`` or ``--no-keyring`` says."""
    wanted = click.get_current_context().params["keyring"]
    if wanted is None:
        return
    from hipercow_slurm.client import keys

    credentials = client.credentials
    if wanted:
        keys.keep(client.url, credentials.username, password)
    else:
        with contextlib.suppress(ConfigError):
            keys.forget(client.url, credentials.username)


def _change(client: Client, error: MustChangeError) -> tuple[Session, str]:
    """Ask for a new password until the KDC takes it, or does not want to hear another one."""
    click.echo(f"{error.message}.", err=True)
    while True:
        password: str = click.prompt("New password", hide_input=True, confirmation_prompt="The same again", err=True)
        try:
            return client.change_password(error.conversation, password), password
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
    return ask_password(username, url)


def _old_token(client: Client) -> str | None:
    """The token of the session that a new one at the same place makes useless."""
    with contextlib.suppress(ConfigError):
        saved = profile.load(client.credentials.cluster)
        if saved is not None and saved.url == client.url:
            return saved.token
    return None


def _end_quietly(client: Client, token: str) -> None:
    credentials = client.credentials
    with (
        contextlib.suppress(Error),
        Client(client.url, token=token, ca=credentials.ca, timeout_s=5.0, patience_s=0.0) as old,
    ):
        old.logout()


@click.command(epilog=EXAMPLES + "  hipercow-slurm logout\n  hipercow-slurm logout --cluster big")
@user_options
def logout(as_json: bool) -> None:
    """End this session, here and at the cluster. Jobs that run keep their ticket."""
    with connect(password=None, patience_s=3.0) as client:
        try:
            client.logout()
        except CredentialError:
            raise
        except Error as error:
            error.hint = "the session is forgotten here, but stays open at the cluster until it expires"
            raise
        where = client.url
    if as_json:
        print_json({"logged_out": True})
    else:
        click.echo(f"logged out of {where}")


@click.command(
    epilog=EXAMPLES
    + "  hipercow-slurm sessions\n"
    + "  hipercow-slurm sessions --end 3f0c2a\n"
    + "  hipercow-slurm sessions --end-others"
)
@click.option("--end", "ended", multiple=True, metavar="ID", help="End the session whose id begins like this.")
@click.option("--end-others", is_flag=True, help="End all sessions but this one.")
@user_options
def sessions(ended: tuple[str, ...], end_others: bool, as_json: bool) -> None:
    """List your sessions on all machines, or end some."""
    with connect() as client:
        found = client.sessions()
        ending = [row for row in found if end_others and not row.current]
        ending += [row for beginning in ended if (row := _one(found, beginning)) not in ending]
        for row in ending:
            client.end_session(row.session_id)
    if as_json:
        left = [row.raw for row in found if row not in ending]
        print_json({"sessions": left, "ended": [row.session_id for row in ending]} if ending else left)
        return
    for row in ending:
        click.echo(f"ended session {row.session_id}")
    if not ending:
        from hipercow_slurm.cli.table import Table

        rows = [
            (
                "*" if one.current else "",
                clean(one.session_id),
                clean(one.address),
                f"{one.created_at.astimezone():%Y-%m-%d %H:%M}" if one.created_at else "",
                when(one.expires_at),
            )
            for one in found
        ]
        Table(
            ("", "SESSION", "FROM", "SINCE", "UNTIL"), whole=("", "SESSION", "UNTIL"), dropped=("SINCE", "FROM")
        ).print(rows)


def _one(rows: list[SessionInfo], beginning: str) -> SessionInfo:
    fitting = [row for row in rows if row.session_id.startswith(beginning)]
    if len(fitting) != 1:
        what = "no session" if not fitting else f"{len(fitting)} sessions"
        raise RequestError(
            f"{what} of yours with an id that begins with {beginning!r}",
            code="no-such-session",
            hint="hipercow-slurm sessions",
        )
    return fitting[0]


@click.command(epilog=EXAMPLES + "  hipercow-slurm clusters\n  HIPERCOW_SLURM_CLUSTER=big hipercow-slurm jobs")
@user_options
def clusters(as_json: bool) -> None:
    """List the clusters that your configuration names or that you have logged in to."""
    here = cluster_name()
    rows = []
    for name in profile.names():
        settings, saved = profile.settings(name), profile.load(name)
        rows.append(
            {
                "name": name,
                "url": settings.url,
                "username": settings.username,
                "logged_in": bool(saved and saved.token and saved.url == settings.url),
                "current": name == here,
            }
        )
    if as_json:
        print_json(rows)
    elif not rows:
        raise ConfigError(
            "no cluster is known yet",
            code="no-url",
            hint=f"hipercow-slurm login --url https://HOST:PORT, or {profile.config_file()}",
        )
    else:
        from hipercow_slurm.cli.table import Table

        cells = [
            (
                "*" if row["current"] else "",
                str(row["name"] or "(no name)"),
                clean(str(row["url"] or "")),
                clean(str(row["username"] or "")),
                "yes" if row["logged_in"] else "no",
            )
            for row in rows
        ]
        Table(("", "CLUSTER", "URL", "USERNAME", "SESSION"), whole=("", "CLUSTER", "SESSION")).print(cells)
