"""The credential cache's configuration: ``auksd.toml``, or an ``auks.conf`` as it is.

[auksd]
listen = "0.0.0.0:12345"
principal = "auks/head.example.org@EXAMPLE.ORG"
keytab = "/etc/hipercow-slurm/auksd.keytab"
acl = "/etc/hipercow-slurm/auksd.acl"
store = "/var/lib/hipercow-slurm/auksd/credentials.db"
key_file = "/etc/hipercow-slurm/auksd.key"

[renew]          # optional, as is every key in it
threads = 4

[[rule]]         # these in place of the file "acl", first match wins
principal = '^host/[a-z0-9.-]+@EXAMPLE\\.ORG$'
host = "*"
role = "node"

[nodes]          # needed by rules of role node: which Slurm node is host/c1.example.org@EXAMPLE.ORG
realm = "EXAMPLE.ORG"
domains = ["example.org"]

[oracle]         # how slurmctld is asked who has a job where
command = ["squeue"]

[retention]      # forget a user who has had no job for so long; without it nobody is
grace_s = 86400

[audit]          # one line per decision, hash-chained
path = "/var/log/hipercow-slurm/auksd/audit.log"

[metrics]        # GET /metrics and /health
listen = "127.0.0.1:9464"
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

import msgspec

from hipercow_slurm import config, metrics
from hipercow_slurm.audit import settings as audit_settings
from hipercow_slurm.auksconf import conf as auks_conf
from hipercow_slurm.auksd.agenda import Timing
from hipercow_slurm.errors import ConfigError
from hipercow_slurm.slurm import oracle
from hipercow_slurm.slurm.nodes import NodeNames


class Auksd(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section ``[auksd]``.

    Attributes:
        principal: the service clients ask the KDC for; None accepts any key of the keytab.
        acl: file of rules in AUKS' grammar; None: they are the ``[[rule]]`` tables.
        store: path of an SQLite file, or the URL of a PostgreSQL database (``postgresql://...``) for several instances.
        import_dir: a CacheDir of AUKS; what is in it is taken over when there is no store yet.
        listen: IPv4 address and port; AUKS has no IPv6.
        share_port: let further instances on this host listen on the same address and port, each on a core of its own;
            the kernel spreads connections. Only for instances of one shared store.
        processes: how many serve the port; more than one are front processes beside the one that has the store.
        connections, connections_per_peer: at these many, the oldest connection without a request yet is closed
            for a new one; if there is none, the new one is.
        handshake_timeout_s: from accept to the first request.
        idle_timeout_s: between requests.
        drain_timeout_s: how long a stop waits for requests being answered.
    """

    keytab: str
    store: str
    key_file: str
    acl: str | None = None
    principal: str | None = None
    import_dir: str | None = None
    listen: str = "0.0.0.0:12345"
    share_port: bool = False
    processes: int = 1
    connections: int = 4096
    connections_per_peer: int = 1024
    handshake_timeout_s: float = 10.0
    idle_timeout_s: float = 60.0
    drain_timeout_s: float = 5.0

    def address(self) -> tuple[str, int]:
        """``listen`` as host and port.

        Raises:
            ConfigError: it is no IPv4 address and port.
        """
        host, _, port = self.listen.rpartition(":")
        try:
            return str(ipaddress.IPv4Address(host)), _port(port)
        except ValueError as error:
            raise ConfigError(f"listen = {self.listen!r} is not an IPv4 address and port: {error}") from error


class Renew(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section ``[renew]``; see ``agenda.Timing`` for the last five."""

    enabled: bool = True
    threads: int = 4
    rate_per_s: float = 50.0
    at: float = 0.5
    jitter: float = 0.1
    margin_s: float = 60.0
    retry_first_s: float = 1.0
    retry_max_s: float = 60.0

    def timing(self) -> Timing:
        """The part the agenda needs."""
        return Timing(self.at, self.jitter, self.margin_s, self.retry_first_s, self.retry_max_s)


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table ``[[rule]]``; values as in an ACL file, see ``acl.py``."""

    principal: str
    role: str
    host: str = "*"


class Nodes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section ``[nodes]``: from host principals to Slurm's node names; see ``slurm.nodes.NodeNames``.

    Attributes:
        realm: the nodes' realm.
        domains: ``host/c1.DOMAIN`` is node c1.
        table: host -> node, for names that follow no rule.
        pattern: a regular expression for whole host names, with a group ``node``.
        service: the first part of a node's principal.
    """

    realm: str
    domains: tuple[str, ...] = ()
    table: dict[str, str] = {}
    pattern: str | None = None
    service: str = "host"

    def names(self) -> NodeNames:
        """The mapping.

        Raises:
            ConfigError: pattern or table is no good.
        """
        return NodeNames(self.realm, self.domains, self.table, self.pattern, self.service)


class Retention(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Section ``[retention]``; see ``retention.py``.

    Attributes:
        grace_s: a record goes when slurmctld has shown no job of its user for so many seconds; None: never.
    """

    grace_s: Annotated[float, msgspec.Meta(gt=0, le=366 * 86400)] | None = None


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    auksd: Auksd
    renew: Renew = Renew()
    rule: tuple[Rule, ...] = ()
    nodes: Nodes | None = None
    oracle: oracle.Settings = oracle.Settings()
    retention: Retention = Retention()
    audit: audit_settings.Settings = audit_settings.Settings()
    metrics: metrics.Settings = metrics.Settings()


def load(path: Path, *, state: Path | None = None) -> Config:
    """Read and check the file; one in AUKS' grammar gives a ``from_auks.FromAuks``.

    Args:
        state: where the store is if the file is AUKS'; None: see ``from_auks.state_dir``.

    Raises:
        ConfigError: see ``config.load`` and ``from_auks.configuration``; or a value out of range.
    """
    if auks_conf.is_auks(path):
        from hipercow_slurm.auksd import from_auks  # it needs the structs of this module

        found: Config = from_auks.configuration(auks_conf.load(path, daemon=True), state=state or from_auks.state_dir())
    else:
        found = config.load(path, Config)
    if (found.auksd.acl is None) == (not found.rule):
        raise ConfigError(f"{path}: give either auksd.acl or [[rule]] tables")
    found.auksd.address()
    found.metrics.address()
    if found.nodes is not None:
        found.nodes.names()
    section, renew = found.auksd, found.renew
    _check(path, "auksd.processes", 1 <= section.processes <= 64)
    _check(path, "auksd.connections", section.connections > 0 and section.connections_per_peer > 0)
    _check(path, "auksd.handshake_timeout_s", section.handshake_timeout_s > 0 and section.idle_timeout_s > 0)
    _check(path, "auksd.drain_timeout_s", section.drain_timeout_s >= 0)
    _check(path, "renew.threads", 1 <= renew.threads <= 64)
    _check(path, "renew.rate_per_s", renew.rate_per_s > 0)
    _check(path, "renew.at", 0 <= renew.jitter < renew.at and renew.at + renew.jitter < 1)
    _check(path, "renew.retry_first_s", 0 < renew.retry_first_s <= renew.retry_max_s and renew.margin_s >= 0)
    return found


def _check(path: Path, key: str, good: bool) -> None:
    if not good:
        raise ConfigError(f"{path}: {key} (or a key that belongs to it) is out of range")


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError("the port is not between 0 and 65535")
    return port
