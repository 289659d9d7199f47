"""``hipercow-slurm signer``: from the configuration to a running server."""

from __future__ import annotations

import asyncio
import os
import pwd
from pathlib import Path

from hipercow_slurm import daemon, log
from hipercow_slurm.errors import ConfigError
from hipercow_slurm.krb5 import keytab
from hipercow_slurm.signer import config, keys
from hipercow_slurm.signer.config import Signer
from hipercow_slurm.signer.policy import Rules
from hipercow_slurm.signer.server import Server
from hipercow_slurm.signer.service import Service


async def serve(config_path: Path, stop: asyncio.Event) -> None:
    """Serve until ``stop`` is set.

    Raises:
        ConfigError: before anything is served.
    """
    settings = config.load(config_path)
    service = prepare(settings)
    server = Server(service, Path(settings.socket), deadline_s=settings.deadline_s, connections=settings.connections)
    async with server:
        log.get().info(
            "signer.ready",
            socket=settings.socket,
            service=service.service,
            kid=service.key.kid,
            lifetime_s=settings.lifetime_s,
            minimum_uid=settings.minimum_uid,
        )
        daemon.ready()
        await stop.wait()
    log.get().info("signer.stopped")


def prepare(settings: Signer) -> Service:
    """Load the key, resolve the names, look into the keytab: all that can be wrong is found now.

    Raises:
        ConfigError: what is wrong.
    """
    allowed = frozenset(settings.allow_uids) | {uid_of(name, "allow_users") for name in settings.allow_users}
    slurm_uid = uid_of(settings.slurm_user, "slurm_user")
    rules = Rules(
        lifetime_s=settings.lifetime_s,
        minimum_uid=settings.minimum_uid,
        names=frozenset({settings.slurm_user, *settings.deny, *settings.allow_users}),
        # The askers, too: a token for the API's own account is of no use to a user, and of much to a thief.
        uids=allowed | {slurm_uid, os.geteuid()} | _uids_of(settings.deny),
    )
    principal = keytab.check_service(settings.keytab, settings.service)
    return Service(settings.keytab, principal, keys.load_private(Path(settings.key)), rules, allowed)


def uid_of(name: str, key: str) -> int:
    """The uid of a local account that the configuration names under ``key``."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigError(f"signer.{key} names {name!r}, which is no local account") from None


def _uids_of(names: tuple[str, ...]) -> set[int]:
    """Those that exist: a denied account may come later, and then its name denies it."""
    found = set()
    for name in names:
        try:
            found.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            log.get().warning("signer.denied-unknown", localname=name)
    return found
