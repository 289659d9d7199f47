"""What the node agent reads at start: ``agent.toml``. Also read by ``hipercow-slurm upload`` for ``[cache]``."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from hipercow_slurm import config
from hipercow_slurm.agent import place
from hipercow_slurm.errors import ConfigError

Policy = Literal["require", "warn", "allow"]


class CacheServer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One credential cache: AUKS wire address and the principal it proves itself with; ``nat``: in AUKS' NAT mode."""

    host: str
    principal: str
    port: int = 12345
    nat: bool = False


class CacheConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[cache]``: the servers, tried in this order; the rest is for ``upload`` and ``auks``, not the agent.

    Attributes:
        cross_realm: realm to get a TGT for, beside the user's own, before both go to the cache.
        helper: what ``auks -R`` runs after each renewal, with KRB5CCNAME set.
    """

    servers: list[CacheServer]
    cross_realm: str = ""
    helper: str = ""


class AgentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[agent]``.

    Attributes:
        socket: unix socket the SPANK plugin asks.
        ccache: where a job's ticket goes; ``%u`` is the uid, ``%j`` the job id, ``%%`` a percent sign. A path (FILE),
            or ``DIR:``, ``KEYRING:persistent:%u:``, ``KEYRING:user:NAME:``, ``KCM:%u:`` and more with ``%j`` in it.
            rpc.gssd finds files only if the name contains ``krb5cc`` and the directory is one of those it scans.
        default_ccache: what the user's processes without a KRB5CCNAME take, and the kernel when it renews an SMB
            session: made a link to a job's file, ``%u`` is the uid. If left out, ``/tmp/krb5cc_%u`` where ``ccache``
            is a file in ``/tmp``, and none elsewhere. ``""``: none. A file or link that is not the agent's stays.
        state_dir: one small file per job, so that a restarted agent goes on; no secrets in it.
        keytab, principal: the node's own key; the default principal is ``host/`` and this host's full name.
        policy: what a job without a ticket means: require, warn or allow.
        minimum_uid: below it no job gets a ticket.
        answer_s: the longest a starting job waits for its ticket; must be less than the plugin's ``timeout_ms``.
        poll_s: how often the cache is asked, per uid, whether there is a newer ticket.
        sweep_s: how often jobs are looked for whose end nobody told us.
        helper: program to run as the job's user after each change of its ticket (AFS and EOS tokens); none by default.
        helper_s: the longest that may take; a starting job waits for it within ``answer_s``.
        scontrol: Slurm's program, by which policy ``require`` puts a job back into the queue.
    """

    socket: str = "/run/hipercow-slurm/agent/agent.sock"
    ccache: str = "/tmp/krb5cc_%u_%j"  # noqa: S108  the place rpc.gssd scans; install.py makes it safe
    default_ccache: str | None = None
    state_dir: str = "/var/lib/hipercow-slurm/agent"
    keytab: str = "/etc/krb5.keytab"
    principal: str | None = None
    policy: Policy = "warn"
    minimum_uid: int = 1000
    answer_s: float = 4.0
    poll_s: float = 30.0
    sweep_s: float = 60.0
    helper: str | None = None
    helper_s: float = 10.0
    scontrol: str = "scontrol"


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    cache: CacheConfig
    agent: AgentConfig = msgspec.field(default_factory=AgentConfig)


