"""``api.toml``: everything the HTTP API can be told, and what it assumes when it is not told.

Unknown keys and wrong types are errors that name file, line and key (``hipercow_slurm.config``). Units stand in
the names. Principals may leave out ``@REALM``; the realm of ``[api]`` is meant then.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from hipercow_slurm import config
from hipercow_slurm.audit import settings as audit_settings
from hipercow_slurm.errors import ConfigError
from hipercow_slurm.metrics import Settings

DEFAULT_PATH = config.DEFAULT_DIR / "api.toml"
SLURMRESTD_TAKES = 124  # open connections (22.05); it accepts no more then, and never closes an idle one
_REALM = re.compile(r"[A-Z0-9][A-Z0-9.-]{0,253}")


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TOML table that knows all its keys."""


class Api(Table, frozen=True):
    """``[api]``: who we are and where we listen.

    Attributes:
        listen: ``address:port``; an IPv6 address stands in brackets.
        certificate, key: PEM files for TLS; the API never listens without TLS.
        processes: how many API processes share the address (for more than one CPU core); all use the one database.
        database: where sessions and submissions are: a SQLite file, made with mode 0600, or ``postgresql://...``, which
            API hosts can share.
        realm: the one realm whose passwords we check.
        keytab, service: proof that the KDC is the real one (verify_init_creds); both must be readable at start.
        minimum_uid, deny: accounts below it, or of these names, cannot log in: Slurm's own user must not (its
            uid is high on Debian).
        session_max_s: a session ends after this time even if the ticket could be renewed for longer.
        fast: armour around password checks (RFC 6113) with a ticket of our own: "try" uses it where the KDC offers
            it, "require" asks no KDC without it, "off" does without.
        weak_enctypes: "refuse" logs nobody in whose account, ticket or exchange rests on DES or RC4, and does not start
            with a keytab of such keys only; "allow" leaves it to krb5.conf and the KDC.
        channel_binding: Negotiate clients that say which TLS certificate they saw (RFC 5929, tls-server-end-point) must
            have seen ours: "try"; "require" refuses those that do not say it; "off" where a proxy ends TLS.
        ticket_life_s, ticket_renew_s: what we ask the KDC for; left out: what the KDC grants at most.
    """

    certificate: str
    key: str
    realm: str
    service: str
    listen: str = "127.0.0.1:8443"
    processes: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    database: str = "/var/lib/hipercow-slurm/api/api.sqlite"
    keytab: str = "/etc/hipercow-slurm/api.keytab"
    minimum_uid: int = 1000
    deny: tuple[str, ...] = ("slurm", "nobody")
    session_max_s: int = 7 * 86400
    fast: Literal["off", "try", "require"] = "try"
    weak_enctypes: Literal["refuse", "allow"] = "refuse"
    channel_binding: Literal["off", "try", "require"] = "try"
    ticket_life_s: int | None = None
    ticket_renew_s: int | None = None


class Signer(Table, frozen=True):
    """``[signer]``: the token signer's unix socket and its principal."""

    service: str
    socket: str = "/run/hipercow-slurm/signer/signer.sock"


class Slurm(Table, frozen=True):
    """``[slurm]``: slurmrestd's unix socket.

    Attributes:
        timeout_s: for one answer of slurmrestd's.
        ping_after_s: who has waited for so long makes us ask whether slurmctld is there at all. If that has no answer
            in seven seconds, what is only read is refused; and while slurmctld stays silent, all else at once.
        connections: of each process of ours at a time, at most, and one more for that question. slurmrestd accepts 124,
            and lets the next one wait.
        min_job_age_s: slurmctld's MinJobAge: for this long a finished job can still be found, so for this long we
            can tell whether a submission whose answer was lost made a job.
        accounting: slurmrestd also serves slurmdbd (``-s openapi/slurmctld,openapi/slurmdbd``; before Slurm 23.11
            ``-s openapi/v0.0.38,openapi/dbv0.0.38``), and is asked how a job ended that slurmctld has forgotten.
        scontrol, scontrol_conf: the program that requeues jobs, as the user and with the user's token (slurmrestd
            cannot), and the slurm.conf it gets: slurmrestd's, with AuthType=auth/jwt.
    """

    socket: str = "/run/slurmrestd/rest.sock"
    timeout_s: float = 15.0
    ping_after_s: Annotated[float, msgspec.Meta(gt=0)] = 3.0
    connections: int = 16
    min_job_age_s: int = 300
    accounting: bool = False
    scontrol: str = "/usr/bin/scontrol"
    scontrol_conf: str = "/etc/slurm/slurmrestd.conf"


class CacheServer(Table, frozen=True):
    """One credential cache: where it listens and the principal it must prove to be."""

    host: str
    principal: str
    port: int = 12345


class Cache(Table, frozen=True):
    """``[cache]``: the credential caches, in the order we try them."""

    servers: list[CacheServer]


