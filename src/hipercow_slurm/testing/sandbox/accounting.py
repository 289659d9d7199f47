"""Slurm's accounting in the sandbox: slurmdbd, and the MariaDB below it, on the head; only where it is asked for."""

from __future__ import annotations

import os
import pwd
import re

from hipercow_slurm.testing.sandbox import layout
from hipercow_slurm.testing.sandbox.hosts import Tree
from hipercow_slurm.testing.sandbox.layout import HEAD

PROGRAMS = {
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server-core",
    "mariadb-install-db": "mariadb-server-core",
    "my_print_defaults": "mariadb-client-core",
}
PORT = 6830  # 6819, its usual one, is the second node's slurmd here
MIN_JOB_AGE_S = 2  # slurmctld forgets an ended job in some ten seconds
_DATA = "/var/lib/slurm/mariadb"
SOCKET = f"{_DATA}/mariadb.sock"  # the folder is 0700: who reaches the socket is root of the database

_INSTALL = f"mariadb-install-db --no-defaults --datadir={_DATA} --auth-root-authentication-method=normal"
_SERVE = f"mariadbd --no-defaults --datadir={_DATA} --socket={SOCKET} --skip-networking --innodb-buffer-pool-size=32M"
MARIADB = ("sh", "-c", f"test -d {_DATA}/mysql || {_INSTALL} && exec {_SERVE}")

STORAGE = f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={HEAD}
AccountingStoragePort={PORT}
"""

_SLURMDBD_CONF = f"""\
AuthType=auth/munge
AuthInfo=socket={layout.MUNGE_SOCKET}
AuthAltTypes=auth/jwt
AuthAltParameters=jwks=@JWKS@
DbdHost={HEAD}
DbdPort={PORT}
SlurmUser=slurm
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
PidFile=/run/slurm/slurmdbd.pid
"""


def slurm_conf(text: str) -> str:
    """slurm.conf with accounting, and a short memory."""
    return re.sub(r"MinJobAge=[0-9]+", f"MinJobAge={MIN_JOB_AGE_S}", text) + STORAGE


def write_config(tree: Tree, jwks: str) -> None:
    """slurmdbd.conf, which only Slurm's account may read, and the database's folder."""
    slurm = pwd.getpwnam("slurm")
    conf = tree.etc(HEAD) / "slurm/slurmdbd.conf"
    conf.write_text(_SLURMDBD_CONF.replace("@JWKS@", jwks))
    conf.chmod(0o600)
    os.chown(conf, slurm.pw_uid, slurm.pw_gid)
    folder = tree.var(HEAD) / "lib/slurm/mariadb"
    folder.mkdir(mode=0o700)
    os.chown(folder, slurm.pw_uid, slurm.pw_gid)
