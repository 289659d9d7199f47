"""``hipercow-slurm auks``: AUKS' own command line client, so that scripts keep working: words, lines, exit status.

The words are read as getopt_long reads them (the last action counts), which is not click's way, so click hands them on.
Source: protocol notes, section 16.
"""

from __future__ import annotations

import getopt
import os
import sys
from dataclasses import dataclass, replace

import click

from hipercow_slurm.errors import Error

SHORT = "hvdf:pagrDR:u:C:"
LONG = [
    *("help", "verbose", "debug", "config=", "ping", "add", "get", "remove", "dump", "renew=", "send", "receive"),
    *("uid=", "ccache="),
]
ACTIONS = {
    **{"-p": "ping", "-a": "add", "-g": "get", "-r": "remove", "-D": "dump"},
    **{f"--{name}": name for name in ("ping", "add", "get", "remove", "dump", "send", "receive")},
}

USAGE = """\
usage: auks [-p|--ping] [-a|--add] [-g|--get] [-r|--remove] [-D|--dump] [-R|--renew once|loop] [--send] [--receive]
            [-u|--uid UID] [-C|--ccache NAME] [-f|--config FILE] [-v|--verbose] [-d|--debug] [-h|--help]

  -p   ask whether a credential cache answers (this is done when nothing else is asked for)
  -a   hand your own TGT, or the one in -C, to the credential cache
  -g   get the TGT of UID into -C, or into your own ccache
  -r   remove the TGT of UID from the credential cache
  -D   list everything that is in the credential cache (administrators)
  -R   renew the TGT in -C when it is about to end: once, or whenever it is, until it cannot be renewed any more
  --send, --receive   write the TGT of UID to standard output; store one from standard input into -C

The last action counts. UID is your own unless given. Who asks is proved with your default ccache (KRB5CCNAME).
FILE is an auks.conf (also from AUKS_CONF) or an agent.toml with [cache] servers.
"""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the words ask for."""

    action: str = "ping"
    loop: bool = False
    uid: int = 0
    ccache: str | None = None
    config: str | None = None
    verbose: int = 0


class UsageError(Exception):
    """The words are wrong; ``status`` is what AUKS exits with."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def read(words: list[str]) -> Wish | None:
    """What is wished for; None for help.

    Raises:
        UsageError: an unknown word (AUKS exits with 0 then), or ``-R`` without once or loop (1).
    """
    try:
        options, _ = getopt.gnu_getopt(words, SHORT, LONG)
    except getopt.GetoptError as error:
        raise UsageError(str(error), 0) from error
    wish = Wish(uid=os.geteuid())
    for name, value in options:
        if name in ("-h", "--help"):
            return None
        if name in ACTIONS:
            wish = replace(wish, action=ACTIONS[name])
        elif name in ("-R", "--renew"):
            if value not in ("once", "loop"):
                raise UsageError(f"{name} wants once or loop, not {value!r}", 1)
            wish = replace(wish, action="renew", loop=value == "loop")
        elif name in ("-u", "--uid"):
            wish = replace(wish, uid=_uid(value))
        elif name in ("-C", "--ccache"):
            wish = replace(wish, ccache=value)
        elif name in ("-f", "--config"):
            wish = replace(wish, config=value)
        elif name in ("-v", "--verbose"):
            wish = replace(wish, verbose=wish.verbose + 1)
    return wish


def _uid(text: str) -> int:
    """A uid; AUKS would read a word that is no number as 0, that is root's: we do not."""
    if not text.isascii() or not text.isdigit() or int(text) > 0xFFFFFFFF:
        raise UsageError(f"{text!r} is not a uid", 1)
    return int(text)


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    add_help_option=False,
    short_help="AUKS' own command line client.",
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def auks(words: tuple[str, ...]) -> None:
    """AUKS' own command line client: -h tells."""
    sys.exit(run(list(words)))


def run(words: list[str]) -> int:
    """Do what the words ask for, print what AUKS prints; the exit status."""
    try:
        wish = read(words)
    except UsageError as error:
        print(f"{error}\n{USAGE}", end="")
        return error.status
    if wish is None:
        print(USAGE, end="")
        return 0
    from hipercow_slurm.cli import auks_site, auks_status, auks_verbs

    try:
        site = auks_site.load(wish.config)
    except Error as error:
        print(f"Auks API init failed : {error.message}", file=sys.stderr)
        return auks_status.of_init(error)
    try:
        auks_verbs.VERBS[wish.action](site, wish)
    except Error as error:
        if os.environ.get("HIPERCOW_SLURM_TRACEBACK"):
            raise
        print(f"Auks API request failed : {error.message}", file=sys.stderr)
        return auks_status.of(wish.action, error)
    if wish.action != "send":
        print("Auks API request succeed")
    return 0
