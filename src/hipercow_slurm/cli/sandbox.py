"""``hipercow-slurm sandbox``: the project's own cluster in a box, from the command line."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from typing import NoReturn

import click
from rich.console import Console
from rich.table import Table

from hipercow_slurm.errors import RequestError
from hipercow_slurm.testing import slurm_tree
from hipercow_slurm.testing.sandbox import ALL, Sandbox, layout, supervisor

_NAME = click.option("--name", default="default", show_default=True, help="Which sandbox, if there are several.")
_OUT = Console(highlight=False, soft_wrap=True)


@click.group()
def sandbox() -> None:
    """The project's own cluster in a box: KDC, Slurm, file servers and our programs. Needs root."""


@sandbox.command()
@_NAME
@click.option("--ticket-life", default="10h", show_default=True, help="Life of users' tickets: 60s, 10h, ...")
@click.option("--renew-life", default="7d", show_default=True, help="How long they can be renewed.")
@click.option("--nodes", default=2, show_default=True, type=click.IntRange(1, 16), help="Compute nodes.")
@click.option("--programs", default=",".join(ALL), show_default=True, help="Which of ours to start; may be empty.")
@click.option("--slurm", type=click.Choice([*slurm_tree.RELEASES]), help="Another Slurm than this machine's.")
def up(name: str, ticket_life: str, renew_life: str, nodes: int, programs: str, slurm: str | None) -> None:
    """Start a sandbox; it stays until `down`."""
    started = time.monotonic()

    def progress(what: str) -> None:
        _OUT.print(f"[dim]{time.monotonic() - started:5.1f} s[/dim]  [green]ready[/green]  {what}")

    box = Sandbox(
        ticket_life=ticket_life,
        renew_life=renew_life,
        nodes=[f"c{number}" for number in range(1, nodes + 1)],
        programs=[program for program in programs.split(",") if program],
        slurm=slurm,
        name=name,
        owned=False,
    ).up(progress)
    call = _how_called() + ("" if name == "default" else f" --name {name}")
    shells = {
        "alice on the laptop": "alice@laptop",
        "alice on the login node": "alice@login",
        "root on a node": "root@c1",
    }
    _OUT.print(f"\nThe sandbox is up after {time.monotonic() - started:.1f} s.\n")
    for who, where in shells.items():
        _OUT.print(f"  {who + ':':<25} {call.replace('sandbox', 'sandbox shell', 1)} {where}")
    for user, password in box.passwords.items():
        _OUT.print(f"  {user + chr(39) + 's password:':<25} {password}", markup=False)
    _OUT.print(f"  {'what runs:':<25} {call.replace('sandbox', 'sandbox status', 1)}")
    _OUT.print(f"  {'the end:':<25} {call.replace('sandbox', 'sandbox down', 1)}")


@sandbox.command()
@_NAME
def down(name: str) -> None:
    """End a sandbox; nothing of it is left."""
    root = supervisor.folder(name)
    if supervisor.alive(root):
        Sandbox.attach(name).down()
        _OUT.print(f"sandbox {name!r} is down")
    else:
        supervisor.sweep()
        _OUT.print(f"no sandbox {name!r} is up")


@sandbox.command()
@_NAME
@click.option("--json", "as_json", is_flag=True, help="One JSON list instead of a table.")
def status(name: str, as_json: bool) -> None:
    """What runs where, as whom; exit code 1 if anything does not."""
    rows = Sandbox.attach(name).status()
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    else:
        table = Table(box=None, pad_edge=False)
        for title in ("SERVICE", "HOST", "USER", "PID", "STATE"):
            table.add_column(title, justify="right" if title == "PID" else "left")
        for row in rows:
            colour = "green" if row["state"] == "running" else "red"
            ended = "" if row["exit_code"] is None else f" (exit {row['exit_code']})"
            table.add_row(
                row["name"],
                row["host"],
                row["user"],
                str(row["pid"] or "-"),
                f"[{colour}]{row['state']}{ended}[/{colour}]",
            )
        _OUT.print(table)
    sys.exit(0 if all(row["state"] == "running" for row in rows) else 1)


@sandbox.command(context_settings={"ignore_unknown_options": True})
@_NAME
@click.argument("where", metavar="USER@HOST", default="alice@laptop")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def shell(name: str, where: str, command: tuple[str, ...]) -> NoReturn:
    """A shell (or COMMAND) inside: alice@laptop, alice@login, root@c1 ..."""
    user, _, host = where.rpartition("@")
    box = Sandbox.attach(name)
    hosts = box.options.hosts
    if not user or host not in hosts:
        raise RequestError(f"{where!r} is not USER@HOST", hint=f"hosts are {', '.join(hosts)}")
    env = {}
    if host == layout.LAPTOP and user != "root":
        # The people share one local account on the laptop, which knows nobody of the cluster.
        person, user = user, layout.LAPTOP_ACCOUNT.name
        if person != user:
            env["HOME"] = f"{layout.LAPTOP_ACCOUNT.home}/{person}"
            box.run(host, ["mkdir", "-p", env["HOME"]], user=user)
    sys.exit(_foreground(box.popen(host, command or ("bash", "--login"), user=user, env=env)))


def _foreground(process: subprocess.Popen[bytes]) -> int:
    """Wait for a program that has the terminal: ctrl-C is for it, not for us."""
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


@sandbox.command()
def demo() -> None:
    """The whole story in a sandbox of its own, one line per hop with its proof."""
    from hipercow_slurm.testing.demo import run

    run()


def _how_called() -> str:
    """What the user has to type to reach this group again."""
    found = shutil.which("hipercow-slurm")
    if found is not None and not sys.argv[0].endswith("__main__.py"):
        return "hipercow-slurm sandbox"
    return f"{sys.executable} -m hipercow_slurm sandbox" if sys.argv[0].endswith(".py") else f"{sys.argv[0]} sandbox"
