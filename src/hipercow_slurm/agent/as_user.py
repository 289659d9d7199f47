"""What the agent does in a ccache that only its user can reach: run as that user, once per change.

    python -m hipercow_slurm.agent.as_user store|read|remove NAME

``store`` reads the bytes of a FILE ccache from standard input, ``read`` writes them to standard output. Exit status:
0, 1 (there is no such ccache), 2 (with the reason on standard error). What is stored last is what the user's
collection shows to programs that name none (rpc.gssd, with such a ``default_ccache_name``); after a removal, what lives
longest is.
"""

from __future__ import annotations

import os
import sys

from hipercow_slurm.errors import CredentialError, Error
from hipercow_slurm.krb5 import ccache, ccfile, ccread, ccwrite, krbcred
from hipercow_slurm.krb5.principal import Principal

LIMIT = 1024 * 1024


def main() -> int:
    """One verb; see above."""
    verb, name = sys.argv[1:]
    os.environ["KRB5CCNAME"] = collection(name)  # libkrb5 lists the collection of the default name's kind only
    try:
        return {"store": _store, "read": _read, "remove": _remove}[verb](name)
    except (Error, OSError) as error:
        print(error.message if isinstance(error, Error) else error, file=sys.stderr)
        return 2


def collection(name: str) -> str:
    """``KEYRING:persistent:5001:42`` -> ``KEYRING:persistent:5001``; ``KCM:5001:42`` -> ``KCM:``."""
    return "KCM:" if name.startswith("KCM:") else name.rpartition(":")[0]


def _store(name: str) -> int:
    _, found = ccfile.parse(sys.stdin.buffer.read(LIMIT))
    ccwrite.store_tickets(name, found)
    ccwrite.make_primary(name)
    return 0


def _read(name: str) -> int:
    try:
        owner, found = ccread.read_all(name)
        tgt = krbcred.tickets(ccfile.select_tgt(owner, found, name))
    except CredentialError:
        return 1
    others = [one for one in found if not Principal.parse(one.server).is_tgs]
    sys.stdout.buffer.write(ccache.file_of([*tgt, *others]))
    return 0


def _remove(name: str) -> int:
    try:
        ccache.take_tgt(name)
        found = 0
    except CredentialError:
        found = 1
    ends = []
    for other in ccread.names():
        try:
            ends.append((ccache.read_tgt(other).times.endtime, other))
        except CredentialError:
            continue
    if ends:
        ccwrite.make_primary(max(ends)[1])
    return found


if __name__ == "__main__":
    sys.exit(main())
