"""``signer.toml``: all that the token signer can be told.

Rule: what guards the cluster has a safe bound that no file can lift: a token lives 120 s at most, and uid 0, the
Slurm user and the signer's own users are refused whatever stands here (see ``policy.py``).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from hipercow_slurm import config
from hipercow_slurm.errors import ConfigError

DEFAULT_PATH = config.DEFAULT_DIR / "signer.toml"
MAX_LIFETIME_S = 120


class Signer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[signer]``.

    Attributes:
        service: principal of the signer; AP-REQs for any other are refused.
        keytab: holds its keys.
        socket: path of the unix socket. Its directory must be closed to others: the directory's group, and then
            ``allow_users``, decide who may ask.
        key: the current private key (PEM, 0600, owned by the signer's user); the next one lies beside it.
        jwks: where ``--init`` and ``--rotate`` write the public halves for slurmctld. The running signer does
            not read it.
        lifetime_s: of a token, 1 to 120.
        minimum_uid: accounts below it get no token.
        slurm_user: SlurmUser of slurm.conf; a token for it would be as good as root's.
        deny: further local accounts that get no token.
        allow_users, allow_uids: who may connect, proved by the kernel (SO_PEERCRED).
        deadline_s: for reading one request, for deciding it and for writing the answer, each.
        connections: at most this many at a time.
    """

    service: str
    keytab: str = "/etc/hipercow-slurm/signer.keytab"
    socket: str = "/run/hipercow-slurm/signer/signer.sock"
    key: str = "/var/lib/hipercow-slurm/signer/key.pem"
    jwks: str = "/etc/slurm/jwks.json"
    lifetime_s: int = 60
    minimum_uid: int = 1000
    slurm_user: str = "slurm"
    deny: tuple[str, ...] = ()
    allow_users: tuple[str, ...] = ("hcs-api",)
    allow_uids: tuple[int, ...] = ()
    deadline_s: float = 5.0
    connections: int = 128


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    signer: Signer


def load(path: Path = DEFAULT_PATH) -> Signer:
    """Read and check ``path``.

    Raises:
        ConfigError: with the file, and the line and key where they are known.
    """
    settings = config.load(path, File).signer
    for key, value, least, most in (
        ("lifetime_s", settings.lifetime_s, 1, MAX_LIFETIME_S),
        ("minimum_uid", settings.minimum_uid, 1, 2**31 - 1),
        ("deadline_s", settings.deadline_s, 0.1, 60),
        ("connections", settings.connections, 1, 10_000),
    ):
        if not least <= value <= most:
            raise ConfigError(f"{path}: signer.{key} is {value}; it must be from {least} to {most}")
    if not settings.allow_users and not settings.allow_uids:
        raise ConfigError(f"{path}: neither signer.allow_users nor signer.allow_uids names anybody")
    for key, text in (("socket", settings.socket), ("key", settings.key), ("keytab", settings.keytab)):
        if not text.startswith("/"):
            raise ConfigError(f"{path}: signer.{key} is {text!r}; it must be an absolute path")
    return settings
