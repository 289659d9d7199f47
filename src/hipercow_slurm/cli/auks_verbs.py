"""What each verb of ``hipercow-slurm auks`` does, except printing the verdict.

A verb takes the site and the wish, prints what AUKS prints before its last line, and raises an Error when it fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime

from hipercow_slurm.cli import auks_stream
from hipercow_slurm.cli.auks import Wish
from hipercow_slurm.cli.auks_site import Site
from hipercow_slurm.client.auks_blocking import BlockingAuksClient
from hipercow_slurm.client.preparing import prepare
from hipercow_slurm.errors import AccessError, CredentialError, Error, InternalError
from hipercow_slurm.krb5 import ccache as ccaches
from hipercow_slurm.krb5 import ccwrite, krbcred, names
from hipercow_slurm.values import KrbCred
from hipercow_slurm.wire.records import Record

HELPER_S = 60.0
ROW = "{:<10} {:<34} {:<24} {:<24} {:<24}"
HEADER = ("UID", "PRINCIPAL", "START_TIME", "END_TIME", "RENEW_UNTIL")


def ping(site: Site, wish: Wish) -> None:
    """Ask whether a cache answers."""
    client(site).ping(auth=read_tgt(None))
    say(wish, f"one of {', '.join(map(str, site.servers))} answers")


def add(site: Site, wish: Wish) -> None:
    """Hand a TGT over, made addressless and joined by a cross-realm TGT as need be."""
    cred = read_tgt(wish.ccache)
    auth = cred if wish.ccache is None else read_tgt(None)
    cred = prepare(cred, site.cross_realm, complain)
    try:
        client(site).add(cred, auth=auth)
    except AccessError as error:
        if error.code == "cache-refused":
            names.localname(cred.client)  # if this fails it is the likely reason, and AUKS' status for it another
        raise
    say(wish, f"added the ticket of {cred.client}, {cred.tickets} inside, until {when(cred.times.endtime)}")


def get(site: Site, wish: Wish) -> None:
    """Get a user's TGT into a ccache."""
    store(wish.ccache, krbcred.parse(fetch(site, wish).data))
    say(wish, f"stored the ticket of uid {wish.uid} in {wish.ccache or 'the default ccache'}")


def remove(site: Site, wish: Wish) -> None:
    """Remove a user's TGT from the cache."""
    client(site).remove(wish.uid, auth=read_tgt(None))
    say(wish, f"removed the ticket of uid {wish.uid}")


def dump(site: Site, wish: Wish) -> None:
    """List everything."""
    records = client(site).dump(auth=read_tgt(None))
    print(ROW.format(*HEADER))
    for one in records:
        times = one.times
        row = (one.uid, one.principal, when(times.starttime), when(times.endtime), when(times.renew_till))
        print(ROW.format(*row))


def send(site: Site, wish: Wish) -> None:
    """Write a user's TGT to standard output."""
    sys.stdout.buffer.write(auks_stream.encode(fetch(site, wish)))
    sys.stdout.buffer.flush()


def receive(_site: Site, wish: Wish) -> None:
    """Store a TGT from standard input; asks no server and needs no ticket."""
    store(wish.ccache, auks_stream.decode(sys.stdin.buffer))


def renew(site: Site, wish: Wish) -> None:
    """Renew a TGT, once or for as long as it can be."""
    from hipercow_slurm.cli import auks_renew

    auks_renew.renew(site, wish)


VERBS: dict[str, Callable[[Site, Wish], None]] = {
    "ping": ping,
    "add": add,
    "get": get,
    "remove": remove,
    "dump": dump,
    "send": send,
    "receive": receive,
    "renew": renew,
}


# What the verbs share


def client(site: Site) -> BlockingAuksClient:
    """A client of the site's caches."""
    return BlockingAuksClient(site.servers, limits=site.limits)


def read_tgt(ccache: str | None) -> KrbCred:
    """The TGT of a ccache.

    Raises:
        CredentialError: ``no-tgt``; ``no-ccache`` when there is no readable ccache at all.
    """
    try:
        return ccaches.read_tgt(ccache)
    except CredentialError as error:
        if error.__cause__ is None:
            raise
        raise CredentialError(error.message, code="no-ccache", hint=error.hint) from error


def fetch(site: Site, wish: Wish) -> Record:
    """The record of the wished uid.

    Raises:
        AccessError: ``not-found``.
    """
    record = client(site).get(wish.uid, auth=read_tgt(None))
    if record is None:
        raise AccessError(f"the cache has no ticket of uid {wish.uid} for us", code="not-found")
    return record


def store(ccache: str | None, cred: KrbCred) -> None:
    """Make ``cred`` the content of a ccache.

    Raises:
        InternalError: ``not-stored``.
    """
    try:
        ccwrite.store(ccache, cred)
    except (OSError, Error) as error:
        raise InternalError(f"cannot store the ticket: {error}", code="not-stored") from error


def run_helper(site: Site, ccache: str | None) -> None:
    """Run HelperScript with KRB5CCNAME naming the fresh ticket; without one, or one that fails, nothing is lost."""
    if not site.helper or not os.access(site.helper, os.X_OK):
        return
    environment = dict(os.environ)
    if ccache is not None:
        environment["KRB5CCNAME"] = ccache
    try:
        done = subprocess.run([site.helper], env=environment, stdin=subprocess.DEVNULL, timeout=HELPER_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        complain(f"HelperScript: {error}")
    else:
        if done.returncode:
            complain(f"HelperScript {site.helper} ended with {done.returncode}")


def when(seconds: int) -> str:
    """Local time in AUKS' 24 characters."""
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%dT%H:%M:%S%z}"


def complain(text: str) -> None:
    """A sentence about something that stops nothing."""
    print(f"auks: {text}", file=sys.stderr)


def say(wish: Wish, text: str) -> None:
    """A sentence for ``-v``, on standard output as AUKS' log lines."""
    if wish.verbose:
        print(f"auks: {text}")