@dataclass(frozen=True, slots=True)
class CCachePattern:
    """The configured place of a job's ccache, checked: ``name(uid, job_id)`` is a full name and one per job."""

    text: str

    def __post_init__(self) -> None:
        kind, rest = place.split(self.text)
        signs = re.findall(r"%(.?)", self.text.replace("%%", ""))
        if kind in place.FILES:
            self._check_path(rest)
        elif not re.match(r"(KEYRING:(persistent:%u|user:[^:/]+):|KCM:%u:)[^:/]+$", self.text):
            raise ConfigError(
                f"agent.ccache {self.text!r} is no place for a job's ticket",
                hint="a path, DIR:/PATH, KEYRING:persistent:%u:%j, KEYRING:user:NAME:%j or KCM:%u:%j",
            )
        if not set(signs) <= {"u", "j"}:
            raise ConfigError(f"agent.ccache {self.text!r}: only %u (uid), %j (job id) and %% are known")
        if "j" not in signs:
            raise ConfigError(
                f"agent.ccache {self.text!r} lacks %j",
                hint="each job needs its own ccache, or the first to end takes the ticket away",
            )
        if len(self.name(2**32 - 2, 2**32 - 2)) > 400 or not self.text.isprintable() or " " in self.text:
            raise ConfigError(f"agent.ccache {self.text[:60]!r}... is too long, or has blanks in it")

    def _check_path(self, path: str) -> None:
        if not path.startswith("/") or path.endswith("/"):
            raise ConfigError(f"agent.ccache {self.text!r} must be an absolute path")
        if ".." in path.split("/") or "//" in path:
            raise ConfigError(f"agent.ccache {self.text!r} must not contain '..' or '//'")

    @property
    def fixed_folder(self) -> str | None:
        """The part of its directory that is the same for all users; None if it is no file."""
        folder = place.folder_of(self.text)
        if folder is None:
            return None
        return folder if "%" not in folder else folder.partition("%")[0].rpartition("/")[0] or "/"

    def could_be(self, uid: int, path: str) -> bool:
        """Whether ``path`` is that of the ccache of a job of ``uid``, whichever job."""
        signs = {"%u": str(uid), "%j": "[0-9]{1,10}", "%%": "%"}
        parts = re.split(r"(%[uj%])", self._rest)
        return bool(re.fullmatch("".join(signs.get(part, re.escape(part)) for part in parts), path))

    def name(self, uid: int, job_id: int) -> str:
        """The full name of one job's ccache, ``FILE:/tmp/krb5cc_5001_42``."""
        values = {"%u": str(uid), "%j": str(job_id), "%%": "%"}
        return ":".join((place.split(self.text)[0], re.sub(r"%[uj%]", lambda found: values[found[0]], self._rest)))

    @property
    def _rest(self) -> str:
        return place.split(self.text)[1]


def read(path: Path) -> File:
    """Read and check ``path``.

    Raises:
        ConfigError: see ``hipercow_slurm.config.load``; also for a value that no agent can work with.
    """
    file = config.load(path, File)
    CCachePattern(file.agent.ccache)
    default_ccache(file.agent)
    if not file.cache.servers:
        raise ConfigError(f"{path}: cache.servers is empty")
    for server in file.cache.servers:
        if not 0 < server.port < 65536:
            raise ConfigError(f"{path}: cache.servers: port {server.port} of {server.host} is no port")
    for name in ("answer_s", "poll_s", "sweep_s", "helper_s"):
        if not 0 < getattr(file.agent, name) <= 3600:
            raise ConfigError(f"{path}: agent.{name} must be more than 0 and at most 3600 seconds")
    if file.agent.minimum_uid < 1:
        raise ConfigError(f"{path}: agent.minimum_uid must be at least 1: root's jobs never get a ticket")
    return file


def default_ccache(agent: AgentConfig) -> str | None:
    """The path, with ``%u``, that is to be a link to a job's file; None: there is none.

    Raises:
        ConfigError: it cannot be one.
    """
    kind, _ = place.split(agent.ccache)
    if agent.default_ccache is None:
        automatic = kind == "FILE" and place.folder_of(agent.ccache) == "/tmp"  # noqa: S108
        return "/tmp/krb5cc_%u" if automatic else None  # noqa: S108
    if not agent.default_ccache:
        return None
    path = agent.default_ccache.removeprefix("FILE:")
    if kind != "FILE":
        raise ConfigError(f"agent.default_ccache is a link to a file, and agent.ccache is {agent.ccache!r}")
    if not path.startswith("/") or ".." in path.split("/") or not path.isprintable() or " " in path:
        raise ConfigError(f"agent.default_ccache {path!r} must be an absolute path")
    if path.count("%") != 1 or "%u" not in path.rpartition("/")[2]:
        raise ConfigError(f"agent.default_ccache {path!r} must have %u, and nothing else of the kind, in its last part")
    return path


def host_principal(configured: str | None) -> str:
    """The configured principal, or ``host/`` and this host's full name in lower case."""
    if configured:
        return configured
    name = socket.gethostname()
    return "host/" + (name if "." in name else socket.getfqdn(name)).lower()
