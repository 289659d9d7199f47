"""An ``auks.conf`` as our configuration: the daemon starts from the file a site has, unchanged.

What AUKS calls CacheDir (files in clear) is only read from, once, at the first start; the store and its key live in our
state directory. The key is made when it is missing and there is no store yet.
"""

from __future__ import annotations

import base64
import os
import socket
from pathlib import Path

from hipercow_slurm.auksconf.conf import AuksConf, End
from hipercow_slurm.auksd.config import Auksd, Config, Renew
from hipercow_slurm.errors import ConfigError

STATE_DIR = "/var/lib/hipercow-slurm/auksd"
STORE, KEY = "credentials.db", "credentials.key"
CACHE_DIR = "/var/cache/auks"
ACL_FILES = ("/etc/auks/auks.acl", "/etc/auks.acl")  # the vendor's packages, a plain build

# Keys that need no counterpart here, and why; shown by --check-config.
WITHOUT_EFFECT = {
    "nat": "clients with and without NAT are recognised one by one",
    "workers": "one event loop serves all connections",
    "queuesize": "one event loop serves all connections",
    "reposize": "the store grows as needed",
    "cleandelay": "a ticket is removed the moment it expires",
    "replaycache": "a recorded session is worthless without one",
    "logfile": "logs go to standard error, that is to the journal",
    "loglevel": "every decision is logged",
    "debugfile": "logs go to standard error, that is to the journal",
    "debuglevel": "every decision is logged",
}


class FromAuks(Config, frozen=True):
    """A configuration that came from an ``auks.conf``.

    Attributes:
        findings: ``file:line: sentence``: what is odd in the file.
        notes: the same, for what is fine and has no effect here.
        role: primary or secondary.
    """

    findings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    role: str = "primary"


def state_dir() -> Path:
    """Where the store lives: systemd's StateDirectory=, or the default."""
    return Path(os.environ.get("STATE_DIRECTORY", "").partition(":")[0] or STATE_DIR)


def configuration(conf: AuksConf, *, state: Path, hostname: str | None = None) -> FromAuks:
    """Our configuration for what ``conf`` says.

    Args:
        state: folder of the store and its key.
        hostname: this machine's; it decides whether this is the primary or the secondary daemon.

    Raises:
        ConfigError: this host is neither, or the address to listen on has no IPv4 address.
    """
    hostname = hostname or socket.gethostname()
    secondary = role(conf, hostname) == "secondary"
    end = conf.secondary if secondary else conf.primary
    return FromAuks(
        auksd=Auksd(
            keytab=conf.keytabs[secondary],
            acl=conf.acl_file or _acl_file(),
            store=str(state / STORE),
            key_file=str(state / KEY),
            principal=end.principal or None,
            listen=f"{_ipv4(conf, end)}:{end.port}",
            import_dir=conf.cache_dir or CACHE_DIR,
        ),
        renew=Renew() if conf.min_life_s is None else Renew(margin_s=float(conf.min_life_s)),
        findings=conf.findings,
        notes=tuple(_notes(conf)),
        role="secondary" if secondary else "primary",
    )


def role(conf: AuksConf, hostname: str) -> str:
    """``primary`` or ``secondary``, as AUKS decides it.

    Raises:
        ConfigError: ``auks-conf-host``: this host is neither.
    """
    hosts = (conf.primary.host, conf.secondary.host)
    if hostname == hosts[0]:
        return "primary"
    if hostname == hosts[1]:
        return "secondary"
    if "localhost" in hosts:
        return "primary"
    raise ConfigError(
        f"{conf.file}: this host is {hostname!r}, neither PrimaryHost {hosts[0]!r} nor SecondaryHost {hosts[1]!r}",
        code="auks-conf-host",
        hint="the names are compared as hostname(1) prints this host's",
    )


def prepare(config: Config) -> bool:
    """Make the state directory and, before there is a store, its key; True if there is no store yet.

    Does nothing for a configuration of our own: there the admin makes the key.

    Raises:
        ConfigError: ``store-key``: the directory or the key cannot be made.
    """
    store, key = Path(config.auksd.store), Path(config.auksd.key_file)
    first = not store.exists()
    if not isinstance(config, FromAuks) or not first or key.exists():
        return first
    try:
        key.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(os.urandom(32)) + b"\n")
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise ConfigError(f"cannot make the store key {key}: {error}", code="store-key") from error
    return True


def _acl_file() -> str:
    return next((name for name in ACL_FILES if Path(name).exists()), ACL_FILES[0])


def _ipv4(conf: AuksConf, end: End) -> str:
    """The address to listen on; AUKS has no IPv6."""
    try:
        found = socket.getaddrinfo(end.address, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise ConfigError(f"{conf.file}: {end.address!r}, to listen on, has no IPv4 address: {error}") from error
    return str(found[0][4][0])


def _notes(conf: AuksConf) -> list[str]:
    """A line for each setting that is there and has no effect."""
    return [
        f"{conf.file}:{setting.line}: {key} has no effect: {WITHOUT_EFFECT[key]}"
        for (block, key), setting in sorted(conf.noted.items(), key=lambda item: item[1].line)
        if key in WITHOUT_EFFECT and (block == "auksd" or key == "nat")
    ]
