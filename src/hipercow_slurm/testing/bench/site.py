"""What both daemons are measured with: a realm, an admin's ticket, and as many users' credentials as wanted.

The credentials are made of one real TGT: in each copy the client's name in the clear part is that of another account
of the same length. No cache looks inside a ticket, so to a cache they are what real ones are, size included.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from hipercow_slurm.krb5 import creds, krbcred
from hipercow_slurm.krb5.ccache import file_v4
from hipercow_slurm.testing.bench import tools
from hipercow_slurm.testing.bench.tools import Asked, Load, Tools
from hipercow_slurm.testing.realm import Realm
from hipercow_slurm.values import KrbCred

REALM = "BENCH.TEST"
SERVICE = f"auks/head.bench.test@{REALM}"
ADMIN = f"host/node.bench.test@{REALM}"
FIRST_UID = 200_000  # as in accounts.c
CLOCK_SKEW_S = 300  # MIT's default: a replay cache fills for as long

ACL = r"""
rule { principal = ^host/node[.]bench[.]test@BENCH[.]TEST$ ; host = * ; role = admin ; }
rule { principal = ^bench[0-9]+@BENCH[.]TEST$ ; host = * ; role = user ; }
"""


def account(number: int) -> str:
    """``bench000007``."""
    return f"bench{number:06}"


@dataclass(frozen=True, slots=True)
class Site:
    """The realm and what lies beside it in ``folder``: ``auksd.keytab``, ``admin.ccache``, ``items``.

    Attributes:
        tgt: the real one, of bench000000.
        items: how many credentials the items file has.
    """

    folder: Path
    realm: Realm
    tools: Tools
    tgt: KrbCred
    items: int

    def cred(self, number: int) -> KrbCred:
        """The credential of an account."""
        return forged(self.tgt, number)

    def load(self, port: int, asked: Asked) -> Load:
        """Run the load generator as the admin."""
        return self.load_as(self.folder / "admin.ccache", port, asked)

    def load_as(self, ccache: Path, port: int, asked: Asked) -> Load:
        """Run it with the TGT in ``ccache``."""
        env = {**self.realm.env, "KRB5CCNAME": str(ccache)}
        return tools.load(self.tools, port, SERVICE, asked, self.folder / "items", env)


@contextmanager
def make(folder: Path, items: int) -> Iterator[Site]:
    """Start the realm and write the files."""
    built = tools.build(folder / "tools")
    with Realm(folder / "realm", REALM, clockskew_s=CLOCK_SKEW_S) as realm, realm.activated():
        password = "bench pass word"
        realm.add_user(account(0), password)
        realm.add_service(SERVICE)
        realm.add_service(ADMIN)
        keytab = realm.keytab(folder / "auksd.keytab", SERVICE)
        admin = realm.keytab(folder / "admin.keytab", ADMIN)
        (folder / "admin.ccache").write_bytes(file_v4(creds.keytab_tgt(ADMIN, str(admin))))
        tgt = creds.password_tgt(
            f"{account(0)}@{REALM}", bytearray(password.encode()), keytab=str(keytab), service=SERVICE
        )
        (folder / "user.ccache").write_bytes(file_v4(tgt))
        site = Site(folder, realm, built, tgt, items)
        with (folder / "items").open("wb") as out:
            for number in range(items):
                der = site.cred(number).der
                out.write(struct.pack(">II", FIRST_UID + number, len(der)) + der)
        yield site


def forged(tgt: KrbCred, number: int) -> KrbCred:
    """``tgt`` in the name of another account; the ticket inside is encrypted and stays what it was."""
    old, new = account(0), account(number)
    return replace(tgt, der=tgt.der.replace(old.encode(), new.encode()), client=tgt.client.replace(old, new))


def half_spent(tgt: KrbCred) -> KrbCred:
    """``tgt`` as it looks when it must be renewed: its clear part says that most of its life has passed."""
    now = int(time.time())
    (ticket,) = krbcred.tickets(tgt)
    return krbcred.build([replace(ticket, authtime=now - 30_000, starttime=now - 30_000, endtime=now + 3_000)])