class Files(Table, frozen=True):
    """``[[files]]``: paths below ``prefix`` on the cluster are below ``export`` on the NFS server ``server``."""

    prefix: str
    server: str
    export: str
    port: int = 2049


class Jobs(Table, frozen=True):
    """``[jobs]``: what may be submitted.

    Attributes:
        environment: which variables of a submission travel, as patterns (``R_*``); what must not (KRB5*, LD_*,
            SLURM_*, BASH_ENV ...) never does, whatever stands here.
        uncovered: a job that may outlive what its owner's ticket can be renewed for is submitted with a warning
            ("warn"), refused ("refuse"), or submitted without a word ("allow").
        held_marker: a job that waits, held, with this text in what Slurm shows of it (comment, remarks) was put back
            for want of a ticket; its owner's next login releases it.
        bulk: most jobs in one bulk submission, and job ids in one bulk cancellation.
        at_once: how many of them Slurm gets at the same time.
    """

    environment: tuple[str, ...] = ("*",)
    uncovered: Literal["warn", "refuse", "allow"] = "warn"
    held_marker: str = "hipercow-slurm: no ticket"
    bulk: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1000
    at_once: Annotated[int, msgspec.Meta(ge=1, le=100)] = 8


class Hpcpack(Table, frozen=True):
    """``[hpcpack]``: the routes of hipercow-api, for its clients; without this table they are not there.

    Attributes:
        cluster: the one cluster's name there.
        anonymous: answer also without a session, as hipercow-api does, from what Slurm last told somebody who was
            logged in (at most ``keep_s`` ago; else 503). Partitions that only some users see may show then.
    """

    cluster: str
    anonymous: bool = False
    keep_s: float = 3600.0


class SharePath(Table, frozen=True):
    """``[[paths]]``: what laptops mount, and where the nodes have it. ``GET /v1/paths`` tells it to drivers.

    Attributes:
        share: ``//server/share`` (SMB, with folders of the share behind it if need be) or ``server:/export`` (NFS).
        path: the same folder on every node.
    """

    share: str
    path: str


class Hipercow(Table, frozen=True):
    """``[hipercow]``: what hipercow's drivers must know of the nodes; ``GET /v1/hipercow`` tells it to them.

    Attributes:
        python: version -> a Python on the nodes in which the package hipercow is installed; versions as "3.11".
        r: version -> an Rscript on the nodes; versions as "4.2.2".
        r_libs: a library on the nodes that has the R package hipercow, and conan2 for provisioning.
        setup: shell lines that a job begins with (``module load ...``).
        build_queue: the partition for provisioning; left out: the default one. test_queue: for hipercow's ".test".
    """

    python: dict[str, str] = {}
    r: dict[str, str] = {}
    r_libs: str | None = None
    setup: str = ""
    build_queue: str | None = None
    test_queue: str | None = None


class Limits(Table, frozen=True):
    """``[limits]``: what one client, one user and one address may cost us.

    Attributes:
        login_workers: password checks at the same time (0: number of cores).
        login_queue: password checks waiting for a worker, and logins waiting for others' verdicts; more get 429.
        failures_per_user, failure_user_window_s: failed logins per user, from all addresses; they are forgotten when
            none was added for so many seconds, or at a right login. Keep the number below the KDC's own lockout
            threshold and the time not below its observation window (MIT: -failurecountinterval): then nobody can lock
            an account at the KDC through this service. One strange address gets two of them less, a known one one.
        failures_per_address, failure_address_refill_s: burst of failed logins per client address, and seconds until
            one more. Users who have logged in from there before are counted each alone, with a quarter of it.
        failed_login_s: a refused login is answered after this time, so that the time says nothing about the reason.
            It must be longer than the KDC takes to refuse a password; the log says ``login.slow`` where it is not.
        basic_session_s: requests with the same HTTP Basic credentials share a session for this long; for as long an
            old password may still be taken.
        login_body_bytes, ticket_body_bytes, job_body_bytes: request bodies above it get 413.
        request_headers_s: a connection must agree on TLS within this time, and as soon again send its whole headers.
        request_body_s: and the whole body within this time after them.
        answer_s: a client that takes nothing of its answer for this long is cut off.
        idle_s: a kept-alive connection without a request is closed after this time.
        connections: open connections of each process; more get 503.
        connections_per_address: of them, from one address (IPv6: one /64), and fewer while others hold many; more get
            429, and most of a crowd is closed without a word. Where all come from one address (a proxy, a large NAT),
            as many as connections.
        followers: live streams of output at a time, of each process; more get 503.
        followers_per_user: of them, of one user; more get 429.
        requests_per_user: of one user, worked on at a time by each process, and an eighth as many of many jobs each;
            the others wait, 20 s at most, then get 429.
        file_bytes: largest file that can be uploaded.
    """

    login_workers: int = 0
    login_queue: int = 64
    failures_per_user: Annotated[int, msgspec.Meta(ge=1)] = 4
    failure_user_window_s: Annotated[float, msgspec.Meta(gt=0)] = 1800.0
    failures_per_address: int = 20
    failure_address_refill_s: float = 10.0
    failed_login_s: float = 0.5
    basic_session_s: int = 300
    login_body_bytes: int = 8192
    ticket_body_bytes: int = 1024 * 1024
    job_body_bytes: int = 10_000_000
    request_headers_s: float = 10.0
    request_body_s: float = 30.0
    answer_s: float = 60.0
    idle_s: float = 65.0
    connections: Annotated[int, msgspec.Meta(ge=1)] = 1000
    connections_per_address: Annotated[int, msgspec.Meta(ge=1)] = 600
    followers: int = 100
    followers_per_user: Annotated[int, msgspec.Meta(ge=1)] = 20
    requests_per_user: Annotated[int, msgspec.Meta(ge=1)] = 64
    file_bytes: int = 32 * 1024 * 1024


