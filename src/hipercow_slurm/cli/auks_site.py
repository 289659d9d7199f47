"""What ``hipercow-slurm auks`` needs to know of the site: from an ``auks.conf`` or from our ``agent.toml``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hipercow_slurm.auksconf import conf as auks_conf
from hipercow_slurm.client import upload
from hipercow_slurm.client.auks_steps import Limits, Server
from hipercow_slurm.errors import ConfigError

# Where to look when neither -f nor AUKS_CONF says: ours, the vendor's packages, a plain build.
PLACES = ("/etc/hipercow-slurm/agent.toml", "/etc/auks/auks.conf", "/etc/auks.conf")

READ_S, KDC_S = 30.0, 15.0  # AUKS has no such deadlines, and hangs on a server that is stopped


@dataclass(frozen=True, slots=True)
class Site:
    """Servers and settings; times in seconds."""

    servers: list[Server]
    limits: Limits
    cross_realm: str = ""
    helper: str = ""
    delay_s: int = 60
    min_life_s: int = 300
    findings: tuple[str, ...] = ()


def load(given: str | None) -> Site:
    """Read the file given, or AUKS_CONF, or the first of ``PLACES``.

    Raises:
        ConfigError: ``auks-conf-unreadable`` or ``auks-conf-incomplete``.
    """
    name = given or os.environ.get("AUKS_CONF")
    path = Path(name) if name else auks_conf.one_of(map(Path, PLACES))
    if path is None:
        raise ConfigError(f"there is none of {', '.join(PLACES)}", code=auks_conf.UNREADABLE)
    if auks_conf.is_auks(path):
        return _site(auks_conf.load(path, daemon=False))
    try:
        cross_realm, helper = upload.read_texts(path, "cross_realm", "helper")
        return Site(upload.read_servers(path), _limits(3, 10, 3), cross_realm, helper)
    except ConfigError as error:
        raise ConfigError(error.message, code=auks_conf.UNREADABLE) from error


def _site(found: auks_conf.AuksConf) -> Site:
    servers = [Server(one.address, one.principal, one.port, found.nat) for one in found.servers()]
    if not servers:
        raise ConfigError(f"{found.file}: neither server has a principal", code=auks_conf.INCOMPLETE)
    return Site(
        servers,
        _limits(found.retries, found.timeout_s, found.delay_s),
        found.cross_realm,
        found.helper,
        found.renew_delay_s,
        300 if found.min_life_s is None else found.min_life_s,
        found.findings,
    )


def _limits(rounds: int, timeout_s: int, delay_s: int) -> Limits:
    """AUKS' Timeout is for connecting; the whole may take what all its parts may, but no longer."""
    rounds, connect_s = max(1, rounds), float(max(1, timeout_s))
    total_s = rounds * (2 * (connect_s + READ_S + KDC_S) + delay_s)
    return Limits(connect_s, READ_S, KDC_S, total_s, rounds, float(delay_s))