class Config(Table, frozen=True):
    """The whole of ``api.toml``."""

    api: Api
    signer: Signer
    cache: Cache
    metrics: Settings = Settings()
    audit: audit_settings.Settings = audit_settings.Settings()
    slurm: Slurm = msgspec.field(default_factory=Slurm)
    files: list[Files] = []
    jobs: Jobs = msgspec.field(default_factory=Jobs)
    hpcpack: Hpcpack | None = None
    paths: list[SharePath] = []
    hipercow: Hipercow = msgspec.field(default_factory=Hipercow)
    limits: Limits = msgspec.field(default_factory=Limits)

    def metrics_of(self, worker: int) -> Settings:
        """Where this one of several processes shows its numbers: each has a port of its own, one after the other."""
        place = self.metrics.address()
        if place is None or not place[1] or not worker:
            return self.metrics
        host, port = place
        listen = f"[{host}]:{port + worker}" if ":" in host else f"{host}:{port + worker}"
        return msgspec.structs.replace(self.metrics, listen=listen)


def load(path: Path) -> Config:
    """Read and check ``api.toml``.

    Raises:
        ConfigError: unreadable, not TOML, unknown key, wrong type, or a value that cannot be meant.
    """
    conf = config.load(path, Config)
    if not _REALM.fullmatch(conf.api.realm):
        raise ConfigError(f"{path}: [api] realm {conf.api.realm!r} is not a realm (capital letters, digits, dots)")
    if not conf.cache.servers:
        raise ConfigError(f"{path}: [cache] servers must name at least one credential cache")
    for row in conf.files:
        for key, value in (("prefix", row.prefix), ("export", row.export)):
            if not value.startswith("/") or "/.." in value:
                raise ConfigError(f"{path}: [[files]] {key} {value!r} is not an absolute path")
    _check_paths(path, conf)
    _, port = address(conf.api.listen)
    if conf.api.processes > 1 and not port:
        raise ConfigError(f"{path}: [api] listen must name its port where processes is more than 1")
    together = conf.api.processes * (conf.slurm.connections + 1)
    if together > SLURMRESTD_TAKES or conf.slurm.connections < 1:
        raise ConfigError(
            f"{path}: {conf.api.processes} processes with [slurm] connections = {conf.slurm.connections} each, and one"
            f" more each, are {together} connections; slurmrestd takes 2 to {SLURMRESTD_TAKES}"
        )
    return conf


_SHARE = re.compile(r"//[^/\s]+/[^/\s][^\n]*|\[?[^/\s]+:/[^\n]*")


def _check_paths(file: Path, conf: Config) -> None:
    """What goes to every laptop must be meant as it stands."""
    programs = {"python": conf.hipercow.python, "r": conf.hipercow.r}
    absolute = [("[[paths]] path", row.path) for row in conf.paths]
    absolute += [
        (f'[hipercow] {key} "{version}"', it) for key, all_ in programs.items() for version, it in all_.items()
    ]
    for key, value in absolute:
        if not value.startswith("/") or "/../" in f"{value}/":
            raise ConfigError(f"{file}: {key} {value!r} is not an absolute path")
    for row in conf.paths:
        if not _SHARE.fullmatch(row.share):
            raise ConfigError(
                f"{file}: [[paths]] share {row.share!r} is not a share", hint='"//server/share" or "server:/export"'
            )


def address(listen: str) -> tuple[str, int]:
    """Split ``address:port`` or ``[ipv6]:port``.

    Raises:
        ConfigError: it is neither.
    """
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^:\[\]]+)):(\d{1,5})", listen)
    if match is None or not 0 <= int(match[3]) <= 65535:
        raise ConfigError(f'listen {listen!r} is not "address:port"', hint='for example listen = "0.0.0.0:8443"')
    return match[1] or match[2], int(match[3])


def with_realm(principal: str, realm: str) -> str:
    """The full principal: ``@realm`` appended unless one is named."""
    return principal if "@" in principal else f"{principal}@{realm}"
